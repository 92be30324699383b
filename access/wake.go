package access

import (
	"hash/fnv"
	"net"
	"slices"
	"time"
)

const (
	wakeCheck = 5 * time.Second

	// wakeJump is how far clocks may be off from one check to the next before the machine, or this process, is taken to have
	// slept. A step of the wall clock counts too: it costs a few bytes.
	wakeJump = 10 * time.Second
)

// wakeDetector notices that the machine has slept, or that its network has changed.
type wakeDetector struct {
	known   bool // there was an observation
	mono    time.Duration
	wall    time.Time
	network uint64
}

// observe is called each wakeCheck with what the clocks say, the monotonic one and the wall clock, and a hash of the network's
// addresses, 0 if they are not known. It returns why everything may be different now, or "".
//
// The monotonic clock stands still while the machine sleeps, the wall clock does not. Both go on while the process is stopped.
func (d *wakeDetector) observe(mono time.Duration, wall time.Time, network uint64) string {
	before := *d
	*d = wakeDetector{known: true, mono: mono, wall: wall, network: network}
	if network == 0 {
		d.network = before.network
	}
	if !before.known {
		return ""
	}
	monoStep, wallStep := mono-before.mono, wall.Sub(before.wall)
	switch {
	case wallStep-monoStep > wakeJump:
		return "the machine has slept"
	case monoStep-wakeCheck > wakeJump:
		return "the process was stopped"
	case before.network != 0 && d.network != before.network:
		return "the network has changed"
	}
	return ""
}

// networkHash sums the addresses of this machine up; 0 if they are not known.
func networkHash() uint64 {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return 0
	}
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	slices.Sort(texts)
	h := fnv.New64a()
	for _, text := range texts {
		_, _ = h.Write(append([]byte(text), 0)) // it never fails
	}
	return max(h.Sum64(), 1)
}

// watchWake makes links look at their sessions at once when the machine wakes or its network changes, instead of by time-outs,
// and has the credentials looked at, which may have expired meanwhile.
func (a *Access) watchWake(wakes chan<- struct{}) {
	began := time.Now()
	tick := time.NewTicker(wakeCheck)
	defer tick.Stop()
	var d wakeDetector
	for {
		now := time.Now()
		if why := d.observe(now.Sub(began), now.Round(0), networkHash()); why != "" {
			a.log.Info("looking at the paths to the bastion: " + why)
			a.probe()
			select {
			case wakes <- struct{}{}:
			default: // it has not come to the last one yet
			}
		}
		select {
		case <-a.ctx.Done():
			return
		case <-tick.C:
		}
	}
}
