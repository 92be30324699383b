package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/pattern"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// Level is how bad a finding is.
type Level string

// The levels, from the best to the worst. Skipped is neither: what the check needs does not hold, or cannot be seen from here.
const (
	OK      Level = "ok"
	Skipped Level = "skipped"
	Warning Level = "warning"
	Error   Level = "error"
)

// Finding is the result of a check.
type Finding struct {
	ID    string `json:"id"`
	Level Level  `json:"level"`
	Case  string `json:"case,omitempty"`  // which of the check's cases it is: a fixed word
	Needs string `json:"needs,omitempty"` // of a skipped check: the check that must hold first
	Means string `json:"means"`           // one sentence
	Fix   string `json:"fix,omitempty"`   // the command, or the statement of a policy, that mends it

	kind  fail.Kind        // of an error, for the exit code
	class awsanswer.Answer // what AWS has answered, for the shared report
}

// Report is the result of an examination.
type Report struct {
	V         int              `json:"v"`
	Version   string           `json:"version"` // of the program
	System    string           `json:"system"`
	Env       string           `json:"environment,omitempty"`
	Target    string           `json:"target,omitempty"`
	Worst     Level            `json:"worst"`
	Seconds   float64          `json:"seconds"`
	Findings  []Finding        `json:"findings"`
	Endpoints []Reach          `json:"endpoints"`
	Measured  *access.Measured `json:"measured,omitempty"` // missing: no bastion runs
	Fixes     []Fix            `json:"fixes"`              // that --fix can make on this machine
	facts     *Facts
}

// reportVersion is Report.V, which rises with a change that its readers must know of.
const reportVersion = 1

// Reach is how an endpoint of AWS was reached.
type Reach struct {
	Service string  `json:"service"`
	Host    string  `json:"host"`
	Proxy   string  `json:"proxy,omitempty"`
	DNS     float64 `json:"dns_ms"`
	TCP     float64 `json:"tcp_ms"`
	TLS     float64 `json:"tls_ms"`
	Error   string  `json:"error,omitempty"`
}

// worst returns the worst level; OK if all checks are OK or skipped.
func worst(all []Finding) Level {
	rank := map[Level]int{Warning: 1, Error: 2}
	out := OK
	for _, f := range all {
		if rank[f.Level] > rank[out] {
			out = f.Level
		}
	}
	return out
}

// ExitWarnings is the exit code of a report whose worst findings are warnings; see docs/exit-codes.md.
const ExitWarnings = 11

// Failure returns an error of the kind of the first error on the path; nil if there is none.
func (r *Report) Failure() error {
	for _, f := range r.Findings {
		if f.Level == Error {
			return fail.New(f.kind, f.ID, errors.New(f.Means), f.Fix)
		}
	}
	return nil
}

func fine(format string, args ...any) Finding {
	return Finding{Level: OK, Means: fmt.Sprintf(format, args...)}
}

func warn(word, means, fix string) Finding {
	return Finding{Level: Warning, Case: word, Means: means, Fix: fix}
}

func wrong(kind fail.Kind, word, means, fix string) Finding {
	return Finding{Level: Error, Case: word, Means: means, Fix: fix, kind: kind}
}

// hidden is the finding for what the doctor cannot see.
func hidden(word, means, fix string) Finding {
	return Finding{Level: Skipped, Case: word, Means: "cannot be seen from here: " + means, Fix: fix}
}

// because is the finding of a check whose own ground is missing.
func because(needs string) Finding {
	return Finding{Level: Skipped, Case: "needs", Needs: needs, Means: "needs " + needs}
}

// failed is the finding for a failed step, by its error's kind, text and next step.
func failed(word, what string, err error) Finding {
	f := wrong(fail.KindOf(err), word, what+": "+plain(err), fail.NextOf(err))
	f.class = awsanswer.Of(err)
	return f
}

// unseen is the finding for a call that failed: AWS denies it, or did not answer. The rest of the examination goes on.
func unseen(what string, err error) Finding {
	answer := awsanswer.Of(err)
	if byClock(err) {
		return because(idClock)
	}
	f := hidden("unanswered", what+": "+plain(err), fail.NextOf(err))
	if answer.Class == awsanswer.Denied {
		f = hidden("denied", what+": AWS denies "+cmp.Or(answer.Action, "the call")+deniedBy(answer), fail.NextOf(err))
	}
	f.class = answer
	return f
}

// byClock reports whether AWS has refused a call for its time, which the SDK does not correct for every service.
func byClock(err error) bool {
	answer := awsanswer.Of(err)
	return answer.Class == awsanswer.BadCredentials && strings.Contains(answer.Next, "clock")
}

// deniedBy names the kind of policy that denies a call.
func deniedBy(a awsanswer.Answer) string {
	switch name := a.Policy.String(); {
	case name == "":
		return ""
	case a.Explicit:
		return " by an explicit deny in the " + name
	default:
		return ", because the " + name + " does not allow it"
	}
}

var plainWord = pattern.Lazy(`^[A-Za-z0-9_./:,@=+-]+$`)

// quoted is a word for a shell.
func quoted(word string) string {
	if plainWord().MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// plain is an error's text on one line.
func plain(err error) string { return printable.Line(err.Error()) }

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}
