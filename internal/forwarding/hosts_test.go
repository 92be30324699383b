package forwarding

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

func TestPlanHosts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts")
	const before = "127.64.9.9 fixed.x\n"
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	s := config.Settings{Local: config.Local{HostsFile: file}}
	endpoints := []targets.Endpoint{
		{Name: "a", Host: "A.x", Port: 5432},
		{Name: "b", Host: "fixed.x", Port: 3306},
		{Name: "c", Host: "a.x", Port: 6379},
	}
	requests := []api.ForwardRequest{{Listen: ":"}, {Listen: "3307"}, {}}
	plan, err := PlanHosts(t.Context(), s, endpoints, request.Items(request.One(s, requests...)))
	if err != nil {
		t.Fatal(err)
	}
	a := plan.names["a.x"].String()
	if requests[0].Listen != a+":5432" || requests[1].Listen != "127.64.9.9:3307" || requests[2].Listen != a+":6379" {
		t.Errorf("listen at %q", requests)
	}
	during := errors.New("during")
	ctx, cancel := context.WithCancel(t.Context())
	if err := plan.During(ctx, func() error {
		if now, err := os.ReadFile(file); err != nil || !strings.Contains(string(now), "\n"+a+" a.x\n") {
			t.Errorf("%q, %v", now, err)
		}
		cancel() // the names are removed even so
		return during
	}); !errors.Is(err, during) {
		t.Error(err)
	}
	if now, err := os.ReadFile(file); err != nil || string(now) != before {
		t.Errorf("%q, %v", now, err)
	}
	for listen, host := range map[string]string{"127.0.0.1:5432": "a.x", ":": "10.0.0.1"} {
		_, err := PlanHosts(t.Context(), s, []targets.Endpoint{{Name: "a", Host: host, Port: 1}},
			request.Items(request.One(s, api.ForwardRequest{Listen: listen})))
		if fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
			t.Errorf("%s at %s: %v", host, listen, err)
		}
	}
}
