package inventory

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/targetlist"
)

// A name of the configuration has one line, with what AWS says of its target. A name with a place of its own stands for none of this list.
func TestLinesOfAList(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "bastion.yaml")
	const text = "targets: {shop: rds:shop, web: web.internal:443, away: {target: rds:far, region: us-east-1}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	settings, err := config.Load(config.Source{File: file, LookupEnv: func(string) (string, bool) { return "", false }})
	if err != nil {
		t.Fatal(err)
	}
	l := &scopedList{
		settings: settings,
		list: targetlist.List{Items: []targetlist.Item{
			{Spec: "rds:far", Kind: "rds", Status: "stopped"},
			{Spec: "rds:shop", Kind: "rds", Status: "available", Tags: map[string]string{"team": "data"}},
			{Spec: "redshift:dwh", Kind: "redshift", Status: "available"},
		}},
	}
	for _, tt := range []struct {
		o    listOptions
		want []string // name, spec and status
	}{
		{listOptions{}, []string{
			"away rds:far ", "shop rds:shop available", "web web.internal:443 ", " rds:far stopped", " redshift:dwh available",
		}},
		{listOptions{kinds: []string{"rds"}}, []string{"shop rds:shop available", " rds:far stopped"}},
		{listOptions{tags: map[string]string{"team": "data"}}, []string{"shop rds:shop available"}},
	} {
		var got []string
		for _, line := range l.lines(config.Settings{}, tt.o) {
			got = append(got, line.Name+" "+line.Spec+" "+line.Status)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %q, want %q", tt.o, got, tt.want)
		}
	}
}
