package recorded

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// A policy that allows more or less than what is called has a fault, and so has a reason that explains nothing.
func TestFaults(t *testing.T) {
	why := map[string]string{"a:Explained": "because"}
	for name, tt := range map[string]struct {
		allowed, called []string
		reasons         map[string]string
		want            []string
	}{
		"neither":          {[]string{"a:Call", "a:Explained"}, []string{"a:Call"}, why, nil},
		"a surplus":        {[]string{"a:Call", "a:More"}, []string{"a:Call"}, nil, []string{"a surplus: a:More is allowed, and is not called"}},
		"a gap":            {[]string{"a:Call"}, []string{"a:Call", "a:More"}, nil, []string{"a gap: a:More is called, and is not allowed"}},
		"a reason, called": {[]string{"a:Explained"}, []string{"a:Explained"}, why, []string{"a:Explained needs no reason: allowed true, called true"}},
		"a reason, denied": {nil, nil, why, []string{"a:Explained needs no reason: allowed false, called false"}},
	} {
		if got := Faults(tt.allowed, tt.called, tt.reasons); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	if got := differences([]string{"a:Gone", "a:Same"}, []string{"a:New", "a:Same"}); len(got) != 2 || !strings.HasPrefix(got[0], "a:New is called") {
		t.Errorf("%q", got)
	}
}

// A request tells its action by its protocol. One that does not is not passed over.
func TestAction(t *testing.T) {
	const signed = "AWS4-HMAC-SHA256 Credential=AKIATEST/20261201/eu-central-1/SERVICE/aws4_request, SignedHeaders=host, Signature=0"
	for want, r := range map[string]struct{ path, target, body string }{
		"ecs:StopTask":              {"/", "AmazonEC2ContainerServiceV20141113.StopTask", "{}"},
		"ec2:DescribeVpcs":          {"/", "", "Action=DescribeVpcs&Version=2016-11-15"},
		"cloudwatch:PutMetricAlarm": {"/service/GraniteServiceVersion20100801/operation/PutMetricAlarm", "", ""},
		"eks:GET/clusters/a":        {"/clusters/a", "", ""},
	} {
		service, _, _ := strings.Cut(want, ":")
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1"+r.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", strings.Replace(signed, "SERVICE", service, 1))
		request.Header.Set("X-Amz-Target", r.target)
		if got := Action(request, []byte(r.body)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// The requests of a registry's client are ECR's actions.
func TestRegistryAction(t *testing.T) {
	for text, want := range map[string]string{
		"GET /v2/": "", "HEAD /v2/bastion/manifests/1": "ecr:BatchGetImage", "PUT /v2/bastion/manifests/1": "ecr:PutImage",
		"HEAD /v2/bastion/blobs/sha256:0": "ecr:BatchCheckLayerAvailability", "GET /v2/bastion/blobs/sha256:0": "ecr:GetDownloadUrlForLayer",
		"POST /v2/bastion/blobs/uploads/": "ecr:InitiateLayerUpload", "PATCH /v2/bastion/blobs/uploads/1": "ecr:UploadLayerPart",
		"PUT /v2/bastion/blobs/uploads/1": "ecr:CompleteLayerUpload", "DELETE /v2/bastion/manifests/1": "ecr:DELETE/v2/bastion/manifests/1",
	} {
		method, path, _ := strings.Cut(text, " ")
		r, err := http.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := RegistryAction(r); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
