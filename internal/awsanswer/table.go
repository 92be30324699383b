package awsanswer

import (
	"strings"

	"github.com/bastion-ssm/bastion/internal/pattern"
)

// NextSignIn is the next step if credentials are missing, or if AWS does not accept them.
const NextSignIn = "sign in (bastion login, aws configure) or choose a profile with --profile or AWS_PROFILE"

// Next steps of more than one rule.
const (
	nextExpired   = "the AWS credentials have expired: sign in again (bastion login) or renew them"
	nextKeys      = "check the AWS credentials: profile, access key and secret key"
	nextRegion    = "set the region of the endpoint: --region, AWS_REGION, or region in the AWS profile or in bastion.yaml"
	nextClock     = "set this machine's clock: AWS refuses signatures that are minutes off"
	nextThrottled = "AWS is throttling this account: wait a minute and try again"
	nextSessions  = "end sessions that are not needed (bastion stop, or in the Session Manager console), then try again"
	nextQuota     = "ask for a higher quota (Service Quotas in the AWS console), or stop tasks that are not needed"
	nextWait      = "wait until its agent has connected, then try again; if it never does, start another (bastion down, bastion up)"
	nextTarget    = "check the target, and the region and account that it is in (--region, --profile)"
	nextDocument  = "check the setting session_document, and that the region has the document and the target's SSM agent knows it"
	nextProxy     = "check HTTPS_PROXY and NO_PROXY, the VPN and the firewall on the way to AWS"
	nextTrust     = "let ecs-tasks.amazonaws.com assume the task definition's task role and execution role (their trust policies)"
	nextNode      = "check that the node runs and its SSM agent is online: aws ssm describe-instance-information"
)

// sessionLimit matches ECS's maximum number of sessions for a container.
var sessionLimit = pattern.Lazy(`maximum session limit of (\d+)`)

