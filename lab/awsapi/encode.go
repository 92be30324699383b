package awsapi

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"maps"
	"net/http"
	"strconv"
	"time"
)

// Time is a time in a JSON answer: seconds since the epoch with milliseconds.
type Time time.Time

// At returns t for an answer; nil for the zero time, which omits the member.
func At(t time.Time) *Time {
	if t.IsZero() {
		return nil
	}
	at := Time(t)
	return &at
}

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Time(t).UnixMilli())/1000, 'f', 3, 64), nil
}

func writeResult(w http.ResponseWriter, c *Call, id string, result any) error {
	var body []byte
	var err error
	switch c.Service.Protocol {
	case JSON:
		body, err = json.Marshal(result)
	case Query:
		body, err = queryResult(c, id, result)
	case EC2:
		body, err = ec2Result(c, id, result)
	}
	if err == nil && result == nil {
		err = errNoResult
	}
	if err != nil {
		writeError(w, c.Service.Protocol, c.Service.Namespace, id, c.Service.Protocol.common(errInternal, err.Error()))
		return err
	}
	write(w, c.Service.Protocol, id, http.StatusOK, body)
	return nil
}

func queryResult(c *Call, id string, result any) ([]byte, error) {
	inner, err := marshalXML(c.Action+"Result", result)
	if err != nil {
		return nil, err
	}
	type metadata struct{ RequestId string }
	meta, err := marshalXML("ResponseMetadata", metadata{id})
	if err != nil {
		return nil, err
	}
	return envelope(c.Action+"Response", c.Service.Namespace, inner, meta)
}

// ec2Result puts the request id before the members of the result, in one element.
func ec2Result(c *Call, id string, result any) ([]byte, error) {
	const outer = "r"
	inner, err := marshalXML(outer, result)
	if err != nil {
		return nil, err
	}
	inner = bytes.TrimSuffix(bytes.TrimPrefix(inner, []byte("<"+outer+">")), []byte("</"+outer+">"))
	meta, err := marshalXML("requestId", id)
	if err != nil {
		return nil, err
	}
	return envelope(c.Action+"Response", c.Service.Namespace, meta, inner)
}

func marshalXML(name string, v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := xml.NewEncoder(&buf)
	if err := enc.EncodeElement(v, xml.StartElement{Name: xml.Name{Local: name}}); err != nil {
		return nil, err
	}
	return buf.Bytes(), enc.Close()
}

func envelope(name, namespace string, parts ...[]byte) ([]byte, error) {
	type element struct {
		Inner []byte `xml:",innerxml"`
	}
	var buf bytes.Buffer
	buf.WriteString(xml.Header)
	start := xml.StartElement{Name: xml.Name{Local: name}}
	if namespace != "" {
		start.Attr = []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: namespace}}
	}
	err := xml.NewEncoder(&buf).EncodeElement(element{bytes.Join(parts, nil)}, start)
	return buf.Bytes(), err
}

func writeError(w http.ResponseWriter, p Protocol, namespace, id string, e *Error) {
	var body []byte
	var err error
	switch p {
	case JSON:
		fields := map[string]any{"__type": e.Code, "message": e.Message}
		maps.Copy(fields, e.Fields)
		w.Header().Set("X-Amzn-Errortype", e.Code)
		body, err = json.Marshal(fields)
	case Query:
		body, err = queryError(namespace, id, e)
	case EC2:
		body, err = ec2Error(id, e)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	write(w, p, id, e.Status, body)
}

func queryError(namespace, id string, e *Error) ([]byte, error) {
	fault := "Sender"
	if e.Status >= 500 {
		fault = "Receiver"
	}
	inner, err := marshalXML("Error", struct{ Type, Code, Message string }{fault, e.Code, e.Message})
	if err != nil {
		return nil, err
	}
	rid, err := marshalXML("RequestId", id)
	if err != nil {
		return nil, err
	}
	return envelope("ErrorResponse", namespace, inner, rid)
}

func ec2Error(id string, e *Error) ([]byte, error) {
	type one struct{ Code, Message string }
	inner, err := marshalXML("Errors", struct{ Error one }{one{e.Code, e.Message}})
	if err != nil {
		return nil, err
	}
	rid, err := marshalXML("RequestID", id)
	if err != nil {
		return nil, err
	}
	return envelope("Response", "", inner, rid)
}

func write(w http.ResponseWriter, p Protocol, id string, status int, body []byte) {
	contentType := "text/xml;charset=UTF-8"
	if p == JSON {
		contentType = "application/x-amz-json-1.1"
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Amzn-Requestid", id)
	w.WriteHeader(status)
	_, _ = w.Write(body) //nolint:gosec // JSON or XML for an API's client, not for a browser; one that has gone needs none
}
