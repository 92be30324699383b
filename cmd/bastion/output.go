package main

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync/atomic"
	"syscall"

	"github.com/bastion-ssm/bastion/internal/config"
)

// outputError is the failure of a write to standard output.
type outputError struct{ error }

func (e *outputError) Unwrap() error { return e.error }

// output marks the errors of standard output as such, and keeps the first: not all that writes there, such as the library for the
// command line, returns it.
type output struct {
	w      io.Writer
	failed atomic.Pointer[outputError]
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		failed := &outputError{err}
		o.failed.CompareAndSwap(nil, failed)
		err = failed
	}
	return n, err
}

// outcome returns err, the end of a command, or that its output could not be written.
func (o *output) outcome(err error) error {
	if failed := o.failed.Load(); err == nil && failed != nil && !readerGone(failed) {
		return failed
	}
	return err
}

// readerGone reports whether a command ended because the reader of its output has had enough, as head has.
func readerGone(err error) bool {
	_, ok := errors.AsType[*outputError](err)
	return ok && errors.Is(err, syscall.EPIPE)
}

// outcome prints what a command has done: a sentence, or v where JSON is wanted.
func (a *app) outcome(s config.Settings, v any, text string) error {
	if s.Output.Format == "json" {
		return a.printJSON(v)
	}
	return printf(a.out, "%s\n", text)
}

// wantsJSON reports whether the command line asks for JSON. It is for texts that shells and ssh read: a setting of the configuration
// does not change those.
func (a *app) wantsJSON() bool { return a.flags["output"] == "json" }

// document prints a text for programs: as it is, or as a JSON string under the given key.
func (a *app) document(key, text string) error {
	if a.wantsJSON() {
		return a.printJSON(map[string]string{key: text})
	}
	_, err := fmt.Fprint(a.out, text)
	return err
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// listed returns v with empty lists and maps in place of missing ones: a reader of JSON need not expect null for a list.
func listed(v reflect.Value) reflect.Value {
	if !v.IsValid() || v.Type().Implements(jsonMarshaler) || v.Type().Implements(textMarshaler) {
		return v
	}
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		if v.IsNil() {
			return v
		}
		out := reflect.New(v.Elem().Type())
		out.Elem().Set(listed(v.Elem()))
		if v.Kind() == reflect.Interface {
			return out.Elem()
		}
		return out
	case reflect.Struct:
		out := reflect.New(v.Type()).Elem()
		out.Set(v)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out.Field(i).Set(listed(v.Field(i)))
			}
		}
		return out
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return v
		}
		out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			out.Index(i).Set(listed(v.Index(i)))
		}
		return out
	case reflect.Map:
		out := reflect.MakeMapWithSize(v.Type(), v.Len())
		for at := v.MapRange(); at.Next(); {
			out.SetMapIndex(at.Key(), listed(at.Value()))
		}
		return out
	}
	return v
}
