//go:build linux

package e2e

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials/logincreds"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/lab"
)

// kindLife is the life of the credentials of TestCredentialsOfEachKind.
const kindLife = 20 * time.Second

// originKinds are the profiles of TestCredentialsOfEachKind, with what the agent asks for once their source has ended. "": the source
// does not end there.
var originKinds = map[string]string{
	"keys":         "", // a role with the keys of a user
	"chain":        "", // a role by a role
	"mfa":          "", // a role with a code of mfa_command
	"process":      "sign in again with the program that the AWS profile process has its credentials from",
	"web":          "renew the token in",
	"session":      "aws login --profile session",
	lab.SSOProfile: "bastion login --profile " + lab.SSOProfile,
	"sso-role":     "bastion login --profile " + lab.SSOProfile,
}

// originWorld is a world with a profile of each kind.
type originWorld struct {
	*world
	token   string // file of the web identity's token
	session string // file of the session of aws login
}

func newOriginWorld(t *testing.T) *originWorld {
	t.Helper()
	w, _ := ssoWorld(t, newAgentWorld, func(c *lab.Config) {
		everything := lab.IdentityConfig{Allow: []string{"*"}} // roles too
		c.RoleLife, c.User, c.IdentityCenter = kindLife, everything, lab.IdentityCenterConfig{RoleLife: kindLife, Rights: everything}
	})
	o := &originWorld{world: w, token: filepath.Join(w.home, "token")}
	session := w.MFADevice() + "/session" // any name
	var err error
	if o.session, err = logincreds.StandardCachedTokenFilepath(session, filepath.Join(w.home, ".aws", "login", "cache")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(o.session), 0o700); err != nil {
		t.Fatal(err)
	}
	o.process(time.Hour)
	codes := filepath.Join(w.home, "codes")
	program := filepath.Join(w.home, "programs", "mfa-code")
	o.write(program, "#!/bin/sh\nn=$(($(cat '"+codes+"' 2>/dev/null || echo 100000) + 1)); echo $n > '"+codes+"'; echo $n\n", 0o700)
	config, err := os.ReadFile(w.variable("AWS_CONFIG_FILE"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.home, "config")
	o.write(path, string(config)+fmt.Sprintf(`
[profile keys]
role_arn = %[1]s
source_profile = lab
[profile chain]
role_arn = %[2]s
source_profile = keys
[profile mfa]
role_arn = %[3]s
source_profile = lab
mfa_serial = %[4]s
[profile web]
role_arn = %[1]s
web_identity_token_file = %[5]s
[profile session]
login_session = %[6]s
[profile sso-role]
role_arn = %[1]s
source_profile = %[7]s
`, w.RoleARN("first"), w.RoleARN("second"), w.RoleARN(lab.MFARole), w.MFADevice(), o.token, session, lab.SSOProfile), 0o600)
	w.env = append(w.env, "AWS_CONFIG_FILE="+path, "BASTION_MFA_COMMAND="+program)
	o.renew()
	return o
}

func (o *originWorld) write(path, text string, mode os.FileMode) {
	o.t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		o.t.Fatal(err)
	}
}

// process gives the program of the profile "process" credentials with a life.
func (o *originWorld) process(life time.Duration) {
	o.t.Helper()
	if _, err := o.AddIdentity("process", lab.IdentityConfig{Process: true, Expires: time.Now().Add(life)}); err != nil {
		o.t.Fatal(err)
	}
}

// renew does what the user of each kind does to sign in.
func (o *originWorld) renew() {
	o.t.Helper()
	o.signIn()
	o.write(o.token, o.WebIdentityToken(time.Hour), 0o600)
	file, err := o.Login()
	if err != nil {
		o.t.Fatal(err)
	}
	o.write(o.session, string(file), 0o600)
	o.process(3 * kindLife)
}

// Credentials of every kind are renewed while a connection goes on, by the agent, whatever their source is. When a source has ended,
// the agent says for each what to do, and goes on by itself once that is done.
func TestCredentialsOfEachKind(t *testing.T) {
	o := newOriginWorld(t)
	conns := make(map[string]net.Conn)
	for _, name := range slices.Sorted(maps.Keys(originKinds)) {
		f := o.detach("--profile", name, "--name", name, o.far.Addr(), ":")
		conns[name] = o.dialEcho(f[0].Listen)
	}
	o.allEcho(conns, 2*kindLife+kindLife/2)
	calls := o.Calls()
	t.Logf("%d roles, %d roles by a web identity, %d roles of Identity Center, %d sessions of aws login", calls["sts:AssumeRole"],
		calls["sts:AssumeRoleWithWebIdentity"], o.IdentityCenter().Calls()["sso:GetRoleCredentials"], o.LoginRenewals())
	if calls["sts:AssumeRoleWithWebIdentity"] < 3 || o.LoginRenewals() < 2 {
		t.Error("too few renewals")
	}

	// The first credentials of all have expired: only with new ones can the links be restored.
	o.Gateway().Cut("", "reset")
	o.allEcho(conns, time.Second)
	for _, l := range o.agentState().Links {
		if l.SignIn != nil {
			t.Errorf("%s: %+v", l.Profile, l.SignIn)
		}
	}

	o.IdentityCenter().EndSessions()
	o.EndLogins()
	o.write(o.token, o.WebIdentityToken(0), 0o600)
	o.process(-time.Second)
	o.links("the agent asks for each login", func(l api.Link) bool {
		return (l.SignIn != nil) == (originKinds[l.Profile] != "")
	})
	for _, l := range o.agentState().Links {
		if l.SignIn != nil && !strings.Contains(l.SignIn.Command+l.SignIn.Next, originKinds[l.Profile]) {
			t.Errorf("%s: %+v, want %q", l.Profile, l.SignIn, originKinds[l.Profile])
		}
	}
	o.allEcho(conns, time.Second) // sessions go on
	o.renew()
	o.links("the agent asks for no login", func(l api.Link) bool { return l.SignIn == nil })
	o.Gateway().Cut("", "reset")
	o.allEcho(conns, time.Second)
	for _, f := range o.agentState().Forwards {
		if f.Stats.Failed != 0 || f.Stats.Total != 1 {
			t.Errorf("%s: %+v", f.Name, f.Stats)
		}
	}
}

// links waits until all links are as wanted.
func (o *originWorld) links(what string, ok func(api.Link) bool) {
	o.t.Helper()
	var links []api.Link
	if !o.within(2*time.Minute, func() bool {
		links = o.agentState().Links
		return len(links) == len(originKinds) && !slices.ContainsFunc(links, func(l api.Link) bool { return !ok(l) })
	}) {
		for _, l := range links {
			if !ok(l) {
				o.t.Errorf("%s: not %s: %+v, %+v", what, l.Profile, l.State, l.SignIn)
			}
		}
		o.t.Fatal(o.agentLog())
	}
}

// allEcho sends random bytes through all connections for a time.
func (o *originWorld) allEcho(conns map[string]net.Conn, during time.Duration) {
	o.t.Helper()
	var all sync.WaitGroup
	for name, conn := range conns {
		all.Go(func() {
			if _, err := trips(conn, during); err != nil {
				o.t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
	if o.t.Failed() {
		o.t.FailNow()
	}
}
