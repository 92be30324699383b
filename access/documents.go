package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/sessions"
)

// Two session documents give a raw stream to a port. AWS documents AWS-StartSSHSession for nodes only. Users report that
// AWS-StartPortForwardingSession works on ECS tasks. The first is preferred, because its session ends with the far connection.
// For a task, the Access tries both, goes by AWS's answers, and remembers the result.
const (
	documentAuto = "auto"

	// documentPatience is how long the preferred document may take before the Access tries the other beside it, while neither
	// is known to work.
	documentPatience = 3 * time.Second

	// documentDoubt is how long AWS may call a target "not connected" with the preferred document before the Access tries the other
	// too. AWS might answer so for an unsupported document. It is longer than a task takes to connect.
	documentDoubt = 15 * time.Second

	// documentMaxAge is how long a choice is remembered: AWS or the policies may change.
	documentMaxAge = 7 * 24 * time.Hour

	documentPrefix = "document-"
)

// choice is the document that works at a place, and why it is not the preferred one.
type choice struct {
	Document string    `json:"document"`
	Reason   string    `json:"reason,omitempty"` // why the preferred document did not work; empty: Document is the preferred one
	Chosen   time.Time `json:"chosen_at"`
}

// documents knows which document works where. The zero value remembers choices in memory only.
type documents struct {
	forced string // the setting's document; empty: none
	dir    string // directory of remembered choices; empty: none

	mu    sync.Mutex
	known map[string]choice // by documentPlace's key
	from  map[string]bool   // keys that were looked up in dir
}

// documentPlace returns the key of a choice's scope: a cluster's tasks, as seen by one kind of caller. It returns "" for a
// target that is not a task.
func (a *Access) documentPlace(target string) string {
	cluster, ok := strings.CutPrefix(target, "ecs:")
	if !ok {
		return ""
	}
	// <cluster>_<task id>_<runtime id>; a cluster's name may contain underscores.
	for range 2 {
		if i := strings.LastIndexByte(cluster, '_'); i >= 0 {
			cluster = cluster[:i]
		}
	}
	// The account is known here, because the Access found the bastion by its owner.
	return strings.Join([]string{a.Account(), a.settings.AWS.Profile, a.region, cluster}, "\n")
}

// order returns the documents to try. A forced or remembered document stands alone; of two, the second is tried if the first
// fails.
func (d *documents) order(place string) []string {
	switch {
	case d.forced != "":
		return []string{d.forced}
	case place == "":
		return []string{sessions.DocumentSSH} // documented for nodes
	}
	if c, ok := d.get(place); ok {
		return []string{c.Document}
	}
	return []string{sessions.DocumentSSH, sessions.DocumentPort}
}

func (d *documents) get(place string) (choice, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.known[place]; !ok && !d.from[place] && d.dir != "" {
		if d.from == nil {
			d.from = make(map[string]bool)
		}
		d.from[place] = true
		var c choice
		data, err := os.ReadFile(d.path(place))
		if err == nil && len(data) < 4096 && json.Unmarshal(data, &c) == nil &&
			(c.Document == sessions.DocumentSSH || c.Document == sessions.DocumentPort) {
			d.set(place, c)
		}
	}
	c, ok := d.known[place]
	if age := time.Since(c.Chosen); ok && (age < 0 || age > documentMaxAge) {
		delete(d.known, place)
		return choice{}, false
	}
	return c, ok
}

// set notes a choice. d.mu is held.
func (d *documents) set(place string, c choice) {
	if d.known == nil {
		d.known = make(map[string]choice)
	}
	d.known[place] = c
}

// works notes that a document works. reason says why the preferred one did not.
func (d *documents) works(place, document, reason string) error {
	if place == "" || d.forced != "" {
		return nil
	}
	if document == sessions.DocumentSSH {
		reason = ""
	}
	c := choice{document, reason, time.Now()}
	d.mu.Lock()
	d.set(place, c)
	d.mu.Unlock()
	if d.dir == "" {
		return nil
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return files.Replace(d.path(place), data, 0o600)
}

// doubt forgets a choice, so that the Access tries both documents next.
func (d *documents) doubt(place string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, place)
	if d.dir != "" && place != "" {
		_ = os.Remove(d.path(place)) // a file that stays expires
	}
}

func (d *documents) path(place string) string {
	sum := sha256.Sum256([]byte(place))
	return filepath.Join(d.dir, documentPrefix+hex.EncodeToString(sum[:12]))
}

// documentInUse returns the document that sessions to a target use, and the reason, for display.
func (a *Access) documentInUse(target string) (document, reason string) {
	place := a.documentPlace(target)
	order := a.documents.order(place)
	switch c, ok := a.documents.get(place); {
	case a.documents.forced != "":
		return order[0], "the setting session_document"
	case ok:
		return c.Document, c.Reason
	}
	return order[0], ""
}

