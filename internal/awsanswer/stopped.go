package awsanswer

import "github.com/bastion-ssm/bastion/internal/pattern"

// StoppedTask is the operation of an Answer about the reason that ECS gives for a stopped task or container.
const StoppedTask = "stopped task"

// executionRole is the caller of ECS's work before the containers run: it pulls the image, reads secrets and creates the log.
const executionRole = "the task definition's execution role"

// stopCode matches the start of a reason why a task could not start: "CannotPullContainerError: pull image manifest has been...".
var stopCode = pattern.Lazy(`^([A-Z][A-Za-z]+)(?:: |$)`)

// Stopped returns the meaning of ECS's reasons for a stopped task, those of its containers and its own, in order of importance.
// It takes the first that the table knows, or else the first.
func Stopped(reasons ...string) Answer {
	var first Answer
	for _, reason := range reasons {
		a := Answer{Operation: StoppedTask, Message: reason}
		if found := stopCode().FindStringSubmatch(reason); found != nil {
			a.Code, a.Message = found[1], reason[len(found[0]):]
		}
		a = Judge(a)
		if a.Class == Denied && a.Next == "" {
			a.Next = a.NextDeniedTo(executionRole, "of that call", "")
		}
		if a.Next != "" {
			return a
		}
		if first.Operation == "" {
			first = a
		}
	}
	return first
}

// Next steps of more than one row, and long ones.
const (
	nextRegistry = "let the subnets reach the image's registry: a NAT gateway, or VPC endpoints for ecr.api, ecr.dkr and s3, whose " +
		"security groups accept TCP 443"
	nextImage        = "correct the image's name and tag in the task definition: the registry has no such image"
	nextArchitecture = "make the image and the task definition agree: build the image for the task's platform, or set " +
		"runtimePlatform.cpuArchitecture (X86_64, ARM64) to the image's"
	nextPullRights = "correct the image's name, or let the task definition's execution role pull it (ecr:GetAuthorizationToken, " +
		"ecr:BatchGetImage, ecr:GetDownloadUrlForLayer), or give the registry's password as repositoryCredentials"
	nextSpot    = "try again, or start it on FARGATE instead of FARGATE_SPOT"
	nextMachine = "start another: bastion up; AWS has taken the task's machine away"
	nextLog     = "read the task's log; it says why the bastion ended"
	nextSubnets = "check the subnets of the task: free addresses, and that they and the security groups exist"
)

// noWay matches the network errors of programs that ECS quotes in a reason.
const noWay = `i/o timeout|connection (refused|reset|issue)|no route to host|network is unreachable|no such host|` +
	`request canceled|deadline exceeded|send request failed|dial tcp|tls handshake timeout|check your task network|` +
	`(no|not) route|could not connect|timed out`

