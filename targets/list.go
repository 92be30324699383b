package targets

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"sync"
)

// Found is a target in a list.
type Found struct {
	Endpoint        // Host is empty if it has none (yet); Name is the SPEC
	Kind     string // the prefix
	What     string // "RDS instance"
	Status   string // AWS's word, or ""
	Tags     map[string]string
}

// All returns the region's targets, including those that are not ready, which may lack an address. Without only, it returns all
// kinds. The error names the kinds that AWS did not list.
func (r *Resolver) All(ctx context.Context, only ...Kind) ([]Found, error) {
	rows := lookedUp(only)
	found := make([][]candidate, len(rows))
	unseens := make([]unseen, len(rows))
	errs := make([]error, len(rows))
	var wg sync.WaitGroup
	for i, d := range rows {
		wg.Go(func() { found[i], unseens[i], errs[i] = all(ctx, Spec{Kind: d.Kind}, d.parts(r)) })
	}
	wg.Wait()
	if len(rows) > 0 && !slices.Contains(errs, nil) { // probably one cause
		return nil, errs[0]
	}
	var out []Found
	var missing unseen
	for i, d := range rows {
		if errs[i] != nil { // one service's endpoint may be unreachable
			missing = append(missing, unseenPart{d.Lists, errs[i]})
		}
		missing = append(missing, unseens[i]...)
		for _, c := range found[i] {
			kind := c.kindAmong(d)
			if len(only) > 0 && !slices.Contains(only, kind) {
				continue
			}
			e := c.endpoint
			e.Name, e.Engine = Spec{Kind: kind, ID: c.id}.String(), c.engine
			out = append(out, Found{Endpoint: e, Kind: kind.Prefix(), What: c.what, Status: c.status, Tags: c.tags})
		}
	}
	slices.SortFunc(out, func(x, y Found) int { return cmp.Compare(x.Name, y.Name) })
	return out, missing.present().err()
}

// lookedUp returns the rows whose calls list the kinds; all kinds if there are none.
func lookedUp(only []Kind) []Description {
	var rows []Description
	for _, d := range Kinds() {
		if len(only) > 0 && !slices.Contains(only, d.Kind) {
			continue
		}
		if d.listedBy != 0 {
			d, _ = describe(d.listedBy)
		}
		if !slices.ContainsFunc(rows, func(have Description) bool { return have.Kind == d.Kind }) {
			rows = append(rows, d)
		}
	}
	return rows
}

// kindAmong returns the kind of a candidate that the calls of d have found.
func (c candidate) kindAmong(d Description) Kind {
	for _, other := range Kinds() {
		if other.listedBy == d.Kind && other.is(c) {
			return other.Kind
		}
	}
	return d.Kind
}

// present leaves out services that the region does not have: their endpoints have no address.
func (u unseen) present() unseen {
	return slices.DeleteFunc(u, func(p unseenPart) bool {
		dns, ok := errors.AsType[*net.DNSError](p.err)
		return ok && dns.IsNotFound
	})
}