// refusesDocument reports whether err may be due to the document. Either AWS or the SSM agent does not know it or support it for
// this target, or a policy denies it. A denial may name the document or the target. AWS does not document its answer to a document
// that it does not take for a task. So an unknown kind of answer counts too.
func refusesDocument(err error) bool {
	if closed, ok := errors.AsType[*sessions.ClosedError](err); ok {
		return awsanswer.Judge(awsanswer.Answer{Operation: "StartSession", Message: closed.Output}).Class == awsanswer.Unsupported
	}
	switch a := awsanswer.Of(err); a.Class {
	case awsanswer.Unsupported:
		return true
	case awsanswer.Denied, awsanswer.Final:
		return a.Operation == "" || a.Operation == "StartSession"
	}
	return false
}

// startPort opens a port session with the document that works. waited is how long the caller has tried so far.
func (a *Access) startPort(ctx context.Context, p sessions.Port, waited time.Duration) (*sessions.Stream, error) {
	place := a.documentPlace(p.Target)
	order := a.documents.order(place)
	if len(order) > 1 {
		return a.tryDocuments(ctx, p, place, order, waited)
	}
	p.Document = order[0]
	stream, err := a.sessions.OpenPort(ctx, p)
	if err != nil && place != "" && a.documents.forced == "" && ctx.Err() == nil && refusesDocument(err) {
		a.log.InfoContext(ctx, "the session document that worked is refused", "document", p.Document, "err", err)
		a.documents.doubt(place)
		return a.tryDocuments(ctx, p, place, []string{other(p.Document), p.Document}, waited)
	}
	return stream, err
}

func other(document string) string {
	if document == sessions.DocumentSSH {
		return sessions.DocumentPort
	}
	return sessions.DocumentSSH
}

// tryDocuments opens a port session with the first of two documents. It tries the second if the first is refused, and beside
// the first if that takes long. It remembers the one that opens first.
func (a *Access) tryDocuments(
	ctx context.Context, p sessions.Port, place string, order []string, waited time.Duration,
) (*sessions.Stream, error) {
	type result struct {
		stream   *sessions.Stream
		err      error
		document string
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result)
	begin := func(document string) {
		p := p
		p.Document = document
		go func() {
			stream, err := a.sessions.OpenPort(ctx, p)
			results <- result{stream, err, document}
		}()
	}
	begin(order[0])
	begun, ended := 1, 0
	defer func() { // ends the attempts that are late, and closes their sessions
		cancel()
		left := begun - ended
		if left == 0 {
			return
		}
		a.tasks.Go(func() {
			for range left {
				if r := <-results; r.stream != nil {
					_ = r.stream.Close()
				}
			}
		})
	}()
	late := time.NewTimer(documentPatience)
	defer late.Stop()
	failed := make(map[string]error)
	for {
		select {
		case <-late.C:
			if begun == 1 {
				begin(order[1])
				begun++
			}
		case r := <-results:
			ended++
			if r.err == nil {
				a.chose(place, r.document, failed)
				return r.stream, nil
			}
			failed[r.document] = r.err
			switch {
			case ended == len(order):
				return nil, cmp.Or(failed[order[0]], r.err)
			case begun == 1 && !otherMayOpen(r.err, waited):
				return nil, r.err // the other document would fail in the same way
			case begun == 1:
				begin(order[1])
				begun++
			}
		}
	}
}

// otherMayOpen reports whether the other document may open a session after one failed with err. waited is how long the caller
// has tried.
func otherMayOpen(err error, waited time.Duration) bool {
	return refusesDocument(err) || errors.Is(err, sessions.ErrUnanswered) ||
		waited >= documentDoubt && awsanswer.ClassOf(err) == awsanswer.NotConnected
}

// chose remembers the document that works.
func (a *Access) chose(place, document string, failed map[string]error) {
	reason := ""
	if document != sessions.DocumentSSH {
		reason = sessions.DocumentSSH + " did not open in time"
		if err := failed[sessions.DocumentSSH]; err != nil {
			reason = sessions.DocumentSSH + ": " + reasonOf(err)
		}
		a.log.Info("sessions use the other document", "document", document, "because", reason)
	}
	if err := a.documents.works(place, document, reason); err != nil {
		a.log.Debug("the session document is not remembered", "err", err)
	}
}

// reasonOf returns AWS's answer, or another cause that kept a session from starting.
func reasonOf(err error) string {
	if answer := awsanswer.Of(err); answer.Class != awsanswer.None {
		return answer.String()
	}
	if closed, ok := errors.AsType[*sessions.ClosedError](err); ok {
		return closed.Error()
	}
	if errors.Is(err, sessions.ErrUnanswered) {
		return "the SSM agent does not answer in a session that AWS has started"
	}
	return err.Error()
}