// table are the rules; the first match counts. Rules with a text come first, then rules by code, then rules by status for
// unknown codes.
//
// Source of the texts: users' reports of AWS's answers, the services' API models, and IAM's guide to access denied messages.
var table = []rule{
	// The credentials. The text decides, because services use different codes for an expired token.
	{text: pattern.Lazy(`(security|session|sso) token( included in the request)? (is|has) expired|sso session has expired`), class: Expired, next: nextExpired},
	{text: pattern.Lazy(`credential should be scoped to a valid region`), class: Config, next: nextRegion},
	{text: pattern.Lazy(`signature (expired|not yet current)|request time .*too (skewed|large)`), class: BadCredentials, next: nextClock},
	{codes: "requesttimetooskewed", class: BadCredentials, next: nextClock},

	// Calls for credentials.
	{operation: "GetRoleCredentials", codes: "unauthorized", class: BadCredentials, next: NextSignIn},
	{
		operation: "GetRoleCredentials", codes: "forbidden", class: Denied,
		next: "choose another account or role in the AWS profile: your sign-in has no access to this one",
	},
	{
		operation: "AssumeRole", text: pattern.Lazy(`multifactorauthentication|mfa`), class: BadCredentials,
		next: "try again with the code that the MFA device shows now",
	},
	{
		operation: "AssumeRole", text: pattern.Lazy(`durationseconds exceeds`), class: BadCredentials,
		next: "lower duration_seconds in the AWS profile: it exceeds what the role allows",
	},

	// Maxima. RunTask answers some of them with ThrottlingException, ExecuteCommand with ClientException.
	{text: sessionLimit, class: LimitReached, next: nextSessions},
	{text: pattern.Lazy(`command ?buffer ?(is )?full|too many (active |concurrent )?sessions`), class: LimitReached, next: nextSessions},
	{text: pattern.Lazy(`reached (the|your) (limit|quota) on the number of|provisioning capacity limit exceeded`), class: LimitReached, next: nextQuota},

	// Throttling, with any code.
	{text: pattern.Lazy(`^(rate exceeded|request limit exceeded|too many requests|the rate .*exceeded)`), class: Throttled, next: nextThrottled},
	{
		codes: "throttling throttled throttlederror requestthrottled requestlimitexceeded toomanyrequests rateexceeded " +
			"ratelimitexceeded slowdown bandwidthlimitexceeded provisionedthroughputexceeded ec2throttled priorrequestnotcomplete",
		class: Throttled, next: nextThrottled,
	},

	// Sessions.
	{codes: "commandbufferfull", class: LimitReached, next: nextSessions},
	{operation: "StartSession", codes: "servicequotaexceeded quotaexceeded limitexceeded", class: LimitReached, next: nextSessions},
	{operation: "ExecuteCommand", codes: "servicequotaexceeded quotaexceeded limitexceeded", class: LimitReached, next: nextSessions},
	{codes: "servicequotaexceeded quotaexceeded limitexceeded", class: LimitReached, next: nextQuota},
	{codes: "targetnotconnected", text: pattern.Lazy(`^m?i-[0-9a-f]+ `), class: NotConnected, next: nextNode},
	{codes: "targetnotconnected", class: NotConnected, next: nextWait},
	{
		operation: "ExecuteCommand", text: pattern.Lazy(`(agent|task|container) .*(isn.?.?.?t|is not|not yet) (in the )?running`),
		class: NotConnected, next: nextWait, // the caller checks whether the agent will ever run
	},
	{
		operation: "ExecuteCommand", text: pattern.Lazy(`execute command was not enabled`), class: Final,
		next: "stop the task (bastion down) and start another (bastion up)",
	},
	{
		operation: "ExecuteCommand", text: pattern.Lazy(`task was not found|task .*((has|is|was) stopp|no longer)`), class: NotFound,
		next: "start another: bastion up",
	},
	{
		operation: "ExecuteCommand", text: pattern.Lazy(`container .*(was )?not found`), class: Config,
		next: "set the container that bastiond runs in (--container)",
	},
	{operation: "StartSession", codes: "invaliddocument*", class: Unsupported, next: nextDocument},
	{
		operation: "StartSession", text: pattern.Lazy(`document .*(does ?n.t exist|does not exist|not found|not supported|(is not|isn.t) valid)|unsupported`),
		class: Unsupported, next: nextDocument,
	},
	{
		text: pattern.Lazy(`advanced-instances tier`), class: Config,
		next: "turn the advanced-instances tier on in Systems Manager, or use a bastion task",
	},
	{codes: "invalidtarget targetnotfound", class: NotFound, next: nextTarget},
	{codes: "doesnotexist", class: NotFound},

	// A session of IAM Identity Center that is over, by the answer to its token's renewal.
	{operation: "CreateToken", codes: "invalidgrant invalidclient unauthorizedclient", class: BadCredentials, next: NextSignIn},

	// Credentials, by code.
	{codes: "authfailure", text: pattern.Lazy(`^(you are )?not authorized`), class: Denied},
	{codes: "expiredtoken* requestexpired tokenrefreshrequired", class: Expired, next: nextExpired},
	{
		codes: "unrecognizedclient invalidclienttokenid invalidaccesskeyid signaturedoesnotmatch authfailure incompletesignature " +
			"invalidsignature missingauthenticationtoken invalidtoken invalidsecurity notsignedup unauthorized",
		class: BadCredentials, next: nextKeys,
	},

	// Policies.
	{codes: "accessdenied* unauthorizedoperation notauthorized forbidden kms.accessdenied* auth", class: Denied},
	{text: pattern.Lazy(`is not authorized to perform: `), class: Denied},
	{
		codes: "optinrequired subscriptionrequired* regiondisabled", class: Final,
		next: "enable the region or the service in the AWS account",
	},
	{text: pattern.Lazy(`account .*(is blocked|pending verification|suspended)`), class: Final, next: "ask AWS Support: the account is blocked"},
	{codes: "blocked pendingverification", class: Final, next: "ask AWS Support: the account is blocked"},

	// The resources that the settings name.
	{
		codes: "clusternotfound", class: Config,
		next: "set the cluster, and the region and account that it is in (--region, --profile)",
	},
	{
		operation: "RunTask", text: pattern.Lazy(`^resource:eni`), class: Final,
		next: "choose other subnets: these have no free network interfaces or addresses",
	},
	{
		operation: "RunTask", text: pattern.Lazy(`^resource:`), class: Final,
		next: "try again later, or ask the cluster's administrator: the cluster lacks that resource",
	},
	{operation: "RunTask", text: pattern.Lazy(`^missing`), class: Config, next: "check the names of the cluster and the task definition"},
	{
		operation: "RunTask", text: pattern.Lazy(`(new|longer) arn and resource id format`), class: Config,
		next: "have the account's ECS setting taskLongArnFormat enabled: without it tasks take no tags",
	},
	{
		operation: "RunTask", text: pattern.Lazy(`execution role`), class: Config,
		next: "give the task definition an execution role that may pull the image and write the log",
	},
	{
		operation: "RunTask", text: pattern.Lazy(`taskrolearn`), class: Final,
		next: "give the task definition a task role that allows ssmmessages:CreateControlChannel, CreateDataChannel, " +
			"OpenControlChannel and OpenDataChannel",
	},
	{
		operation: "RunTask", text: pattern.Lazy(`capacity is unavailable|insufficient capacity`), class: Transient,
		next: "Fargate has no capacity there now: try again later, or add subnets in other availability zones",
	},
	{
		// ECS creates the role at its first use in an account, and cannot assume it at once.
		operation: "RunTask", text: pattern.Lazy(`service.linked role`), class: Transient,
		next: "try again in a minute; if it stays: aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com",
	},
	{operation: "RunTask", text: pattern.Lazy(`assume the role`), class: Final, next: nextTrust},
	{
		codes: "platformunknown platformtaskdefinitionincompatibility unsupportedfeature", class: Config,
		next: "check the task definition against what Fargate offers in this region",
	},
	{
		codes: "client invalidparameter*", text: pattern.Lazy(`fargate configuration`), class: Config,
		next: "choose a size that Fargate has: --task-size, or --task-cpu with --task-memory",
	},
	{
		codes: "client invalidparameter*", text: pattern.Lazy(`task ?definition`), class: Config,
		next: "register the task definition (bastion init does that; docs/by-hand.md), or name another with --task-definition",
	},
	{
		codes: "client invalidparameter* invalidsubnet* invalidgroup* invalidsecuritygroup*", text: pattern.Lazy(`subnet|security group`),
		class: Config, next: "check the subnets and security groups: they must exist in one VPC of this region",
	},
	{codes: "unsupportedoperation unsupportedfeature*", class: Unsupported, next: nextTarget},
	{operation: "StartSession", text: pattern.Lazy(`(not|n.t) support`), class: Unsupported, next: nextDocument},
	{
		operation: "GenerateDataKey", codes: "disabled kmsinvalidstate invalidkeyusage", class: Config,
		next: "have the KMS key enabled, or another set: it is in the cluster's executeCommandConfiguration",
	},
	{codes: "*notfound", class: NotFound},

	// AWS's own failures.
	{
		codes: "internalserver* internalfailure internalerror internal server serviceunavailable* servicefailure unavailable " +
			"requesttimeout* transactioninprogress dependencytimeout* kmsinternal keyunavailable idpcommunicationerror",
		class: Transient, next: "AWS failed: try again in a minute",
	},

	// An answer without AWS's form comes from a proxy or a firewall. The SDK gives it the code UnknownError.
	{codes: "unknownerror", status: 429, class: Throttled, next: nextThrottled},
	{codes: "unknownerror", status: 511, class: Foreign, next: "sign in to the network first (its page in a browser), then try again"},
	{codes: "unknownerror", status: 5, class: Transient, next: nextProxy},
	{codes: "unknownerror", status: 3, class: Foreign, next: "sign in to the network or the proxy first (its page in a browser), then try again"},
	{
		codes: "unknownerror", status: 407, class: Foreign,
		next: "put the proxy's user and password into HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT",
	},
	{codes: "unknownerror", status: 2, class: Foreign, next: "check AWS_ENDPOINT_URL, " + strings.TrimPrefix(nextProxy, "check ")},
	{codes: "unknownerror", class: Foreign, next: nextProxy},

	// Unknown codes.
	{status: 429, class: Throttled, next: nextThrottled},
	{status: 408, class: Transient},
	{status: 5, class: Transient, next: "AWS failed: try again in a minute"},
	{status: 403, class: Denied},
	{status: 401, class: BadCredentials, next: nextKeys},
	{class: Final},
}