// stops are the table's rows for stopped tasks. ECS uses one code for many causes; the text tells them apart.
//
// Source of the texts: ECS's guide to errors of stopped tasks, and users' reports.
var stops = []rule{
	// The image.
	{
		text: pattern.Lazy(`descriptor matching platform|no matching manifest for|no match for platform|exec format error|` +
			`image.*platform.*does not match`),
		class: Config, next: nextArchitecture,
	},
	{
		text:  pattern.Lazy(`toomanyrequests|pull rate limit|too many requests`),
		class: Throttled, next: "keep the image in ECR, or sign in to its registry: the registry limits anonymous pulls",
	},
	{text: pattern.Lazy(`not authorized to perform`), class: Denied},
	{
		codes: "cannotpull*", text: pattern.Lazy(`no space left`), class: Config,
		next: "give the task definition more ephemeralStorage: the image does not fit",
	},
	{
		codes: "cannotpull*", text: pattern.Lazy(`x509|certificate`), class: Final,
		next: "check the registry's name and certificate: the task does not trust it",
	},
	{
		codes: "cannotpull*",
		text: pattern.Lazy(`may require|no basic auth|pull access denied|unauthorized|has the permissions|` +
			`authorization failed|denied: `),
		class: Denied, next: nextPullRights,
	},
	{
		codes: "cannotpull*", text: pattern.Lazy(`403 forbidden|status code.* 403`), class: Denied,
		next: "let the policies of the s3 and ecr VPC endpoints, and the execution role, allow the image's layers",
	},
	{codes: "cannotpull*", text: pattern.Lazy(noWay), class: Final, next: nextRegistry},
	{
		codes: "cannotpull*", text: pattern.Lazy(`not found|manifest unknown|does ?n.?t exist|name unknown|invalid reference|image exists`),
		class: Config, next: nextImage,
	},
	{
		codes: "cannotpull*", text: pattern.Lazy(`media type|failed to (register|extract|verify|unpack) layer|unexpected (media|eof)|digest`),
		class: Config, next: "push the image again, in Docker's or OCI's format: the registry has it damaged or in another form",
	},
	{codes: "cannotpull*", class: Final, next: "check the image's name, the execution role and that the subnets reach its registry"},

	// The preparation by ECS before the container starts.
	{
		codes: "resourceinitialization*", text: pattern.Lazy(`log (group|stream).*(does not|doesn.t) exist|resourcenotfound.*log group`),
		class: Config, next: "create the log group that the task definition names, or set awslogs-create-group",
	},
	{
		text:  pattern.Lazy(`can.t find the specified secret|secret.*(not found|does not exist)|invalid ?parameters?.*ssm|parameternotfound`),
		class: Config, next: "correct the secrets of the task definition: one of them does not exist in this region and account",
	},
	{
		text: pattern.Lazy(`accessdenied|is not allowed|access denied`), class: Denied,
		next: "let the task definition's execution role read the image, the secrets and their KMS key, and write the log",
	},
	{
		codes: "resourceinitialization*", text: pattern.Lazy(`logger args|cloudwatch|log stream`), class: Final,
		next: "let the subnets reach CloudWatch Logs: a NAT gateway, or a VPC endpoint for logs",
	},
	{
		codes: "resourceinitialization*", text: pattern.Lazy(`from (asm|ssm)|secretsmanager|parameter store`), class: Final,
		next: "let the subnets reach the secret's service: a NAT gateway, or VPC endpoints for secretsmanager, ssm and kms",
	},
	{codes: "resourceinitialization*", text: pattern.Lazy(`\becr\b|registry auth`), class: Final, next: nextRegistry},
	{
		codes: "resourceinitialization*", text: pattern.Lazy(`efs`), class: Config,
		next: "check the EFS volumes of the task definition: mount targets, security groups, and the file system's policy",
	},
	{
		codes: "resourceinitialization*", class: Final,
		next: "check that the subnets reach CloudWatch Logs, ECR and Secrets Manager (NAT gateway or VPC endpoints), and the execution role",
	},
	{
		text:  pattern.Lazy(`insufficientfreeaddresses|network interface|security group .*not exist|subnet .*not exist|invalidsubnet`),
		class: Config, next: nextSubnets,
	},
	{text: pattern.Lazy(`unable to assume the role|assume role`), class: Config, next: nextTrust},

	// The container.
	{
		text: pattern.Lazy(`executable file not found|no such file or directory|no command specified`), class: Config,
		next: "correct the container's entry point and command in the task definition: the image has no such program",
	},
	{codes: "cannotstart*", class: Config, next: "check the container's entry point and user in the task definition"},
	{codes: "cannotcreate*", class: Config, next: "check the container's settings in the task definition"},
	{text: pattern.Lazy(`outofmemory|out of memory|memory usage`), class: Config, next: "give the task definition more memory"},
	{text: pattern.Lazy(`health checks?`), class: Config, next: "correct the health check of the task definition: it fails"},

	// ECS and Fargate.
	{codes: "spotinterruption", class: Transient, next: nextSpot},
	{text: pattern.Lazy(`\bspot`), class: Transient, next: nextSpot},
	{codes: "infrastructurehealth terminationnotice", class: Transient, next: nextMachine},
	{text: pattern.Lazy(`capacity`), class: Transient, next: "try again later, or add subnets in other availability zones"},
	{text: pattern.Lazy(`maintenance|retire|retirement|underlying infrastructure|host ec2`), class: Transient, next: nextMachine},
	{
		codes: "containerruntime* dockertimeout* internal*", class: Transient,
		next: "try again: AWS could not start the container in time",
	},
	{
		text: pattern.Lazy(`timeout waiting for`), class: Transient,
		next: "try again: AWS did not provide the task's network or storage in time",
	},
	{codes: "essentialcontainerexited", class: Final, next: nextLog},
	{text: pattern.Lazy(`essential container`), class: Final, next: nextLog},
	{class: Final},
}
