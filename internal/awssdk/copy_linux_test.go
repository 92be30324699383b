package awssdk

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Keys of a profile whose name is in quotes are written nowhere, and it works where nothing can be.
func TestQuotedProfileStaysInMemory(t *testing.T) {
	f, vars := newFakeAWS(t)
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	file := f.file("config", "[profile \"dev\"]\n"+user("AKIADEV"))
	awsEnv(t, "AWS_CONFIG_FILE="+file, "AWS_REGION=eu-central-1", "AWS_ENDPOINT_URL="+vars["AWS_ENDPOINT_URL"])
	open := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := open()
	for range 10 {
		cfg, err := Load(t.Context(), Source{Profile: "dev", CallTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := cfg.Credentials.Retrieve(t.Context()); err != nil || got.AccessKeyID != "AKIADEV" {
			t.Errorf("%s, %v", got.AccessKeyID, err)
		}
	}
	if after := open(); after >= before+10 {
		t.Errorf("%d files are open, after %d", after, before)
	}
}
