package setup

import (
	"os"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/account/survey"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Where nobody can answer, a plan takes a question's default and says so; what changes something demands the answer.
func TestTerminalWithoutAnybody(t *testing.T) {
	nobody, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	q := survey.Question{Flag: "vpc", Text: "Which VPC?", Default: "vpc-1", Candidates: []survey.Candidate{{Value: "vpc-1", Word: "main"}}}
	var out strings.Builder
	term := &Terminal{In: nobody, Err: &out, Progress: console.NewProgress(nil, true)}
	if answer, err := term.Answer(t.Context(), q); answer != "" || fail.KindOf(err) != fail.Usage || out.Len() > 0 {
		t.Errorf("%q, %v, %q", answer, err, &out)
	}
	term.Defaults = true
	const want = "bastion: taking --vpc vpc-1, because nobody was asked: Which VPC?\n"
	if answer, err := term.Answer(t.Context(), q); answer != "vpc-1" || err != nil || out.String() != want {
		t.Errorf("%q, %v, %q", answer, err, &out)
	}
	q.Default = ""
	if _, err := term.Answer(t.Context(), q); fail.KindOf(err) != fail.Usage {
		t.Errorf("without a default: %v", err)
	}
}
