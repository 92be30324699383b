package shared

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// An emulator that is not ours takes a configuration, gives it back, and removes it.
func TestMoto(t *testing.T) {
	moto := rig.Moto(t)
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	cfg := aws.Config{
		Region: "eu-central-1", BaseEndpoint: &moto, HTTPClient: client, Credentials: credentials.NewStaticCredentialsProvider("k", "s", ""),
	}
	r := Reader{
		Name: Name, Dir: filepath.Join(t.TempDir(), "state"), Scope: "x", AWS: func(context.Context) (aws.Config, error) { return cfg, nil },
	}
	read := func() Copy {
		t.Helper()
		c, err := r.Read(t.Context(), Anew)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := read(); c.Text != "" || c.At.IsZero() {
		t.Errorf("%+v", c)
	}
	for i, text := range []string{"cluster: a\n", "# " + strings.Repeat("x", MaxText-3) + "\n"} {
		version, err := Write(t.Context(), cfg, Name, text)
		if err != nil || version != int64(i+1) {
			t.Fatalf("version %d, %v", version, err)
		}
		if c := read(); c.Text != text || c.Version != version || !strings.HasSuffix(c.ARN, ":parameter"+Name) || c.Modified.IsZero() || c.Secure {
			t.Errorf("%+v", c)
		}
	}
	for _, want := range []bool{true, false} {
		if had, err := Remove(t.Context(), cfg, Name); err != nil || had != want {
			t.Errorf("%t, %v", had, err)
		}
	}
	if c := read(); c.Text != "" {
		t.Errorf("%+v", c)
	}
}
