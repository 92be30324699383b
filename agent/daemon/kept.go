package daemon

import (
	"maps"
	"slices"

	"github.com/bastion-ssm/bastion/agent/api"
)

// Kept returns the detached forwards that come back when the agent starts. It is for when no agent runs.
func Kept(stateDir string) ([]api.Forward, error) {
	records, err := storeIn(stateDir).load()
	out := make([]api.Forward, len(records))
	for i := range records {
		out[i] = records[i].kept()
	}
	sortForwards(out)
	refer(out)
	return out, err
}

// Forget takes forwards out of those that come back when the agent starts, and returns them. ref is as for Daemon.Stop. It fails
// with ErrRunning where an agent runs, or is just starting: that has them.
func Forget(socket, stateDir, ref string) ([]api.Forward, error) {
	release, err := lock(socket + ".lock")
	if err != nil {
		return nil, err
	}
	defer release()
	s := storeIn(stateDir)
	records, err := s.load()
	if err != nil {
		return nil, err
	}
	kept := make(map[ident]record, len(records))
	there := make(map[ident]string, len(records))
	for _, r := range records {
		kept[r.ident()], there[r.ident()] = r, r.Link
	}
	ids, err := called(there, ref)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	out := make([]api.Forward, 0, len(ids))
	for _, id := range ids {
		r := kept[id]
		out = append(out, r.kept())
		delete(kept, id)
	}
	sortForwards(out)
	return out, s.save(slices.Collect(maps.Values(kept)))
}

// kept returns what others see of the record while no agent runs.
func (r *record) kept() api.Forward {
	out := r.show()
	out.State, out.Detached = api.ForwardKept, true
	return out
}
