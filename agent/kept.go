package agent

import (
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
)

// Kept returns the detached forwards that come back when the agent starts. It is for use while the agent does not run.
func Kept(stateDir string) ([]api.Forward, error) {
	registry, err := registryOf(storeIn(stateDir))
	out := showKept(registry.All())
	forwards.Refer(out)
	return out, err
}

// Forget removes and returns kept forwards. ref is as for Agent.Stop. It fails with ErrRunning if an agent runs or is starting.
func Forget(socket, stateDir, ref string) ([]api.Forward, error) {
	release, err := lock(socket + ".lock")
	if err != nil {
		return nil, err
	}
	defer release()
	s := storeIn(stateDir)
	registry, err := registryOf(s)
	if err != nil {
		return nil, err
	}
	gone, err := registry.Called(ref)
	if err != nil || len(gone) == 0 {
		return nil, err
	}
	for _, f := range gone {
		registry.End(f, errStopped)
	}
	records, _ := registry.Kept()
	return showKept(gone), s.save(records)
}

// registryOf returns a registry of the forwards in a file. On an error the registry is empty.
func registryOf(s store) (*forwards.Registry, error) {
	registry := new(forwards.Registry)
	records, err := s.load()
	for _, r := range records {
		registry.Restore(r, time.Time{})
	}
	return registry, err
}

// showKept returns the API's view of forwards while the agent does not run.
func showKept(all []*forwards.Forward) []api.Forward {
	out := make([]api.Forward, len(all))
	for i, f := range all {
		out[i] = f.Show()
		out[i].State = api.ForwardKept
	}
	forwards.Sort(out)
	return out
}
