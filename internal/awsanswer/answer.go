// Package awsanswer is the table of AWS's answers: what an AWS service's error means, whether the same call may succeed later,
// and the user's next step.
//
// A code alone does not tell: ECS answers InvalidParameterException to a wrong parameter and to a task that is still starting.
// So each rule of the table looks at the operation, the code and the text. No other package judges an answer.
//
// The package knows the SDK's errors only by their methods, because packages that report errors must not depend on the SDK.
package awsanswer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
)

// Class is an answer's meaning for the caller.
type Class uint8

// The classes. The zero class is a call without an answer: it did not reach AWS, or its time was over.
const (
	None           Class = iota
	Final                // the same call gets the same answer
	Transient            // AWS, or a gateway before it, failed: the same call may succeed soon
	Throttled            // calls come too fast
	NotConnected         // the target's agent is not connected (yet); AWS gives the same answer for a stopped target
	LimitReached         // the maximum of sessions or tasks is reached: the call succeeds when one of them ends
	Denied               // refused by a policy; see Policy
	Expired              // the credentials have expired
	BadCredentials       // the credentials are missing, unknown or wrong
	NotFound             // the resource that the call names does not exist
	Config               // the settings in the call cannot work
	Unsupported          // the target or the account does not take this document or feature
	Foreign              // a proxy or a firewall answered in AWS's place
)

var classNames = [...]string{
	"none", "final", "transient", "throttled", "not connected", "limit reached", "denied", "expired credentials",
	"bad credentials", "not found", "unusable configuration", "unsupported", "not from AWS",
}

func (c Class) String() string { return classNames[c] }

// Passes reports whether the same call may succeed after a while without anyone's action.
func (c Class) Passes() bool {
	switch c {
	case Transient, Throttled, NotConnected, LimitReached:
		return true
	}
	return false
}

// Answer is a service's error answer and its meaning.
type Answer struct {
	Operation string // for example "StartSession"; empty: unknown
	Code      string
	Message   string
	Status    int // HTTP status; 0: unknown

	Class    Class
	Policy   Policy // the denying policy's kind, for Denied
	Explicit bool   // for Denied: a statement denies the call; false: no statement allows it
	Action   string // for Denied: the missing IAM action, which may differ from the call's
	Resource string // for Denied: the ARN in AWS's message; may be empty
	Limit    int    // for LimitReached: the maximum, if AWS names it
	Next     string // an imperative sentence for the user; may be empty

	kind       string // for Denied: the policy's kind in AWS's words
	unreadable string // for a success: why its answer cannot be read
	page       string // for a page in AWS's place: its sender, as far as it is known
}

// Of returns the answer in err's chain and its meaning. Without an answer, the class is None.
func Of(err error) Answer {
	if err == nil {
		return Answer{}
	}
	a := Answer{Operation: operation(err)}
	var status interface{ HTTPStatusCode() int }
	if errors.As(err, &status) {
		a.Status = status.HTTPStatusCode()
	}
	page, isPage := errors.AsType[interface {
		error
		Page() string
		HTTPStatusCode() int
	}](err)
	var api interface {
		ErrorCode() string
		ErrorMessage() string
	}
	switch {
	case isPage:
		a.Status, a.Code, a.page = page.HTTPStatusCode(), unknownError, page.Page()
	case errors.As(err, &api):
		a.Code, a.Message = api.ErrorCode(), api.ErrorMessage()
	case a.Status == 0, a.Status < 300 && Unreached(err):
		return Answer{}
	default:
		a.Code = unknownError // the SDK's code for an answer without one
		if _, why, ok := strings.Cut(err.Error(), "deserialization failed, "); ok && a.Status < 300 {
			a.unreadable = why
		}
	}
	a = Judge(a)
	if signingIn(err) && !a.Class.Passes() && a.Class != Foreign {
		// The answer is to a call for credentials (AssumeRole, GetRoleCredentials), not to the caller's own call.
		switch {
		case a.Class == Denied && a.Action != "":
			a.Next = a.NextDenied("") // signing in again would not help
		case a.Next == "" || a.Class == Expired || a.Class == Denied:
			a.Next = NextSignIn
		}
		a.Action, a.Policy = "", NoPolicy
		if a.Class != Expired {
			a.Class = BadCredentials
		}
	}
	return a
}

// Unreached reports whether a call failed on its way to AWS or back, also within an answer.
func Unreached(err error) bool {
	return errors.As(err, new(net.Error)) || errors.Is(err, io.ErrUnexpectedEOF)
}

