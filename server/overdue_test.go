package server

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/audit"
)

// A server that cannot end when its life is over says so in the log, from which an alarm is made. One that ends in time does not.
func TestOverdue(t *testing.T) {
	stuck, released := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	defer release() // before the cleanup, which waits for the server
	b := &bastion{log: newAuditLog(), done: make(chan error, 1)}
	var err error
	// The grant ends at the whole second before the server's end: of a life of one second a few milliseconds may be left.
	b.Server, err = New(Config{
		Listen: "localhost:0", Audit: b.log, Allow: mustAllow(t, "10.0.0.1:5432"), MaxLife: 4 * time.Second, Drain: -1,
		Dial: func(context.Context, string, string) (net.Conn, error) { // one that does not hear its context
			close(stuck)
			<-released
			return nil, errors.New("released")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.grace = 10 * time.Millisecond
	b.run(t)
	p := pair(t)
	if reply := b.AddGrant(word(t, p, time.Hour)); reply.Error != "" {
		t.Fatal(reply.Error)
	}
	c := b.dial(t, p)
	go func() { _, _ = c.Dial("tcp", "10.0.0.1:5432") }()
	<-stuck
	if r := b.log.wait(t, audit.Overdue, 1); r.NotAfter == "" {
		t.Errorf("%+v", r)
	}
	release()
	b.log.wait(t, audit.Stop, 1)
	if r := b.log.wait(t, audit.Start, 1); r.LifeS != 4 {
		t.Errorf("%+v", r)
	}
}

func TestNotOverdue(t *testing.T) {
	b := start(t, Config{MaxLife: time.Second, Drain: -1})
	b.log.wait(t, audit.Stop, 1)
	if n := b.log.count(t, audit.Overdue); n > 0 {
		t.Error("a server that ended in time is overdue")
	}
}
