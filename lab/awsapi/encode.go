package awsapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"errors"
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
	case JSON, RESTJSON:
		body, err = json.Marshal(result)
	case Query:
		body, err = queryResult(c, id, result)
	case EC2:
		body, err = ec2Result(c, id, result)
	case RESTXML:
		body, err = xml.Marshal(result)
	}
	if err == nil && result == nil {
		err = errNoResult
	}
	if err != nil {
		writeError(w, c.Service.Protocol, c.Service.Namespace, id, c.Service.Protocol.common(errInternal, err.Error()))
		return err
	}
	write(w, c.Service.Protocol, id, cmp.Or(c.Service.Ops[c.Action].Status, http.StatusOK), body)
	return nil
}

func queryResult(c *Call, id string, result any) ([]byte, error) {
	type metadata struct{ RequestId string }
	return envelope(c.Action+"Response", c.Service.Namespace,
		element{c.Action + "Result", result}, element{"ResponseMetadata", metadata{id}})
}

// ec2Result has the members of the result beside the request id, in no element of their own.
func ec2Result(c *Call, id string, result any) ([]byte, error) {
	name := c.Action + "Response"
	body, err := envelope(name, c.Service.Namespace, element{"requestId", id}, element{"r", result})
	body = bytes.Replace(body, []byte("<r>"), nil, 1)
	return bytes.Replace(body, []byte("</r></"+name+">"), []byte("</"+name+">"), 1), err
}

// element is a part of an answer in XML.
type element struct {
	name  string
	value any
}

// envelope marshals the parts into one element.
func envelope(name, namespace string, parts ...element) ([]byte, error) {
	var buf bytes.Buffer
	buf.WriteString(xml.Header)
	enc := xml.NewEncoder(&buf)
	outer := xml.StartElement{Name: xml.Name{Local: name}}
	if namespace != "" {
		outer.Attr = []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: namespace}}
	}
	errs := []error{enc.EncodeToken(outer)}
	for _, p := range parts {
		errs = append(errs, enc.EncodeElement(p.value, xml.StartElement{Name: xml.Name{Local: p.name}}))
	}
	errs = append(errs, enc.EncodeToken(outer.End()), enc.Close())
	return buf.Bytes(), errors.Join(errs...)
}

func writeError(w http.ResponseWriter, p Protocol, namespace, id string, e *Error) {
	var body []byte
	var err error
	switch p {
	case JSON:
		w.Header().Set("X-Amzn-Errortype", e.Code)
		body, err = json.Marshal(map[string]string{"__type": e.Code, "message": e.Message})
	case RESTJSON: // the type is in the header alone
		w.Header().Set("X-Amzn-Errortype", e.Code)
		body, err = json.Marshal(map[string]string{"message": e.Message})
	case Query:
		body, err = queryError(namespace, id, e)
	case EC2:
		body, err = ec2Error(id, e)
	case RESTXML:
		body, err = restXMLError(e)
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
	type fields struct{ Type, Code, Message string }
	return envelope("ErrorResponse", namespace, element{"Error", fields{fault, e.Code, e.Message}}, element{"RequestId", id})
}

func ec2Error(id string, e *Error) ([]byte, error) {
	type one struct{ Code, Message string }
	return envelope("Response", "", element{"Errors", struct{ Error one }{one{e.Code, e.Message}}}, element{"RequestID", id})
}

// restXMLError has the error's code as the name of its element.
func restXMLError(e *Error) ([]byte, error) {
	var buf bytes.Buffer
	err := xml.NewEncoder(&buf).EncodeElement(struct{ Message string }{e.Message}, xml.StartElement{Name: xml.Name{Local: e.Code}})
	return buf.Bytes(), err
}

func write(w http.ResponseWriter, p Protocol, id string, status int, body []byte) {
	contentType := "text/xml;charset=UTF-8"
	switch p {
	case JSON:
		contentType = "application/x-amz-json-1.1"
	case RESTJSON:
		contentType = "application/json"
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Amzn-Requestid", id)
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone needs none
}
