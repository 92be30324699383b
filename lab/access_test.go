package lab_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/lab"
)

// calls is one call of each service, by its protocol's way to fail.
func calls(ctx context.Context, cfg aws.Config) map[string]func() error {
	return map[string]func() error{
		"ecs": func() error {
			_, err := ecs.NewFromConfig(cfg).ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String("bastion")})
			return err
		},
		"ssm": func() error {
			_, err := ssm.NewFromConfig(cfg).StartSession(ctx, &ssm.StartSessionInput{Target: aws.String("i-0")})
			return err
		},
		"kms": func() error {
			_, err := kms.NewFromConfig(cfg).GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: aws.String("alias/lab")})
			return err
		},
		"sts": func() error { _, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, nil); return err },
		"rds": func() error { _, err := rds.NewFromConfig(cfg).DescribeDBInstances(ctx, nil); return err },
		"elasticache": func() error {
			_, err := elasticache.NewFromConfig(cfg).DescribeReplicationGroups(ctx, nil)
			return err
		},
		"ec2": func() error { _, err := ec2.NewFromConfig(cfg).DescribeSubnets(ctx, nil); return err },
	}
}

// jsonServices have errors of one form, the others of another.
var jsonServices = map[string]bool{"ecs": true, "ssm": true, "kms": true}

// form picks the code that a service's protocol has for an error.
func form(service, json, query, ec2 string) string {
	switch {
	case jsonServices[service]:
		return json
	case service == "ec2":
		return ec2
	}
	return query
}

func TestCredentialsAreChecked(t *testing.T) {
	l := start(t, quick(t))
	expired, err := l.AddIdentity("late", lab.IdentityConfig{Expires: time.Now().Add(-time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	good, err := sdk(t, l.Env()).Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*aws.Credentials)) aws.Config {
		cfg := sdk(t, l.Env())
		creds := good
		change(&creds)
		cfg.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return creds, nil })
		return cfg
	}
	for _, tt := range []struct {
		name             string
		cfg              aws.Config
		json, query, ec2 string
		message          string
	}{
		{
			"wrong secret", with(func(c *aws.Credentials) { c.SecretAccessKey += "x" }),
			"InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure", "",
		},
		{
			"unknown key", with(func(c *aws.Credentials) { c.AccessKeyID = "AKIANOSUCHKEY0000000" }),
			"UnrecognizedClientException", "InvalidClientTokenId", "AuthFailure", "",
		},
		{
			"unknown token", with(func(c *aws.Credentials) { c.SessionToken = "x" }),
			"UnrecognizedClientException", "InvalidClientTokenId", "AuthFailure", "",
		},
		{"expired", sdk(t, expired), "ExpiredTokenException", "ExpiredToken", "RequestExpired", "expired"},
	} {
		for service, call := range calls(t.Context(), tt.cfg) {
			t.Run(tt.name+"/"+service, func(t *testing.T) {
				wantCode(t, call(), form(service, tt.json, tt.query, tt.ec2), tt.message)
			})
		}
	}
	if n := l.Calls(); len(n) != 0 {
		t.Errorf("calls counted without credentials: %v", n)
	}
}

