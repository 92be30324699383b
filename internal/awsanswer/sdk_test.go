package awsanswer_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
)

// The SDK's own errors are read right, those of pages that proxies and gateways answer included.
func TestOfTheSDK(t *testing.T) {
	const page = "<html><body>no</body></html>"
	for _, tt := range []struct {
		status   int
		body     string
		ssm, ecs awsanswer.Class
		sts      awsanswer.Class // which has XML
	}{
		{400, `{"__type":"com.amazonaws.ssm#TargetNotConnected","message":"x is not connected."}`, awsanswer.NotConnected, awsanswer.NotConnected, awsanswer.Foreign},
		{400, `{"__type":"ClientException","message":"the maximum session limit of 2 has been reached."}`, awsanswer.LimitReached, awsanswer.LimitReached, awsanswer.Foreign},
		{400, `{"__type":"InvalidParameterException","message":"the execute command agent isn’t running."}`, awsanswer.Final, awsanswer.NotConnected, awsanswer.Foreign},
		{400, `{"__type":"ThrottlingException","message":"Rate exceeded"}`, awsanswer.Throttled, awsanswer.Throttled, awsanswer.Foreign},
		{500, `{}`, awsanswer.Transient, awsanswer.Transient, awsanswer.Transient},
		{502, page, awsanswer.Transient, awsanswer.Transient, awsanswer.Transient},
		{503, page, awsanswer.Transient, awsanswer.Transient, awsanswer.Transient},
		{429, "", awsanswer.Throttled, awsanswer.Throttled, awsanswer.Throttled},
		{403, page, awsanswer.Foreign, awsanswer.Foreign, awsanswer.Foreign},
		{407, page, awsanswer.Foreign, awsanswer.Foreign, awsanswer.Foreign},
		{200, page, awsanswer.Foreign, awsanswer.Foreign, awsanswer.Foreign},
	} {
		t.Run(fmt.Sprint(tt.status, tt.body), func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				_, _ = fmt.Fprint(w, tt.body)
			}))
			defer server.Close()
			cfg := aws.Config{
				Region: "eu-west-1", BaseEndpoint: &server.URL, HTTPClient: server.Client(),
				Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""),
				Retryer:     func() aws.Retryer { return aws.NopRetryer{} },
			}
			_, err := ssm.NewFromConfig(cfg).StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String("i-1")})
			if got := awsanswer.ClassOf(err); got != tt.ssm {
				t.Errorf("ssm: %v, want %v: %v", got, tt.ssm, err)
			}
			_, err = ecs.NewFromConfig(cfg).ExecuteCommand(t.Context(), &ecs.ExecuteCommandInput{
				Task: aws.String("t"), Command: aws.String("c"), Interactive: true,
			})
			if got := awsanswer.ClassOf(err); got != tt.ecs {
				t.Errorf("ecs: %v, want %v: %v", got, tt.ecs, err)
			}
			_, err = sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
			if got := awsanswer.ClassOf(err); got != tt.sts {
				t.Errorf("sts: %v, want %v: %v", got, tt.sts, err)
			}
		})
	}
}
