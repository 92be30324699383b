package forwards

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Max bounds the forwards of one request, and the serving and opening forwards of a Registry.
const Max = 256

// Registry has the forwards. The zero Registry is empty. One lock must guard its methods and those of its forwards.
type Registry struct {
	forwards []*Forward // in the order of their arrival, without Ended ones
	kept     uint64
}

// Asked is a requested forward.
type Asked struct {
	Record   Record // Request.Name is the requested name; "": Ready chooses one
	Detached bool
	PID      int
}

// Open enters a request's forwards as Opening, all or none. It refuses a name that another forward of the scope holds.
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
		return nil, fail.New(fail.Usage, "", fmt.Errorf("the agent has room for %d forwards", Max), "stop some: bastion stop NAME")
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

// Restore enters a saved forward as Unopened. Of two with the same name and scope, the later one stays.
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

// Ready makes an Opening forward serve with its final record. If a name was not requested, a number makes it unique. Ready
// returns the Unopened forwards that a detached one replaces; it ends them.
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

// Reopen makes an Unopened forward serve at the given address through the given link. It refuses a forward whose name another
// one has taken meanwhile.
func (r *Registry) Reopen(f *Forward, listen, link string, now time.Time) error {
	if f.state == Unopened && slices.ContainsFunc(r.forwards, func(other *Forward) bool { return other != f && other.claims(f) }) {
		return errors.New("another forward has this name")
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

// Fail notes why a forward does not work, and the earliest time of another attempt (zero: at once). It reports whether the
// error is new to observers. It ignores a forward whose state cannot fail.
func (r *Registry) Fail(f *Forward, err error, retry, now time.Time) (news bool) {
	switch f.state {
	case Unopened:
		retry = time.Time{} // the agent itself retries
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

// Recover notes that a Failed forward works, and reports whether it was Failed.
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

// End removes a forward from the registry and reports whether it was there.
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

// All returns the forwards that the API shows: all but Opening ones.
func (r *Registry) All() []*Forward {
	return slices.DeleteFunc(slices.Clone(r.forwards), func(f *Forward) bool { return f.state == Opening })
}

// Unopened returns the forwards that wait for their port, by their names.
func (r *Registry) Unopened() []*Forward {
	out := slices.DeleteFunc(slices.Clone(r.forwards), func(f *Forward) bool { return f.state != Unopened })
	slices.SortStableFunc(out, func(x, y *Forward) int {
		a, b := x.record.ident(), y.record.ident()
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.scope.profile, b.scope.profile), cmp.Compare(a.scope.region, b.scope.region))
	})
	return out
}

// At returns the forward that listens at an address; nil: none.
func (r *Registry) At(listen string) *Forward {
	for _, f := range r.forwards {
		if f.Serves() && f.record.Request.Listen == listen {
			return f
		}
	}
	return nil
}

// Kept returns the records to save: those of the detached forwards. The revision changes with them.
func (r *Registry) Kept() (records []Record, revision uint64) {
	for _, f := range r.All() {
		if f.detached {
			records = append(records, f.record)
		}
	}
	return records, r.kept
}
