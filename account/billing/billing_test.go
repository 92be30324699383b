package billing

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/costexplorer"
	"github.com/aws/aws-sdk-go-v2/service/costexplorer/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var november = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// recorder remembers the bodies of requests.
type recorder struct {
	http.RoundTripper
	bodies []string
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	r.bodies = append(r.bodies, string(body))
	req.Body = io.NopCloser(bytes.NewReader(body))
	return r.RoundTripper.RoundTrip(req)
}

// An emulator that is not ours takes the question, and its answer is read: by services and by a tag. It answers what it was told.
func TestMoto(t *testing.T) {
	moto := rig.Moto(t)
	transport := rig.MotoClient(t).Transport
	group := func(key, amount string) map[string]any {
		return map[string]any{"Keys": []string{key}, "Metrics": map[string]any{metric: map[string]any{"Amount": amount, "Unit": "USD"}}}
	}
	result := func(estimated bool, groups ...map[string]any) map[string]any {
		return map[string]any{"ResultsByTime": []map[string]any{{
			"TimePeriod": map[string]string{"Start": "2026-11-01", "End": "2026-12-01"}, "Groups": groups, "Estimated": estimated,
		}}}
	}
	told, err := json.Marshal(map[string]any{"results": []map[string]any{
		result(true, group("Amazon Elastic Container Service", "6.42"), group("AWS Key Management Service", "1")),
		result(false, group("team$data", "0.5"), group("team$", "2.25")),
	}})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, moto+"/moto-api/static/ce/cost-and-usage-results", bytes.NewReader(told))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := transport.RoundTrip(request)
	if err != nil || answer.StatusCode != http.StatusCreated {
		t.Fatalf("%+v, %v", answer, err)
	}
	_ = answer.Body.Close()
	seen := &recorder{RoundTripper: transport}
	e := New(aws.Config{
		Region: "eu-central-1", BaseEndpoint: &moto, HTTPClient: &http.Client{Transport: seen},
		Credentials: credentials.NewStaticCredentialsProvider("madeup", "madeup", ""),
	})
	for _, tt := range []struct {
		tag  string
		want Bill
	}{
		{"", Bill{
			By: "service", Total: 7.42, Currency: "USD", Estimated: true, Requests: 1,
			Parts: []Part{{"Amazon Elastic Container Service", 6.42}, {"AWS Key Management Service", 1}},
		}},
		{"team", Bill{By: "tag:team", Total: 2.75, Currency: "USD", Requests: 1, Parts: []Part{{"", 2.25}, {"data", 0.5}}}},
		{"unknown", Bill{By: "tag:unknown", Currency: "USD", Requests: 1, Parts: []Part{}}},
	} {
		got, err := e.Ask(t.Context(), november, november.AddDate(0, 1, 0), tt.tag)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%+v, %v; want %+v", got, err, tt.want)
		}
	}
	for _, want := range []string{`"Tags":{"Key":"bastion","Values":["true"]}`, `"Start":"2026-11-01"`, `"End":"2026-12-01"`, `"Key":"SERVICE","Type":"DIMENSION"`} {
		if !strings.Contains(seen.bodies[0], want) {
			t.Errorf("asked %s, want %s", seen.bodies[0], want)
		}
	}
	if !strings.Contains(seen.bodies[1], `{"Key":"team","Type":"TAG"}`) {
		t.Errorf("asked %s", seen.bodies[1])
	}
}

// Pages are added up, and bounded: AWS charges each. Another currency is told, and what is no number is an error.
func TestAsk(t *testing.T) {
	pages := func(n int, amount, unit string) *Explorer {
		asked := 0
		return &Explorer{func(context.Context, *costexplorer.GetCostAndUsageInput, ...func(*costexplorer.Options)) (*costexplorer.GetCostAndUsageOutput, error) {
			out := &costexplorer.GetCostAndUsageOutput{ResultsByTime: []types.ResultByTime{{Groups: []types.Group{{
				Keys: []string{"a"}, Metrics: map[string]types.MetricValue{metric: {Amount: &amount, Unit: &unit}},
			}}}}}
			if asked++; asked < n {
				out.NextPageToken = aws.String("next")
			}
			return out, nil
		}}
	}
	if b, err := pages(3, "1.5", "CNY").Ask(t.Context(), november, november, ""); err != nil || b.Total != 4.5 || b.Requests != 3 || b.Currency != "CNY" {
		t.Errorf("%+v, %v", b, err)
	}
	if b, err := pages(100, "1", "USD").Ask(t.Context(), november, november, ""); err == nil || b.Requests != maxRequests {
		t.Errorf("%+v, %v", b, err)
	}
	if _, err := pages(1, "much", "USD").Ask(t.Context(), november, november, ""); err == nil || !strings.Contains(err.Error(), `"much"`) {
		t.Errorf("%v", err)
	}
	denied := &Explorer{func(context.Context, *costexplorer.GetCostAndUsageInput, ...func(*costexplorer.Options)) (*costexplorer.GetCostAndUsageOutput, error) {
		return nil, &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "not authorized to perform: ce:GetCostAndUsage"}
	}}
	if _, err := denied.Ask(t.Context(), november, november, ""); fail.KindOf(err) != fail.Denied || !strings.Contains(fail.NextOf(err), `"Action":"`+action+`","Resource":"*"`) {
		t.Errorf("%v, next %q", err, fail.NextOf(err))
	}
}

// Cost Explorer has whole days: the day that is not over counts.
func TestLastDay(t *testing.T) {
	for to, want := range map[time.Time]string{
		november: "2026-11-02", november.Add(time.Hour): "2026-11-02", november.Add(25 * time.Hour): "2026-11-03", november.AddDate(0, 1, 0): "2026-12-01",
	} {
		if got := lastDay(november, to); got != want {
			t.Errorf("%v: %s, want %s", to, got, want)
		}
	}
}
