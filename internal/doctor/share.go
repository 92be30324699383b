package doctor

import (
	"fmt"
	"strings"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/pattern"
	"github.com/bastion-ssm/bastion/internal/words"
)

// Share returns the report for people who must not know the account: findings by identifier and case, numbers, and which settings are
// set. It is made of this program's own words and of numbers alone, so that no name, address, account, ARN or secret can get into it.
func (r *Report) Share() string {
	var b strings.Builder
	fmt.Fprintf(&b, "bastion doctor, version %s, %s\n", version(r.Version), r.System)
	fmt.Fprintf(&b, "worst: %s; %d checks in %.1f s\n\n", r.Worst, len(r.Findings), r.Seconds)
	at := 0
	for _, part := range Checks() {
		for _, c := range part.Checks {
			f := r.Findings[at]
			at++
			b.WriteString(strings.TrimRight(fmt.Sprintf("%-8s %-*s  %s", f.Level, idWidth, c.ID, detail(f)), " ") + "\n")
			if f.Level == Error || f.Level == Warning {
				fmt.Fprintf(&b, "%-8s %-*s  looks at %s\n", "", idWidth, "", c.Looks)
			}
		}
	}
	b.WriteString("\nendpoints\n")
	for _, e := range r.Endpoints {
		state := "reached"
		if e.Error != "" {
			state = "not reached"
		}
		proxy := ""
		if e.Proxy != "" {
			proxy = ", by a proxy"
		}
		fmt.Fprintf(&b, "%-12s %s%s; name %.1f ms, connection %.1f ms, TLS %.1f ms\n", known(e.Service, services), state, proxy, e.DNS,
			e.TCP, e.TLS)
	}
	r.shareMeasured(&b)
	r.shareSettings(&b)
	return b.String()
}

func (r *Report) shareMeasured(b *strings.Builder) {
	m := r.Measured
	if m == nil {
		b.WriteString("\nno bastion was measured\n")
		return
	}
	fmt.Fprintf(b, "\nbastiond %s: first byte %.2f s, round trip %.1f ms, upward %.0f B/s by %s, %.0f B/s each; sessions %d of %d; memory %d of "+
		"%d MiB; CPU %g, throttled %.2f\n",
		version(m.Version), m.Seconds, m.RTT, m.Upward, words.Count(m.UpwardSessions, "session"), m.PerSession(), m.Sessions, m.MaxSessions,
		m.MemoryUsed>>20, m.MemoryLimit>>20, m.CPULimit, m.Throttled)
	for _, s := range m.Steps { // their names are this program's
		fmt.Fprintf(b, "  %-10s %.2f to %.2f s\n", s.Name, s.Begin, s.End)
	}
}

// shareSettings names the settings that differ from their defaults. Their values stay here.
func (r *Report) shareSettings(b *strings.Builder) {
	b.WriteString("\nsettings that are set: ")
	var set []string
	if r.facts != nil {
		texts, defaults := r.facts.Settings.Texts(), map[string]string{}
		if d, err := config.FromTexts(nil); err == nil {
			defaults = d.Texts()
		}
		for _, s := range config.All() {
			if texts[s.Key] != defaults[s.Key] {
				set = append(set, s.Key)
			}
		}
	}
	if len(set) == 0 {
		set = []string{"none"}
	}
	b.WriteString(strings.Join(set, ", ") + "\n")
}

// detail says more of a finding in words that are this program's own.
func detail(f Finding) string {
	var out []string
	switch {
	case f.Needs != "":
		out = append(out, "needs "+f.Needs)
	case f.Case != "":
		out = append(out, f.Case)
	}
	if f.class.Class != awsanswer.None {
		out = append(out, "AWS: "+f.class.Class.String())
	}
	if policy := f.class.Policy.String(); policy != "" {
		out = append(out, "by "+policy)
	}
	return strings.Join(out, "; ")
}

// versionForm is a release's version, a candidate's, git describe's or Go's of a commit. Its words are fixed, so that a build with
// somebody's name in it is not told.
var versionForm = pattern.Lazy(`^v?[0-9]{1,5}(\.[0-9]{1,5}){2}(-(rc|beta|alpha)\.?[0-9]{0,3})?(-(0\.)?[0-9]{1,14}-g?[0-9a-f]{7,40})?([-+]dirty)?$`)

// version is a version in a known form; another program may have written it.
func version(text string) string {
	if text == "(devel)" || text == "dev" || versionForm().MatchString(text) {
		return text
	}
	return "of another form"
}

// known returns one of the known texts.
func known(text string, all []string) string {
	for _, k := range all {
		if k == text {
			return k
		}
	}
	return "another"
}
