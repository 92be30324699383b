package awsanswer_test

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
)

// Each row is a reason as ECS gives it for a stopped task. Reasons of one code differ in their remedy.
func TestStopped(t *testing.T) {
	const (
		pull    = "CannotPullContainerError: "
		prepare = "ResourceInitializationError: "
		secrets = "unable to pull secrets or registry auth: execution resource retrieval failed: "
		denied  = "AccessDeniedException: User: arn:aws:sts::1:assumed-role/exec/x is not authorized to perform: "
		onTrust = "arn:aws:secretsmanager:eu-west-1:1:secret:s "
	)
	for _, tt := range []struct {
		reason string
		class  awsanswer.Class
		next   string
	}{
		// The image.
		{pull + "image Manifest does not contain descriptor matching platform 'linux/amd64'", awsanswer.Config, "cpuArchitecture"},
		{
			pull + "pull image manifest has been retried 1 time(s): image Manifest does not contain descriptor matching platform 'linux/arm64'.",
			awsanswer.Config, "build the image for the task's platform",
		},
		{pull + "no matching manifest for linux/arm64/v8 in the manifest list entries", awsanswer.Config, "cpuArchitecture"},
		{"CannotStartContainerError: exec /bastiond: exec format error", awsanswer.Config, "cpuArchitecture"},
		{pull + "ref pull has been retried 5 time(s): toomanyrequests: You have reached your pull rate limit.", awsanswer.Throttled, "limits anonymous pulls"},
		{pull + "failed to resolve ref docker.io/x: pull access denied, repository does not exist or may require authorization", awsanswer.Denied, "execution role pull"},
		{pull + "The task can’t pull the image. Check that the role has the permissions to pull images from the registry.", awsanswer.Denied, "execution role pull"},
		{pull + "The task can’t pull the image. Check whether the image exists.", awsanswer.Config, "no such image"},
		{pull + "pull image manifest has been retried 1 time(s): failed to resolve ref r/bastion:9: r/bastion:9: not found", awsanswer.Config, "no such image"},
		{pull + "ref pull has been retried: failed to open: unexpected status code https://layers: 403 Forbidden", awsanswer.Denied, "s3"},
		{pull + "pull image manifest has been retried 5 time(s): failed to do request: Head: dial tcp 10.0.0.1:443: i/o timeout", awsanswer.Final, "NAT gateway"},
		{pull + "The task cannot pull 'r' from the registry 'r'. There is a connection issue between the task and the registry.", awsanswer.Final, "NAT gateway"},
		{pull + "lookup registry: no such host", awsanswer.Final, "NAT gateway"},
		{pull + "x509: certificate signed by unknown authority", awsanswer.Final, "certificate"},
		{pull + "write /layer: no space left on device", awsanswer.Config, "ephemeralStorage"},
		{pull + "failed to extract layer sha256:1: unexpected EOF", awsanswer.Config, "push the image again"},
		{pull + "something new", awsanswer.Final, "check the image's name"},
		{
			pull + denied + "ecr:BatchGetImage on resource: arn:aws:ecr:eu-west-1:1:repository/bastion because no identity-based policy allows the " +
				"ecr:BatchGetImage action", awsanswer.Denied,
			"ask for the IAM permission ecr:BatchGetImage on arn:aws:ecr:eu-west-1:1:repository/bastion for the task definition's execution role",
		},

		// What ECS prepares.
		{
			prepare + secrets + "unable to retrieve ecr registry auth: service call has been retried 3 time(s): RequestError: send request failed: " +
				"dial tcp 1.2.3.4:443: i/o timeout", awsanswer.Final, "image's registry",
		},
		{
			prepare + secrets + "unable to retrieve secret from asm: " + denied + "secretsmanager:GetSecretValue on resource: " + onTrust +
				"because no identity-based policy allows the secretsmanager:GetSecretValue action", awsanswer.Denied,
			"secretsmanager:GetSecretValue on arn:aws:secretsmanager",
		},
		{
			prepare + secrets + denied + "secretsmanager:GetSecretValue on resource: " + onTrust + "with an explicit deny in a service control policy",
			awsanswer.Denied, "a service control policy denies secretsmanager:GetSecretValue",
		},
		{
			prepare + secrets + denied + "kms:Decrypt on resource: arn:aws:kms:eu-west-1:1:key/k because no permissions boundary allows the " +
				"kms:Decrypt action", awsanswer.Denied, "kms:Decrypt for the task definition's execution role in its permissions boundary",
		},
		{prepare + secrets + "ResourceNotFoundException: Secrets Manager can't find the specified secret.", awsanswer.Config, "one of them does not exist"},
		{prepare + secrets + "unable to retrieve secret from asm: context deadline exceeded", awsanswer.Final, "secretsmanager"},
		{
			prepare + "failed to validate logger args: create stream has been retried 1 times: ResourceNotFoundException: The specified log group " +
				"does not exist.", awsanswer.Config, "create the log group",
		},
		{prepare + "failed to validate logger args: signal: killed", awsanswer.Final, "CloudWatch Logs"},
		{prepare + "failed to invoke EFS utils commands to set up EFS volumes", awsanswer.Config, "EFS"},
		{prepare + "something new", awsanswer.Final, "check that the subnets reach"},
		{
			"Unexpected EC2 error while attempting to create network interface in subnet 'subnet-1': InsufficientFreeAddressesInSubnet",
			awsanswer.Config, "free addresses",
		},
		{"ECS was unable to assume the role 'arn' that was provided for this task.", awsanswer.Config, "trust"},

		// The container.
		{`CannotStartContainerError: exec: "/bastiond": executable file not found in $PATH`, awsanswer.Config, "no such program"},
		{"CannotStartContainerError: something new", awsanswer.Config, "entry point"},
		{"CannotCreateContainerError: something new", awsanswer.Config, "settings"},
		{"OutOfMemoryError: Container killed due to memory usage", awsanswer.Config, "more memory"},
		{"Task failed container health checks", awsanswer.Config, "health check"},
		{"Essential container in task exited", awsanswer.Final, "log"},

		// ECS and Fargate.
		{"Your Spot Task was interrupted.", awsanswer.Transient, "FARGATE_SPOT"},
		{"SpotInterruption", awsanswer.Transient, "FARGATE_SPOT"},
		{"InfrastructureHealth", awsanswer.Transient, "bastion up"},
		{"TaskFailedToStart", awsanswer.Final, ""},
		{"Capacity is unavailable at this time. Please try again later or in a different availability zone", awsanswer.Transient, "availability zones"},
		{"ECS is performing maintenance on the underlying infrastructure hosting the task.", awsanswer.Transient, "bastion up"},
		{"Timeout waiting for EphemeralStorage provisioning to complete.", awsanswer.Transient, "try again"},
		{"ContainerRuntimeTimeoutError: Could not transition to started; timed out after waiting 3m0s", awsanswer.Transient, "try again"},
		{"something new", awsanswer.Final, ""},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			got := awsanswer.Stopped(tt.reason)
			if got.Class != tt.class || !strings.Contains(got.Next, tt.next) || tt.next == "" && got.Next != "" {
				t.Errorf("%v, next step %q; want %v, one with %q", got.Class, got.Next, tt.class, tt.next)
			}
		})
	}
}

// The reasons of the containers tell more than the task's own, and a known one more than an unknown.
func TestStoppedOfMany(t *testing.T) {
	got := awsanswer.Stopped("exited", "OutOfMemoryError: Container killed due to memory usage", "Essential container in task exited")
	if !strings.Contains(got.Next, "more memory") {
		t.Errorf("next step %q", got.Next)
	}
	if got := awsanswer.Stopped("one", "two"); got.Message != "one" || got.Next != "" {
		t.Errorf("%+v", got)
	}
	if got := awsanswer.Stopped(); got.Class != awsanswer.None {
		t.Errorf("%+v", got)
	}
}
