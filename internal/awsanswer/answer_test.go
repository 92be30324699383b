package awsanswer_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
)

const (
	who    = "User: arn:aws:sts::111122223333:assumed-role/dev/me is not authorized to perform: "
	onTask = "ssm:StartSession on resource: arn:aws:ecs:eu-west-1:111122223333:task/tools/0123 "
	start  = "StartSession"
	exec   = "ExecuteCommand"

	notRunning = "The execute command failed because execute command was not enabled when the task was run or the execute " +
		"command agent isn%st running. Wait and try again or run a new task with execute command enabled and try again."
)

// Each row is an answer as AWS gives it, and what the product makes of it. Rows that differ only in the text, or only in the
// operation, stand together.
func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		op, code, message string
		status            int
		class             awsanswer.Class
		next              string // part of the next step
	}{
		// Not connected yet, and what looks like it.
		{exec, "InvalidParameterException", fmt.Sprintf(notRunning, "'"), 400, awsanswer.NotConnected, "wait"},
		{exec, "InvalidParameterException", fmt.Sprintf(notRunning, "’"), 400, awsanswer.NotConnected, "wait"},
		{"DescribeTasks", "InvalidParameterException", fmt.Sprintf(notRunning, "'"), 400, awsanswer.Final, ""},
		{exec, "ClientException", fmt.Sprintf(notRunning, "'"), 400, awsanswer.NotConnected, "wait"},
		{exec, "InvalidParameterException", "The task is not running.", 400, awsanswer.NotConnected, "wait"},
		{exec, "InvalidParameterException", "The container bastion isn't in the RUNNING state.", 400, awsanswer.NotConnected, "wait"},
		{
			exec, "InvalidParameterException", "The execute command failed because execute command was not enabled when the task was run.",
			400, awsanswer.Final, "start another",
		},
		{exec, "InvalidParameterException", "The task is stopped.", 400, awsanswer.NotFound, "bastion up"},
		{exec, "InvalidParameterException", "Command cannot be empty.", 400, awsanswer.Final, ""},
		{exec, "InvalidParameterException", "The referenced task was not found.", 400, awsanswer.NotFound, "bastion up"},
		{exec, "InvalidParameterException", "The container web was not found in the task.", 400, awsanswer.Config, "--container"},
		{
			exec, "TargetNotConnectedException", "The execute command failed due to an internal error. Try again later.", 400,
			awsanswer.NotConnected, "wait",
		},
		{start, "TargetNotConnected", "ecs:tools_0123_0123-1 is not connected.", 400, awsanswer.NotConnected, "wait"},
		{start, "com.amazonaws.ssm#TargetNotConnected", "i-1 is not connected.", 400, awsanswer.NotConnected, "describe-instance-information"},
		{start, "TargetNotConnected", "mi-0123456789abcdef0 is not connected.", 400, awsanswer.NotConnected, "describe-instance-information"},
		{start, "InvalidTarget", "The target is not valid.", 400, awsanswer.NotFound, "--region"},

		// Numbers that are used up.
		{
			exec, "ClientException", "Unable to start new execute sessions because the maximum session limit of 2 has been reached.",
			400, awsanswer.LimitReached, "end sessions",
		},
		{exec, "ClientException", "The task definition is inactive.", 400, awsanswer.Config, "task definition"},
		{exec, "ClientException", "Something else.", 400, awsanswer.Final, ""},
		{start, "ServiceQuotaExceededException", "Too many sessions are active.", 400, awsanswer.LimitReached, "end sessions"},
		{start, "QuotaExceeded", "", 400, awsanswer.LimitReached, "end sessions"},
		{start, "LimitExceededException", "", 400, awsanswer.LimitReached, "end sessions"},
		{start, "LimitExceededException", "Rate exceeded", 400, awsanswer.Throttled, "throttling"},
		{start, "CommandBufferFull", "", 400, awsanswer.LimitReached, "end sessions"},
		{"", "", "CommandBufferFull", 0, awsanswer.LimitReached, "end sessions"},
		{"RunTask", "LimitExceededException", "The limit for the resource was exceeded.", 400, awsanswer.LimitReached, "quota"},
		{
			"RunTask", "ThrottlingException", "You've reached the limit on the number of tasks you can run concurrently", 400,
			awsanswer.LimitReached, "quota",
		},

		// Throttling, in any code.
		{start, "ThrottlingException", "Rate exceeded", 400, awsanswer.Throttled, "throttling"},
		{"DescribeSubnets", "RequestLimitExceeded", "Request limit exceeded.", 503, awsanswer.Throttled, "throttling"},
		{start, "TooManyRequestsException", "", 400, awsanswer.Throttled, "throttling"},
		{start, "TooManyRequests", "", 400, awsanswer.Throttled, "throttling"},
		{start, "RateExceeded", "", 400, awsanswer.Throttled, "throttling"},
		{start, "SlowDown", "", 503, awsanswer.Throttled, "throttling"},
		{exec, "ClientException", "Rate exceeded", 400, awsanswer.Throttled, "throttling"},
		{start, "AccessDeniedException", "Rate exceeded", 400, awsanswer.Throttled, "throttling"},
		{start, "NeverSeenBefore", "", 429, awsanswer.Throttled, "throttling"},
		{
			start, "ValidationException", "1 validation error: Value 'Rate exceeded' at 'reason' failed to satisfy constraint",
			400, awsanswer.Final, "",
		},

		// Credentials.
		{start, "ExpiredTokenException", "The security token included in the request is expired", 400, awsanswer.Expired, "sign in again"},
		{"DescribeSubnets", "RequestExpired", "Request has expired.", 400, awsanswer.Expired, "sign in again"},
		{
			start, "UnrecognizedClientException", "The security token included in the request is expired", 400, awsanswer.Expired,
			"sign in again",
		},
		{
			start, "UnrecognizedClientException", "The security token included in the request is invalid.", 400,
			awsanswer.BadCredentials, "secret key",
		},
		{"GetCallerIdentity", "InvalidClientTokenId", "The security token ... is invalid", 403, awsanswer.BadCredentials, "secret key"},
		{"RunTask", "ExpiredTokenException", who + "iam:PassRole on resource: r", 400, awsanswer.Expired, "sign in again"},
		{"RunTask", "OddException", who + "iam:PassRole on resource: r", 400, awsanswer.Denied, ""},
		{start, "AccessDeniedException", "The security token included in the request is expired", 400, awsanswer.Expired, "sign in again"},
		{
			start, "InvalidSignatureException", "The request signature we calculated does not match the signature you provided.",
			400, awsanswer.BadCredentials, "secret key",
		},
		{
			start, "InvalidSignatureException", "Signature expired: 20260301T080000Z is now earlier than 20260301T085500Z",
			400, awsanswer.BadCredentials, "clock",
		},
		{start, "InvalidSignatureException", "Signature not yet current: 2026", 400, awsanswer.BadCredentials, "clock"},
		{
			"DescribeDBClusters", "SignatureDoesNotMatch", "Credential should be scoped to a valid region, not 'eu-cental-1'.", 403,
			awsanswer.Config, "--region",
		},
		{
			"DescribeSubnets", "AuthFailure", "AWS was not able to validate the provided access credentials", 401,
			awsanswer.BadCredentials, "secret key",
		},
		{"DescribeSubnets", "AuthFailure", "Not authorized for subnet", 403, awsanswer.Denied, ""},
		{"DescribeSubnets", "OptInRequired", "You are not subscribed to this service.", 403, awsanswer.Final, "enable the region"},

		{"GetRoleCredentials", "ForbiddenException", "No access", 403, awsanswer.Denied, "choose another account or role"},
		{"GetRoleCredentials", "UnauthorizedException", "Session token not found or invalid", 401, awsanswer.BadCredentials, "sign in"},
		{
			"AssumeRole", "AccessDenied", "MultiFactorAuthentication failed with invalid MFA one time pass code.", 403,
			awsanswer.BadCredentials, "MFA device",
		},
		{
			"AssumeRole", "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.", 400,
			awsanswer.BadCredentials, "duration_seconds",
		},

		// Documents and features.
		{start, "InvalidDocument", "Document with name AWS-StartSSHSession does not exist.", 400, awsanswer.Unsupported, "document"},
		{start, "ValidationException", "The document AWS-StartSSHSession is not supported.", 400, awsanswer.Unsupported, "document"},
		{start, "BadRequest", "This operation is not supported on this target.", 400, awsanswer.Unsupported, "target"},
		{start, "UnsupportedOperationException", "", 400, awsanswer.Unsupported, ""},
		{
			start, "BadRequest", "Enable advanced-instances tier to use Session Manager with your on-premises instances", 400,
			awsanswer.Config, "advanced-instances",
		},
		{start, "BadRequest", "", 400, awsanswer.Final, ""},
		{
			start, "BadRequest", "The version of the SSM agent installed on this instance doesn't support port forwarding to remote hosts.",
			400, awsanswer.Unsupported, "session_document",
		},
		{start, "BadRequest", "Currently, port forwarding sessions are not supported.", 400, awsanswer.Unsupported, "session_document"},
		{
			start, "InvalidDocument", "Document type: 'Command' is not supported. Only type: 'Session' is supported for Session Manager.",
			400, awsanswer.Unsupported, "session_document",
		},

		// What the settings name.
		{"RunTask", "ClusterNotFoundException", "Cluster not found.", 400, awsanswer.Config, "--region"},
		{"RunTask", "ClientException", "TaskDefinition not found.", 400, awsanswer.Config, "--task-definition"},
		{
			"RunTask", "InvalidParameterException", "The security group sg-1 does not belong to the same VPC as the input subnets.", 400,
			awsanswer.Config, "subnets",
		},
		{
			"RunTask", "InvalidParameterException", "ECS Exec needs a task role: taskRoleArn is not set on the task definition.", 400,
			awsanswer.Final, "task role",
		},
		{"RunTask", "ClientException", "ECS was unable to assume the role 'arn' that was provided for this task.", 400, awsanswer.Final, "trust"},
		{
			"RunTask", "InvalidParameterException",
			"Unable to assume the service linked role. Please verify that the ECS service linked role exists.", 400, awsanswer.Transient,
			"create-service-linked-role",
		},
		{
			"RunTask", "ClientException", "Capacity is unavailable at this time. Please try again later or in a different availability zone",
			400, awsanswer.Transient, "availability zones",
		},
		{"RunTask", "ClientException", "Tasks provisioning capacity limit exceeded.", 400, awsanswer.LimitReached, "quota"},
		{"RunTask", "PlatformUnknownException", "", 400, awsanswer.Config, "Fargate"},
		{"RunTask", "InvalidParameterException", "Override for container named web is not a container", 400, awsanswer.Final, ""},
		{"DescribeSubnets", "InvalidSubnetID.NotFound", "The subnet ID 'subnet-1' does not exist", 400, awsanswer.Config, "subnets"},
		{"RunTask", "", "RESOURCE:ENI", 0, awsanswer.Final, "no free network interfaces"},
		{"RunTask", "", "RESOURCE:MEMORY (none left) for arn:c", 0, awsanswer.Final, "lacks that resource"},
		{"RunTask", "", "MISSING for arn:c", 0, awsanswer.Config, "check the names"},
		{
			"RunTask", "InvalidParameterException", "The new ARN and resource ID format must be enabled to add tags to the task.", 400,
			awsanswer.Config, "taskLongArnFormat",
		},
		{
			"RunTask", "ClientException", "Fargate requires task definition to have execution role ARN to support ECR images.", 400,
			awsanswer.Config, "execution role",
		},
		{
			"RunTask", "InvalidParameterException", "No Fargate configuration exists for given values: 1 CPU, 2 memory.", 400,
			awsanswer.Config, "--task-size",
		},
		{"RunTask", "BlockedException", "", 400, awsanswer.Final, "Support"},
		{"RunTask", "ClientException", "Account is blocked", 400, awsanswer.Final, "Support"},
		{"ResumeSession", "DoesNotExistException", "Session x does not exist.", 400, awsanswer.NotFound, ""},
		{"DescribeDBInstances", "DBInstanceNotFoundFault", "DBInstance orders not found.", 404, awsanswer.NotFound, ""},
		{"DescribeInstances", "InvalidInstanceID.NotFound", "The instance ID 'i-1' does not exist", 400, awsanswer.NotFound, ""},
		{"SendSSHPublicKey", "EC2InstanceNotFoundException", "Instance not found.", 404, awsanswer.NotFound, ""},
		{"SendSSHPublicKey", "AuthException", "You do not have access to the EC2 instance.", 0, awsanswer.Denied, ""},
		{"SendSSHPublicKey", "EC2InstanceUnavailableException", "", 503, awsanswer.Transient, ""},
		{"GenerateDataKey", "NotFoundException", "Key 'k' does not exist", 400, awsanswer.NotFound, ""},
		{"GenerateDataKey", "DisabledException", "k is disabled.", 400, awsanswer.Config, "executeCommandConfiguration"},
		{"GenerateDataKey", "KMSInvalidStateException", "k is pending deletion.", 400, awsanswer.Config, "executeCommandConfiguration"},
		{"GenerateDataKey", "KeyUnavailableException", "", 500, awsanswer.Transient, "try again"},
		{"AssumeRole", "RegionDisabledException", "STS is not activated in this region.", 403, awsanswer.Final, "enable the region"},
		{"AssumeRoleWithWebIdentity", "IDPCommunicationError", "", 400, awsanswer.Transient, "try again"},

		// AWS's own failures, and other people's pages.
		{start, "InternalServerError", "", 500, awsanswer.Transient, "try again"},
		{exec, "ServerException", "Service Unavailable. Please try again later.", 500, awsanswer.Transient, "try again"},
		{start, "InternalFailure", "", 501, awsanswer.Transient, ""},
		{start, "ServiceUnavailable", "", 503, awsanswer.Transient, ""},
		{start, "NeverSeenBefore", "Who knows.", 500, awsanswer.Transient, ""},
		{start, "NeverSeenBefore", "Who knows.", 400, awsanswer.Final, ""},
		{start, "NeverSeenBefore", "Who knows.", 403, awsanswer.Denied, ""},
		{start, "NeverSeenBefore", "Who knows.", 0, awsanswer.Final, ""},
		{start, "UnknownError", "UnknownError", 502, awsanswer.Transient, "HTTPS_PROXY"},
		{start, "UnknownError", "UnknownError", 407, awsanswer.Foreign, "USER:PASSWORD"},
		{start, "UnknownError", "UnknownError", 429, awsanswer.Throttled, "throttling"},
		{start, "UnknownError", "Forbidden", 403, awsanswer.Foreign, "firewall"},
		{start, "UnknownError", "", 302, awsanswer.Foreign, "sign in to the network"},
		{start, "UnknownError", "Network Authentication Required", 511, awsanswer.Foreign, "sign in to the network"},
		{start, "UnknownError", "Unavailable For Legal Reasons", 451, awsanswer.Foreign, "firewall"},
	} {
		t.Run(strings.Join([]string{tt.op, tt.code, tt.message}, " "), func(t *testing.T) {
			got := awsanswer.Judge(awsanswer.Answer{Operation: tt.op, Code: tt.code, Message: tt.message, Status: tt.status})
			if got.Class != tt.class {
				t.Errorf("%v, want %v", got.Class, tt.class)
			}
			if !strings.Contains(got.Next, tt.next) || tt.next == "" && got.Class == awsanswer.Final && got.Next != "" {
				t.Errorf("the next step is %q, want one with %q", got.Next, tt.next)
			}
		})
	}
}

