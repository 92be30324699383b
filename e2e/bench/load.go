//go:build linux

package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// crowd opens n connections through addr. When each has had an echo and all are open at once, each has a second one. It
// returns how many were served, and some of the others' errors.
func crowd(ctx context.Context, addr string, n int) (served int, err error) {
	var (
		count        atomic.Int64
		errs         = make(chan error, n)
		all          = make(chan struct{}) // closed when every one has had its first echo, or has failed
		opened, done sync.WaitGroup
	)
	opened.Add(n)
	for range n {
		done.Go(func() {
			var echo *rig.Echo
			conn, err := rig.Dial(ctx, addr)
			if err == nil {
				defer conn.Close()
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				defer stop()
				echo = rig.NewEcho(conn)
				err = echo.Round()
			}
			opened.Done()
			if err == nil {
				<-all
				err = echo.Round()
			}
			if err != nil {
				errs <- err
				return
			}
			count.Add(1)
		})
	}
	opened.Wait()
	close(all)
	done.Wait()
	close(errs)
	var some []error
	for err := range errs {
		if len(some) < 3 {
			some = append(some, err)
		}
	}
	return int(count.Load()), errors.Join(some...)
}

// idle is what a peer costs while nothing flows.
type idle struct {
	rss   int64   // bytes
	share float64 // of one processor, percent
}

// measureIdle uses a forward once, lets it settle, and watches it doing nothing for span.
func measureIdle(ctx context.Context, t *tunnel, settle, span time.Duration) (idle, error) {
	if err := firstByte(ctx, t.addr); err != nil {
		return idle{}, err
	}
	if err := sleep.For(ctx, settle); err != nil {
		return idle{}, err
	}
	before, err := t.usage()
	if err != nil {
		return idle{}, err
	}
	start := time.Now()
	if err := sleep.For(ctx, span); err != nil {
		return idle{}, err
	}
	after, err := t.usage()
	if err != nil {
		return idle{}, err
	}
	return idle{rss: after.rss, share: 100 * (after.cpu - before.cpu).Seconds() / time.Since(start).Seconds()}, nil
}
