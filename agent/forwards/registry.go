package forwards

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Max bounds the forwards of one request, and those of a Registry that serve or open.
const Max = 256

// Registry has the forwards. The zero Registry is empty. Its methods and those of its forwards need one lock around them.
type Registry struct {
	forwards []*Forward // in the order in which they came; none has Ended
	kept     uint64
}

// Asked is a forward that a request asks for.
type Asked struct {
	Record   Record // Request.Name is the name that was asked for; "": one is chosen when the forward is Ready
	Detached bool
	PID      int
}

// Open takes the forwards of a request as Opening, all of them or none. It refuses a name that another forward of the scope holds.
func (r *Registry) Open(asked []Asked, now time.Time) (_ []*Forward, err error) {
	before := len(r.forwards)
	defer func() {
		if err != nil {
			r.forwards = r.forwards[:before]
		}
	}()
	busy := 0
	for _, f := range r.forwards {
		if f.state != Unopened {
			busy++
		}
	}
	if busy+len(asked) > Max {
		return nil, fail.New(fail.Usage, "", fmt.Errorf("there would be more than %d forwards", Max), "stop some: bastion stop NAME")
	}
	for _, a := range asked {
		f := &Forward{record: a.Record, detached: a.Detached, pid: a.PID, opened: now}
		if f.Name() != "" {
			if holder := r.holder(f, f.Name()); holder != nil {
				return nil, taken(f.Name(), holder)
			}
		}
		f.mustMove(Opening)
		r.forwards = append(r.forwards, f)
	}
	return slices.Clone(r.forwards[before:]), nil
}

// Restore takes a forward that was written down as Unopened. Of two with the same name in the same scope, the later one stays.
func (r *Registry) Restore(record Record, now time.Time) *Forward {
	f := &Forward{record: record, detached: true, opened: now, since: now}
	for _, other := range r.All() {
		if other.state == Unopened && other.record.ident() == record.ident() {
			r.End(other, errReplaced)
		}
	}
	f.mustMove(Unopened)
	r.forwards = append(r.forwards, f)
	r.kept++
	return f
}

// Ready makes an Opening forward serve by what is known of it now. A name that was not asked for is made free by a number. It returns the
// Unopened forwards whose place a detached one takes: these have Ended.
func (r *Registry) Ready(f *Forward, record Record, now time.Time) (replaced []*Forward, err error) {
	if err := f.move(Opening, Ready); err != nil {
		return nil, err
	}
	asked := f.Name()
	f.record, f.opened = record, now
	if f.record.Request.Name = asked; asked == "" {
		f.record.Request.Name = r.freeName(f, record.Request.Name)
	}
	if f.detached {
		for _, other := range r.All() {
			if other.state == Unopened && f.claims(other) {
				r.End(other, errReplaced)
				replaced = append(replaced, other)
			}
		}
		r.kept++
	}
	return replaced, nil
}

var errReplaced = errors.New("another forward of the same target has taken its place")

// Reopen makes an Unopened forward serve at the given address, through the given link. It refuses a forward whose name another one
// holds meanwhile.
func (r *Registry) Reopen(f *Forward, listen, link string, now time.Time) error {
	if f.state == Unopened && slices.ContainsFunc(r.forwards, func(other *Forward) bool { return other != f && other.claims(f) }) {
		return errors.New("there is another of this name")
	}
	if err := f.move(Unopened, Ready); err != nil {
		return err
	}
	if f.record.Request.Listen != listen || f.record.Link != link {
		f.record.Request.Listen, f.record.Link = listen, link
		r.kept++
	}
	f.opened, f.fault, f.since = now, nil, time.Time{}
	return nil
}

// Fail notes why a forward does not work, and from when on another attempt makes sense (zero: at once). It reports whether that is news
// to others; of a forward in a state without failures nothing is.
func (r *Registry) Fail(f *Forward, err error, retry, now time.Time) (news bool) {
	switch f.state {
	case Unopened:
		retry = time.Time{} // the agent itself tries again
	case Ready:
		f.mustMove(Failed)
		f.since = now
	case Failed:
	default:
		return false
	}
	news = f.fault == nil || f.fault.Error() != err.Error()
	f.fault, f.retry = err, retry
	return news
}

// Recover notes that a Failed forward works, and reports whether that is news.
func (r *Registry) Recover(f *Forward) (news bool) {
	if f.move(Failed, Ready) != nil {
		return false
	}
	f.fault, f.since, f.retry = nil, time.Time{}, time.Time{}
	return true
}

// SetAccount notes the AWS account of a forward, once it is known.
func (r *Registry) SetAccount(f *Forward, account string) {
	if f.record.Account != account {
		f.record.Account = account
		r.kept++
	}
}

// End takes a forward out of the registry, and reports whether it was there.
func (r *Registry) End(f *Forward, why error) bool {
	last := f.state
	if f.move(last, Ended) != nil {
		return false
	}
	f.last, f.why = last, why
	r.forwards = slices.DeleteFunc(r.forwards, func(other *Forward) bool { return other == f })
	if f.detached && last != Opening {
		r.kept++
	}
	return true
}

// All returns the forwards that others see: all but those that are Opening.
func (r *Registry) All() []*Forward {
	return slices.DeleteFunc(slices.Clone(r.forwards), func(f *Forward) bool { return f.state == Opening })
}

// Unopened returns the forwards whose port is to be opened again, by their names.
func (r *Registry) Unopened() []*Forward {
	out := slices.DeleteFunc(slices.Clone(r.forwards), func(f *Forward) bool { return f.state != Unopened })
	slices.SortStableFunc(out, func(x, y *Forward) int {
		a, b := x.record.ident(), y.record.ident()
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.scope.profile, b.scope.profile), cmp.Compare(a.scope.region, b.scope.region))
	})
	return out
}

// At returns the forward that listens at an address; nil if none does.
func (r *Registry) At(listen string) *Forward {
	for _, f := range r.forwards {
		if f.Serves() && f.record.Request.Listen == listen {
			return f
		}
	}
	return nil
}

// Kept returns the records to write down: those of the detached forwards that are to come back. Its revision changes with them.
func (r *Registry) Kept() (records []Record, revision uint64) {
	for _, f := range r.All() {
		if f.detached {
			records = append(records, f.record)
		}
	}
	return records, r.kept
}