// NeedsSignIn reports whether the next step is to renew the credentials. The caller knows better how.
func (a Answer) NeedsSignIn() bool {
	return a.Next == NextSignIn || a.Next == nextExpired || a.Next == nextKeys
}

// Unread reports whether the call has a success status but an unreadable answer: it may have done its work.
func (a Answer) Unread() bool { return a.Class == Foreign && a.Status/100 == 2 }

// String returns AWS's code and message, or a text that says that AWS did not answer.
func (a Answer) String() string {
	switch {
	case a.page != "":
		return fmt.Sprintf("HTTP %d in AWS's place: %s", a.Status, a.page)
	case a.unreadable != "":
		return fmt.Sprintf("HTTP %d with an answer that is not in AWS's form: %s", a.Status, a.unreadable)
	case a.Code == "" || bareCode(a.Code) == "unknownerror" && (a.Message == "" || a.Message == a.Code):
		return fmt.Sprintf("HTTP %d, without AWS's form: a proxy, a firewall or a gateway answered", a.Status)
	case bareCode(a.Code) == "unknownerror":
		return fmt.Sprintf("HTTP %d %q, without AWS's form: a proxy, a firewall or a gateway answered", a.Status, a.Message)
	case a.Message == "":
		return a.Code
	}
	return a.Code + ": " + a.Message
}

// ClassOf returns the class of the answer in err's chain.
func ClassOf(err error) Class { return Of(err).Class }

// unknownError is the SDK's code for an answer without AWS's form.
const unknownError = "UnknownError"

// operation returns the innermost operation in err's chain. A call that fetches credentials adds a second one.
func operation(err error) (name string) {
	for ; err != nil; err = errors.Unwrap(err) {
		if op, ok := err.(interface {
			Service() string
			Operation() string
		}); ok {
			name = op.Operation()
		}
	}
	return name
}

// signingIn reports whether a call failed for lack of credentials. The SDK exports no type for this error.
func signingIn(err error) bool {
	s := err.Error()
	return strings.Contains(s, "failed to refresh cached credentials") || strings.Contains(s, "get credentials: ")
}

// Judge returns a with its meaning, by its operation, code, message and status.
func Judge(a Answer) Answer {
	code, text := bareCode(a.Code), strings.ToLower(a.Message)
	rules := table
	if a.Operation == StoppedTask {
		rules = stops
	}
	for i := range rules {
		if r := &rules[i]; r.matches(&a, code, text) {
			a.Class, a.Next = r.class, r.next
			break
		}
	}
	switch a.Class {
	case Denied:
		a.readDenial()
		if a.Policy == NoPolicy && strings.Contains(text, "encoded authorization failure") {
			a.Next = "aws sts decode-authorization-message shows which policy denies it"
		}
	case LimitReached:
		if found := sessionLimit().FindStringSubmatch(text); found != nil {
			if n, err := strconv.Atoi(found[1]); err == nil {
				a.Limit = n
			}
		}
	}
	return a
}

// bareCode returns a code in lower case without its namespace, URL, and suffix (Exception, Fault).
func bareCode(code string) string {
	if i := strings.LastIndexByte(code, '#'); i >= 0 {
		code = code[i+1:]
	}
	code, _, _ = strings.Cut(code, ":")
	return strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(code, "Exception"), "Fault"))
}

// rule is a row of the table. Empty fields match anything.
type rule struct {
	operation string
	codes     string                // bare, in lower case, separated by spaces; a * at the start or end matches any characters
	text      func() *regexp.Regexp // of the message in lower case
	status    int                   // or its hundreds: 5 is 500 to 599

	class Class
	next  string
}

func (r *rule) matches(a *Answer, code, text string) bool {
	return (r.operation == "" || r.operation == a.Operation) &&
		(r.codes == "" || listed(r.codes, code)) &&
		(r.text == nil || r.text().MatchString(text)) &&
		(r.status == 0 || r.status == a.Status || r.status == a.Status/100)
}

func listed(codes, code string) bool {
	for c := range strings.FieldsSeq(codes) {
		prefix, begins := strings.CutSuffix(c, "*")
		suffix, ends := strings.CutPrefix(c, "*")
		if c == code || begins && strings.HasPrefix(code, prefix) || ends && strings.HasSuffix(code, suffix) {
			return true
		}
	}
	return false
}