// Credentials that a command prints are renewed in place. A session that the old ones began is resumed by those alone.
func TestCredentialProcess(t *testing.T) {
	l := start(t, quick(t))
	_, _ = run(t, l)
	login := func(expires time.Time) []string {
		t.Helper()
		env, err := l.AddIdentity("sso", lab.IdentityConfig{Allow: []string{"*"}, Expires: expires, Process: true})
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	login(time.Now().Add(time.Hour))
	old := sdk(t, login(time.Now().Add(time.Hour)))
	session := func(cfg aws.Config) *string {
		t.Helper()
		out, err := ssm.NewFromConfig(cfg).StartSession(t.Context(), &ssm.StartSessionInput{
			Target: aws.String(l.Tasks()[0].Target), DocumentName: aws.String("AWS-StartSSHSession"),
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.SessionId
	}
	resume := func(cfg aws.Config, id *string) error {
		_, err := ssm.NewFromConfig(cfg).ResumeSession(t.Context(), &ssm.ResumeSessionInput{SessionId: id})
		return err
	}
	id := session(old)
	if err := resume(old, id); err != nil {
		t.Error(err)
	}
	renewed := sdk(t, login(time.Now().Add(time.Hour)))
	wantCode(t, resume(renewed, id), "AccessDeniedException", "Forbidden")
	if err := resume(renewed, session(renewed)); err != nil {
		t.Error(err)
	}
	// A user's own credentials have no end, and neither has the session that they began.
	if err := resume(renewed, session(sdk(t, l.Env()))); err != nil {
		t.Error(err)
	}
	expired := sdk(t, login(time.Now().Add(-time.Minute)))
	if _, err := sts.NewFromConfig(expired).GetCallerIdentity(t.Context(), nil); err == nil {
		t.Error("expired credentials are accepted")
	}
}

func TestOtherRegion(t *testing.T) {
	l := start(t, quick(t))
	cfg := sdk(t, l.Env())
	cfg.Region = "us-east-1"
	_, err := ecs.NewFromConfig(cfg).ListTasks(t.Context(), nil)
	wantCode(t, err, "InvalidSignatureException", "valid region")
}

func TestDenied(t *testing.T) {
	l := start(t, quick(t))
	for _, tt := range []struct {
		name string
		cfg  lab.IdentityConfig
		why  string
	}{
		{"explicitly", lab.IdentityConfig{Deny: []string{"*"}}, "with an explicit deny in an identity-based policy"},
		{"implicitly", lab.IdentityConfig{Allow: []string{"s3:*"}}, "because no identity-based policy allows the "},
	} {
		env, err := l.AddIdentity(tt.name, tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		for service, call := range calls(t.Context(), sdk(t, env)) {
			t.Run(tt.name+"/"+service, func(t *testing.T) {
				err := call()
				if service == "sts" {
					if err != nil {
						t.Error("GetCallerIdentity needs no permission:", err)
					}
					return
				}
				code := form(service, "AccessDeniedException", "AccessDenied", "UnauthorizedOperation")
				who := "User: arn:aws:iam::000000000000:user/" + tt.name + " is not authorized to perform: " + service + ":"
				wantCode(t, err, code, who)
				wantCode(t, err, code, tt.why)
			})
		}
	}
}

func TestDeniedByAction(t *testing.T) {
	l := start(t, quick(t))
	for _, tt := range []struct{ deny, resource string }{
		{"ecs:RunTask", "arn:aws:ecs:eu-central-1:000000000000:task-definition/bastion:1"},
		{"iam:PassRole", "arn:aws:iam::000000000000:role/bastion-ExecutionRole-0LAB0LAB0LAB"},
		{"ecs:TagResource", "arn:aws:ecs:eu-central-1:000000000000:task/bastion/*"},
	} {
		env, err := l.AddIdentity("someone", lab.IdentityConfig{Deny: []string{tt.deny}, Allow: []string{"*"}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = ecs.NewFromConfig(sdk(t, env)).RunTask(t.Context(), runInput())
		wantCode(t, err, "AccessDeniedException",
			"User: arn:aws:iam::000000000000:user/someone is not authorized to perform: "+tt.deny+" on resource: "+
				tt.resource+" ")
	}
	if len(l.Tasks()) != 0 {
		t.Error("a denied call started a task")
	}
	env, err := l.AddIdentity("someone", lab.IdentityConfig{Deny: []string{"ecs:Run*"}, Allow: []string{"ecs:*"}})
	if err != nil {
		t.Fatal(err)
	}
	in := &ecs.ListTasksInput{Cluster: aws.String("bastion")}
	if _, err := ecs.NewFromConfig(sdk(t, env)).ListTasks(t.Context(), in); err != nil {
		t.Error("what is not denied is allowed:", err)
	}
}

func TestIdentityNames(t *testing.T) {
	l := start(t, quick(t))
	for _, name := range []string{"", "a b", "x]\n[y", strings.Repeat("x", 65)} {
		if _, err := l.AddIdentity(name, lab.IdentityConfig{}); err == nil {
			t.Errorf("%q is a name", name)
		}
	}
}

func TestThrottling(t *testing.T) {
	l := start(t, quick(t))
	if err := l.SetAPIFaults(lab.APIFaults{Throttle: map[string]int{"*": 7}}); err != nil {
		t.Fatal(err)
	}
	all := calls(t.Context(), sdk(t, l.Env()))
	for service, call := range all {
		wantCode(t, call(), form(service, "ThrottlingException", "Throttling", "RequestLimitExceeded"), "exceeded")
	}
	if err := all["sts"](); err != nil {
		t.Error("after the throttling:", err)
	}
	if got := l.APIFaults().Throttle["*"]; got != 0 {
		t.Errorf("%d left", got)
	}
	if got := l.Calls()["sts:GetCallerIdentity"]; got != 2 {
		t.Errorf("%d calls of GetCallerIdentity counted, want 2", got)
	}

	if err := l.SetAPIFaults(lab.APIFaults{Rate: map[string]float64{"sts:*": 0.001}}); err != nil {
		t.Fatal(err)
	}
	if err := all["sts"](); err != nil {
		t.Error("the first call:", err)
	}
	wantCode(t, all["sts"](), "Throttling", "Rate exceeded")
	if err := all["rds"](); err != nil {
		t.Error("another service:", err)
	}
}

func TestErrorFaults(t *testing.T) {
	l := start(t, quick(t))
	all := calls(t.Context(), sdk(t, l.Env()))
	set := func(f lab.APIFaults) {
		t.Helper()
		if err := l.SetAPIFaults(f); err != nil {
			t.Fatal(err)
		}
	}
	oops := lab.APIError{Code: "InternalFailure", Message: "oops", Status: 500, Count: 1}
	set(lab.APIFaults{Errors: map[string]lab.APIError{"rds:*": oops}})
	wantCode(t, all["rds"](), "InternalFailure", "oops")
	if err := all["rds"](); err != nil {
		t.Error("the error was for one call:", err)
	}
	set(lab.APIFaults{Deny: []string{"ecs:List*"}})
	wantCode(t, all["ecs"](), "AccessDeniedException", "ecs:ListTasks")
	set(lab.APIFaults{})
	if err := all["ecs"](); err != nil {
		t.Error("without faults:", err)
	}
	for _, bad := range []lab.APIFaults{
		{Rate: map[string]float64{"*": 0}}, {Errors: map[string]lab.APIError{"*": {}}}, {LatencyMS: -1},
	} {
		if err := l.SetAPIFaults(bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func TestUnknownOperation(t *testing.T) {
	l := start(t, quick(t))
	_, err := ecs.NewFromConfig(sdk(t, l.Env())).ListAccountSettings(t.Context(), nil)
	wantCode(t, err, "UnknownOperationException", "ListAccountSettings")
	_, err = rds.NewFromConfig(sdk(t, l.Env())).DescribeEvents(t.Context(), nil)
	wantCode(t, err, "InvalidAction", "DescribeEvents")
	if n := l.Calls()["ecs:?"]; n != 1 {
		t.Errorf("calls %v", l.Calls())
	}
}

func TestStartWithBadConfig(t *testing.T) {
	cfg := quick(t)
	cfg.Listen = "0.0.0.0:0"
	if l, err := lab.Start(t.Context(), cfg); err == nil {
		t.Error(errors.Join(errors.New("the lab listens on all addresses"), l.Close()))
	}
}
