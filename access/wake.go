package access

import (
	"hash/fnv"
	"net"
	"slices"
	"time"
)

const (
	wakeCheck = 5 * time.Second

	// wakeJump is how far a clock may be off between two checks before the machine, or this process, counts as having slept. A
	// step of the wall clock counts too: a false alarm costs a few bytes.
	wakeJump = 10 * time.Second
)

// wakeDetector notices that the machine has slept, or that its network has changed.
type wakeDetector struct {
	known   bool // there was an earlier observation
	mono    time.Duration
	wall    time.Time
	network uint64
}

// observe takes, every wakeCheck, the monotonic clock, the wall clock, and a hash of the network's addresses (0: unknown). It
// returns why sessions may be dead, or "".
//
// The monotonic clock stands still while the machine sleeps; the wall clock does not. Both go on while the process is stopped.
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

// networkHash hashes this machine's addresses; 0 if they are unknown.
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

// watchWake probes the links' sessions and triggers a check of the credentials when the machine wakes or its network changes.
// Without it, timeouts would find dead sessions late, and credentials may have expired meanwhile.
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
			default: // the last signal is still unread
			}
		}
		select {
		case <-a.ctx.Done():
			return
		case <-tick.C:
		}
	}
}
