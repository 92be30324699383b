package setup

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecr/types"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/image"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// A tag is one content's: a repository with immutable tags takes a second push of the same, and has room for another.
func TestImageTags(t *testing.T) {
	binaries := testPrograms(t)
	tags := func(version string, lists ...string) (tags []string) {
		t.Helper()
		var classes []account.Class
		for _, list := range lists {
			classes = append(classes, account.Class{Name: "c", Allow: strings.Fields(list)})
		}
		images, err := Images(binaries, version, classes)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range images {
			tags = append(tags, i.Tag)
		}
		return tags
	}
	first := tags("v1.2.3", "*.internal:5432", "*.internal:6379")
	if first[0] == first[1] {
		t.Errorf("two lists have the tag %s", first[0])
	}
	if again := tags("v1.2.3", "*.internal:5432", "*.internal:6379"); !slices.Equal(again, first) {
		t.Errorf("the second time the tags were %q, the first time %q", again, first)
	}
	for version, begin := range map[string]string{
		"v1.2.3": "v1.2.3-", "v1.2.3+meta": "v1.2.3-meta-", "-dirty": "dirty-", strings.Repeat("9", 300): "999",
	} {
		tag := tags(version, "")[0]
		if form := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`); !form.MatchString(tag) || !strings.HasPrefix(tag, begin) {
			t.Errorf("version %q: tag %q, want one that begins with %q", version, tag, begin)
		}
	}
}

// elasticRegistry is a registry by TLS that wants ECR's user and password, and a transport on which every host leads to it.
func elasticRegistry(t *testing.T, password string) http.RoundTripper {
	t.Helper()
	blobs := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, given, _ := r.BasicAuth(); user != "AWS" || given != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		blobs.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	transport := server.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ServerName = "example.com" // in the test's certificate
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// token is an answer of GetAuthorizationToken.
func token(text string) *ecr.GetAuthorizationTokenOutput {
	return &ecr.GetAuthorizationTokenOutput{AuthorizationData: []types.AuthorizationData{{
		AuthorizationToken: aws.String(base64.StdEncoding.EncodeToString([]byte(text))),
	}}}
}

func testRegistry(transport http.RoundTripper, out *ecr.GetAuthorizationTokenOutput, err error) *Registry {
	return &Registry{
		transport: transport,
		token: func(context.Context, *ecr.GetAuthorizationTokenInput, ...func(*ecr.Options)) (*ecr.GetAuthorizationTokenOutput, error) {
			return out, err
		},
	}
}

func TestPush(t *testing.T) {
	images, err := Images(testPrograms(t), "v1.2.3", []account.Class{{Name: "read", Allow: []string{"*:5432"}}, {Name: "admin"}})
	if err != nil {
		t.Fatal(err)
	}
	r := testRegistry(elasticRegistry(t, "made-up"), token("AWS:made-up"), nil)
	const repository = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/bastion"
	push := func() (sent int64) {
		t.Helper()
		totals := make(map[int64]int64)
		if err := r.Push(t.Context(), images, repository, func(p image.Progress) { totals[p.Total] = p.Sent }); err != nil {
			t.Fatal(err)
		}
		for n := range maps.Values(totals) {
			sent += n
		}
		return sent
	}
	if push() == 0 {
		t.Error("the first push sent nothing")
	}
	if sent := push(); sent != 0 {
		t.Errorf("the second push sent %d bytes", sent)
	}
	if err := r.Push(t.Context(), images, "", nil); err == nil || !strings.Contains(err.Error(), "no output RepositoryUri") || fail.NextOf(err) == "" {
		t.Errorf("without a repository: %v, next %q", err, fail.NextOf(err))
	}
}

func TestSignInFails(t *testing.T) {
	for name, test := range map[string]struct {
		out  *ecr.GetAuthorizationTokenOutput
		err  error
		want string
	}{
		"no answer":    {err: errors.New("connection reset"), want: "sign in to the registry of the account: connection reset"},
		"no token":     {out: &ecr.GetAuthorizationTokenOutput{}, want: "without a token"},
		"no password":  {out: token("AWS"), want: "USER:PASSWORD"},
		"not base 64":  {out: &ecr.GetAuthorizationTokenOutput{AuthorizationData: []types.AuthorizationData{{AuthorizationToken: aws.String("!")}}}, want: "USER:PASSWORD"},
		"wrong answer": {out: token("AWS:guess"), want: "401"},
	} {
		t.Run(name, func(t *testing.T) {
			images, err := Images(testPrograms(t), "v1.2.3", []account.Class{{}})
			if err != nil {
				t.Fatal(err)
			}
			err = testRegistry(elasticRegistry(t, "made-up"), test.out, test.err).Push(t.Context(), images, "registry.example.com/bastion", nil)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "guess") {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if name != "no answer" && fail.NextOf(err) == "" {
				t.Errorf("%v: no next step", err)
			}
		})
	}
}