// A denial names the kind of policy, and the next step is addressed to those who can change that.
func TestDenials(t *testing.T) {
	for _, tt := range []struct {
		message  string
		policy   awsanswer.Policy
		explicit bool
		action   string
		next     string
	}{
		{"", awsanswer.NoPolicy, false, "", "ask for the IAM permission ssm:StartSession"},
		{"Forbidden", awsanswer.NoPolicy, false, "", "ask for the IAM permission ssm:StartSession"},
		{who + onTask, awsanswer.NoPolicy, false, "ssm:StartSession", "ask for the IAM permission ssm:StartSession"},
		{
			who + onTask + "because no identity-based policy allows the ssm:StartSession action", awsanswer.Identity, false,
			"ssm:StartSession", "ask for the IAM permission ssm:StartSession",
		},
		{
			who + "iam:PassRole on resource: arn:aws:iam::111122223333:role/r because no identity-based policy allows the iam:PassRole action",
			awsanswer.Identity, false, "iam:PassRole", "ask for the IAM permission iam:PassRole",
		},
		{
			who + onTask + "with an explicit deny in an identity-based policy", awsanswer.Identity, true, "ssm:StartSession",
			"denies ssm:StartSession explicitly",
		},
		{who + onTask + "with an explicit deny", awsanswer.NoPolicy, true, "ssm:StartSession", "explicit denial of ssm:StartSession"},
		{
			who + onTask + "with an explicit deny in a service control policy", awsanswer.SCP, true, "ssm:StartSession",
			"a service control policy denies ssm:StartSession",
		},
		{
			who + onTask + "with an explicit deny in a service control policy: arn:aws:organizations::1:policy/o-1/service_control_policy/p-1",
			awsanswer.SCP, true, "ssm:StartSession", "AWS organization",
		},
		{
			who + onTask + "because no service control policy allows the ssm:StartSession action", awsanswer.SCP, false,
			"ssm:StartSession", "AWS organization",
		},
		{
			who + onTask + "because no permissions boundary allows the ssm:StartSession action", awsanswer.Boundary, false,
			"ssm:StartSession", "in your permissions boundary",
		},
		{
			who + onTask + "with an explicit deny in a permissions boundary: arn:aws:iam::1:policy/b", awsanswer.Boundary, true,
			"ssm:StartSession", "your permissions boundary denies",
		},
		{
			who + onTask + "because no session policy allows the ssm:StartSession action", awsanswer.Session, false,
			"ssm:StartSession", "session policy",
		},
		{
			who + onTask + "with an explicit deny in a session policy", awsanswer.Session, true, "ssm:StartSession", "session policy",
		},
		{
			who + onTask + "because no resource-based policy allows the kms:Decrypt action", awsanswer.Resource, false,
			"ssm:StartSession", "resource-based policy",
		},
		{
			who + onTask + "with an explicit deny in a resource control policy", awsanswer.RCP, true, "ssm:StartSession",
			"resource control policy",
		},
		{
			who + onTask + "because no VPC endpoint policy allows the ssm:StartSession action", awsanswer.Endpoint, false,
			"ssm:StartSession", "VPC endpoint",
		},
		{
			who + onTask + "with an explicit deny in a VPC endpoint policy", awsanswer.Endpoint, true, "ssm:StartSession", "VPC endpoint",
		},
		{
			who + onTask + "because no resource control policy allows the ssm:StartSession action", awsanswer.RCP, false,
			"ssm:StartSession", "in its resource control policies",
		},
		{
			"User: u is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::1:role/r because no role trust policy allows " +
				"the sts:AssumeRole action", awsanswer.Trust, false, "sts:AssumeRole", "in its trust policy",
		},
		{
			"User: u is not authorized to perform: kms:GenerateDataKey on resource: arn:aws:kms:eu-west-1:1:key/k because no " +
				"resource-based policy allows the kms:GenerateDataKey action", awsanswer.Resource, false, "kms:GenerateDataKey",
			"ask the owner of arn:aws:kms:eu-west-1:1:key/k to allow kms:GenerateDataKey",
		},
		{
			"User: u is not authorized to perform: kms:Decrypt on the resource associated with this ciphertext because the resource does " +
				"not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access",
			awsanswer.Resource, false, "kms:Decrypt", "resource-based policy",
		},
		// The permission that somebody has is for another resource than the one that is denied.
		{
			who + "ssm:StartSession on resource: arn:aws:ssm:eu-west-1::document/AWS-StartSSHSession because no identity-based policy " +
				"allows the ssm:StartSession action", awsanswer.Identity, false, "ssm:StartSession",
			"ask for the IAM permission ssm:StartSession on arn:aws:ssm:eu-west-1::document/AWS-StartSSHSession",
		},
		{ // without a kind, each of the kinds may be it
			who + onTask, awsanswer.NoPolicy, false, "ssm:StartSession", "if the caller has it, a service control policy",
		},
		{
			who + onTask + "with an explicit deny in a network perimeter policy", awsanswer.Other, true, "ssm:StartSession",
			"a network perimeter policy denies ssm:StartSession",
		},
		{
			who + onTask + "because no network perimeter policy allows the ssm:StartSession action", awsanswer.Other, false,
			"ssm:StartSession", "allow ssm:StartSession in the network perimeter policy",
		},
		{
			"You are not authorized to perform this operation. User: u is not authorized to perform: ec2:DescribeSubnets with an explicit " +
				"deny in a service control policy. Encoded authorization failure message: abc", awsanswer.SCP, true, "ec2:DescribeSubnets",
			"a service control policy denies ec2:DescribeSubnets",
		},
		// A role may be named after a policy's words; IAM's own come last.
		{
			"User: arn:aws:sts::1:assumed-role/with an explicit deny in a service control policy/x is not authorized to perform: " +
				onTask + "because no permissions boundary allows the ssm:StartSession action",
			awsanswer.Boundary, false, "ssm:StartSession", "in your permissions boundary",
		},
	} {
		t.Run(tt.message, func(t *testing.T) {
			for _, code := range []string{"AccessDeniedException", "AccessDenied", "UnauthorizedOperation"} {
				got := awsanswer.Judge(awsanswer.Answer{Operation: start, Code: code, Message: tt.message, Status: 400})
				if got.Class != awsanswer.Denied || got.Policy != tt.policy || got.Explicit != tt.explicit || got.Action != tt.action {
					t.Errorf("%s: %v by %q, explicit %v, of %q", code, got.Class, got.Policy, got.Explicit, got.Action)
				}
				if next := got.NextDenied("ssm:StartSession"); !strings.Contains(next, tt.next) || strings.Contains(next, "ACTION") {
					t.Errorf("%s: the next step is %q, want one with %q", code, next, tt.next)
				}
			}
		})
	}
}

