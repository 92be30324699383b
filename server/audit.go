package server

import (
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

// from records a connection's remote address. One over many subflows has several, which the subflows' own events have.
func from(r *audit.Record, conn net.Conn) {
	if _, ok := conn.(*bond.Conn); ok {
		r.Bond = conn.RemoteAddr().String()
		return
	}
	r.Client = conn.RemoteAddr().String()
}

// auditor writes records. It reports the first failed write to failed, because the server must not go on unaudited.
type auditor struct {
	failed func(error)

	mu     sync.Mutex
	w      io.Writer
	broken bool
}

func (a *auditor) write(r audit.Record) {
	r.Time = stamp(time.Now())
	for _, field := range []*string{
		&r.Reason, &r.Who, &r.Grant, &r.User, &r.Client, &r.Request, &r.Destination, &r.Address, &r.Replaces,
	} {
		*field = auditText(*field)
	}
	line, err := json.Marshal(r)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil && !a.broken {
		_, err = a.w.Write(append(printable.JSON(line), '\n'))
	}
	if err != nil && !a.broken {
		a.broken = true
		a.failed(err)
	}
}

func stamp(t time.Time) string { return audit.Stamp(t) }

const maxAuditText = 1024

// auditText bounds s, and replaces characters that could disturb a terminal or a log viewer.
func auditText(s string) string {
	if len(s) > maxAuditText {
		s = strings.ToValidUTF8(s[:maxAuditText], "") + "..."
	}
	return printable.Replace(s, unicode.ReplacementChar)
}
