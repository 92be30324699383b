package access

import (
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

// Two session documents give a raw stream to a port. AWS documents AWS-StartSSHSession for nodes only; users report
// AWS-StartPortForwardingSession to work on ECS tasks. The first is preferred, because its session ends when the far connection does.
// On a task the agent goes by what AWS answers, and remembers it.
const (
	documentAuto = "auto"

	// documentPatience is how long the preferred document may take before the other is tried beside it, as long as it is not
	// known which one works.
	documentPatience = 3 * time.Second

	// documentDoubt is how long a target may be not connected by the preferred document before the other is tried too: AWS
	// might answer so for a document that it does not take. It is longer than a task takes to connect once its exec agent runs.
	documentDoubt = 15 * time.Second

	// documentMaxAge is how long a choice is remembered: AWS, or the policies, may change.
	documentMaxAge = 7 * 24 * time.Hour

	documentPrefix = "document-"
)

// choice is the document that works for a kind of target, and why it is not the preferred one.
type choice struct {
	Document string    `json:"document"`
	Reason   string    `json:"reason,omitempty"` // what became of the preferred one; empty: this is it
	Chosen   time.Time `json:"chosen_at"`
}

// documents knows which document works where. The zero value remembers nothing beyond the process.
type documents struct {
	forced string // by the setting; empty: none
	dir    string // of what is remembered; empty: nowhere

	mu    sync.Mutex
	known map[string]choice // by the key that documentPlace returns
	from  map[string]bool   // which keys the directory has been asked for
}

// documentPlace names what a choice holds for: the tasks of a cluster, as seen by one kind of caller.
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
	// The account is known where the bastion was found by its owner.
	return strings.Join([]string{a.Account(), a.settings.AWS.Profile, a.region, cluster}, "\n")
}

// order returns the documents to try. One is known to work, or has to; of two the second is tried where the first fails.
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

// works notes that a document works, and what became of the preferred one if it is another.
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

// doubt forgets a choice: both documents are tried next.
func (d *documents) doubt(place string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, place)
	if d.dir != "" && place != "" {
		_ = os.Remove(d.path(place)) // what stays expires
	}
}

func (d *documents) path(place string) string {
	sum := sha256.Sum256([]byte(place))
	return filepath.Join(d.dir, documentPrefix+hex.EncodeToString(sum[:12]))
}

// documentInUse returns the document that sessions to a target use, and why, for people.
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

// refusesDocument reports whether err may be due to the document: AWS or the SSM agent does not know it, or not for this target,
// or a policy denies it. A denial names the document or the target, as it happens. What AWS says to a document that it does not
// take for a task is not documented, so an answer of an unknown kind counts too.
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

// startPort opens a port session by the document that works. waited is for how long the caller has tried.
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

// tryDocuments opens a port session by the first of two documents, and by the second where the first is refused, or beside it
// where it takes long. The one that opens first is remembered.
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
	defer func() { // those that are late are not needed; what they opened is closed
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
				return nil, firstOf(failed[order[0]], r.err)
			case begun == 1 && !otherMayOpen(r.err, waited):
				return nil, r.err // with another document it would end alike
			case begun == 1:
				begin(order[1])
				begun++
			}
		}
	}
}

// otherMayOpen reports whether the other document may open a session where one ended with err after so long.
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

// reasonOf returns AWS's words, or what else ended an attempt to start a session.
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