// apiError, opError and httpError are what the SDK's errors are made of.
type apiError struct{ code, message string }

func (e *apiError) Error() string        { return e.code + ": " + e.message }
func (e *apiError) ErrorCode() string    { return e.code }
func (e *apiError) ErrorMessage() string { return e.message }

type opError struct {
	service, operation string
	error
}

func (e *opError) Error() string {
	return "operation error " + e.service + ": " + e.operation + ", " + e.error.Error()
}
func (e *opError) Unwrap() error     { return e.error }
func (e *opError) Service() string   { return e.service }
func (e *opError) Operation() string { return e.operation }

type httpError struct {
	status int
	error
}

func (e *httpError) Unwrap() error       { return e.error }
func (e *httpError) HTTPStatusCode() int { return e.status }

// A denial has the statement that would allow the call, unless another statement denies it.
func TestStatement(t *testing.T) {
	const said = "User: u is not authorized to perform: ecs:RunTask on resource: arn:aws:ecs:eu-central-1:1:cluster/c "
	for name, tt := range map[string]struct{ message, want string }{
		"named":   {said + "because no identity-based policy allows the ecs:RunTask action", `{"Effect":"Allow","Action":"ecs:RunTask","Resource":"arn:aws:ecs:eu-central-1:1:cluster/c"}`},
		"unnamed": {"no", `{"Effect":"Allow","Action":"a:B","Resource":"r"}`},
		"denied":  {said + "with an explicit deny in an identity-based policy", ""},
	} {
		if got := awsanswer.Judge(awsanswer.Answer{Code: "AccessDeniedException", Message: tt.message}).Statement("a:B", "r"); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
	if got := awsanswer.Judge(awsanswer.Answer{Code: "ThrottlingException"}).Statement("a:B", "r"); got != "" {
		t.Errorf("another answer: %s", got)
	}
	if got := awsanswer.Judge(awsanswer.Answer{Code: "AccessDeniedException"}).Statement("a:B", ""); !strings.Contains(got, `"Resource":"*"`) {
		t.Errorf("no resource: %s", got)
	}
}

func TestOf(t *testing.T) {
	call := func(op string, err error) error { return fmt.Errorf("doing: %w", &opError{"SSM", op, err}) }
	signIn := func(err error) error {
		return call(start, fmt.Errorf("get identity: get credentials: failed to refresh cached credentials, %w",
			&opError{"SSO", "GetRoleCredentials", err}))
	}
	for _, tt := range []struct {
		name  string
		err   error
		class awsanswer.Class
		said  string
	}{
		{"none", nil, awsanswer.None, ""},
		{"network", call(start, errors.New("connection refused")), awsanswer.None, ""},
		{"api", call(start, &httpError{400, &apiError{"TargetNotConnected", "i-1 is not connected."}}), awsanswer.NotConnected, "i-1"},
		{"status counts", call(start, &httpError{500, &apiError{"Odd", "odd"}}), awsanswer.Transient, "Odd: odd"},
		{"operation counts", call("Other", &apiError{"InvalidParameterException", fmt.Sprintf(notRunning, "'")}), awsanswer.Final, ""},
		{"proxy's page", call(start, &httpError{403, errors.New("invalid character '<'")}), awsanswer.Foreign, "HTTP 403"},
		{"gateway's page", call(start, &httpError{503, errors.New("invalid character '<'")}), awsanswer.Transient, "HTTP 503"},
		{"page that is cut off", call(start, &httpError{403, io.ErrUnexpectedEOF}), awsanswer.Foreign, "HTTP 403"},
		{"answer that is cut off", call(start, &httpError{200, io.ErrUnexpectedEOF}), awsanswer.None, ""},
		{"answer whose connection breaks", call(start, &httpError{200, &net.OpError{Op: "read", Err: net.ErrClosed}}), awsanswer.None, ""},
		{"a firewall's words", call(start, &httpError{403, &apiError{"UnknownError", "Blocked"}}), awsanswer.Foreign, `HTTP 403 "Blocked"`},
		{"a proxy's page at sign-in", signIn(&httpError{403, errors.New("invalid character '<'")}), awsanswer.Foreign, "HTTP 403"},
		{"page in place of success", call(start, &httpError{200, errors.New("unexpected token")}), awsanswer.Foreign, "HTTP 200"},
		{"ended sign-in", signIn(&httpError{401, &apiError{"UnauthorizedException", "Session token not found or invalid"}}), awsanswer.BadCredentials, "Session token"},
		{"role not permitted", signIn(&apiError{"ForbiddenException", "No access"}), awsanswer.BadCredentials, "No access"},
		{"sign-in throttled", signIn(&apiError{"TooManyRequestsException", "HTTP 429"}), awsanswer.Throttled, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := awsanswer.Of(tt.err)
			if got.Class != tt.class || got.Class != awsanswer.ClassOf(tt.err) {
				t.Errorf("%v, want %v", got.Class, tt.class)
			}
			if tt.said != "" && !strings.Contains(got.String(), tt.said) {
				t.Errorf("%q does not say %q", got, tt.said)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	for message, want := range map[string]int{
		"Unable to start new execute sessions because the maximum session limit of 2 has been reached.": 2,
		"the Maximum session limit of 10 has been reached.":                                             10,
		"maximum session limit of 99999999999999999999999 has been reached":                             0,
		"Too many sessions are active.":                                                                 0,
	} {
		got := awsanswer.Judge(awsanswer.Answer{Operation: exec, Code: "ClientException", Message: message})
		if got.Class != awsanswer.LimitReached || got.Limit != want {
			t.Errorf("%q: %v of %d, want %d", message, got.Class, got.Limit, want)
		}
	}
}

// What passes by itself is tried again; all else is told.
func TestPasses(t *testing.T) {
	for class, want := range map[awsanswer.Class]bool{
		awsanswer.None: false, awsanswer.Final: false, awsanswer.Transient: true, awsanswer.Throttled: true,
		awsanswer.NotConnected: true, awsanswer.LimitReached: true, awsanswer.Denied: false, awsanswer.Expired: false,
		awsanswer.BadCredentials: false, awsanswer.NotFound: false, awsanswer.Config: false, awsanswer.Unsupported: false,
		awsanswer.Foreign: false,
	} {
		if class.Passes() != want {
			t.Errorf("%v passes: %v", class, !want)
		}
	}
}
