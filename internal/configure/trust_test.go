package configure

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/config"
)

// However much a file says, what needs trust is shown last, and the question names it.
func TestTrustShowsWhatMatters(t *testing.T) {
	file, err := config.Parse("f", []byte("browser: ./evil\nprofile: "+strings.Repeat("x", 5000)+"\ntags: {a: b}\ntargets: {orders: rds:orders}\n"))
	if err != nil {
		t.Fatal(err)
	}
	out := TrustOutput{Targets: map[string]string{"orders": "rds:orders"}}
	for _, g := range file.Given() {
		out.Settings = append(out.Settings, trustSetting{g.Key(), g.Text, g.Where, g.NeedsTrust(), g.Setting})
	}
	var b bytes.Buffer
	if err := out.show(&b); err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`(?s)orders = "rds:orders".*tags = "a=b".*only with your trust:.*profile = "x+".*browser = "\./evil"`)
	if !want.MatchString(b.String()) {
		t.Errorf("shown:\n%s", b.String())
	}
	if q := out.question(); q != "Trust this file as it is now, and let it set profile, browser? [y/N] " {
		t.Errorf("question %q", q)
	}
}
