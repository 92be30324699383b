package bastions

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/partition"
	"github.com/bastion-ssm/bastion/internal/words"
)

// Finding is a probable reason why a task's exec agent does not connect.
type Finding struct {
	Case    string // a fixed word for the problem
	Problem string // a clause: "the task has no task role"
	Fix     string // an imperative sentence
}

const messagesActions = "ssmmessages:CreateControlChannel, CreateDataChannel, OpenControlChannel and OpenDataChannel"

// agentPaths are the paths that the exec agent writes to.
var agentPaths = []string{"/managed-agents", "/var/lib/amazon/ssm", "/var/log/amazon/ssm"}

// Diagnose returns probable reasons why a bastion's exec agent does not connect, the surest first. It calls ecs:DescribeTasks
// and ecs:DescribeTaskDefinition, and works with what IAM permits. It always returns at least one finding.
func (m *Manager) Diagnose(ctx context.Context, spec Spec, b Bastion) []Finding {
	var task *types.Task
	tasks, err := m.describe(ctx, "diagnose", spec, []string{b.TaskARN})
	if err != nil {
		m.log.WarnContext(ctx, "diagnosis without the task's details", "err", err)
	}
	if len(tasks) > 0 {
		task = &tasks[0]
		b = fromTask(spec, task)
	}
	if b.Stopping() {
		return []Finding{{"stopped", "the task has stopped" + words.Parenthesis(b.StoppedReason), "start another: bastion up"}}
	}
	if !b.ExecEnabled {
		return []Finding{{
			"exec_disabled", "the task was started without ECS Exec (enableExecuteCommand)",
			"stop it (bastion down) and start another (bastion up)",
		}}
	}
	var definition *types.TaskDefinition
	if b.TaskDefinition != "" {
		out, err := m.ecs.DescribeTaskDefinition(ctx, &ecs.DescribeTaskDefinitionInput{
			TaskDefinition: aws.String(b.TaskDefinition),
		})
		if err != nil {
			m.log.WarnContext(ctx, "diagnosis without the task definition", "err",
				ecsError("diagnose", "ecs:DescribeTaskDefinition", err))
		} else {
			definition = out.TaskDefinition
		}
	}
	findings := findInTask(task)
	role := ""
	if definition != nil {
		role = roleOf(task, definition)
		findings = append(findings, findInDefinition(b, role, definition)...)
	}
	if len(findings) == 0 {
		findings = append(findings, unreachable(b, task), mayLack(role))
		findings = append(findings, mayNeedCapabilities(containerOf(b, definition))...)
	}
	return findings
}

// findInTask returns the findings about the running task.
func findInTask(task *types.Task) []Finding {
	if task == nil {
		return nil
	}
	if v := platformOf(task); tooOld(v) {
		return []Finding{{
			"platform", "Fargate platform version " + v + " is older than 1.4.0 and has no ECS Exec",
			"start another task on platform version LATEST",
		}}
	}
	return nil
}

// findInDefinition returns the findings about the task definition.
func findInDefinition(b Bastion, role string, definition *types.TaskDefinition) []Finding {
	var found []Finding
	if role == "" {
		found = append(found, Finding{
			"no_task_role", "the task has no task role, so its exec agent has no credentials",
			"give the task definition a task role (not only an execution role) that allows " + messagesActions,
		})
	}
	if container := containerOf(b, definition); container != nil {
		found = append(found, CheckContainer(container)...)
	}
	return found
}

// containerOf returns the definition of a bastion's container; nil if it is unknown.
func containerOf(b Bastion, definition *types.TaskDefinition) *types.ContainerDefinition {
	if definition == nil {
		return nil
	}
	i := slices.IndexFunc(definition.ContainerDefinitions, func(c types.ContainerDefinition) bool {
		return aws.ToString(c.Name) == b.Container
	})
	if i < 0 {
		return nil
	}
	return &definition.ContainerDefinitions[i]
}

// CheckContainer returns what keeps ECS Exec's agent from working in a container, by its definition.
func CheckContainer(container *types.ContainerDefinition) (found []Finding) {
	if aws.ToBool(container.ReadonlyRootFilesystem) {
		if missing := unwritable(container.MountPoints); len(missing) > 0 {
			found = append(found, Finding{
				"read_only", "the container's root file system is read-only and the exec agent cannot write to " + strings.Join(missing, ", "),
				"mount writable volumes there, or set readonlyRootFilesystem to false",
			})
		}
	}
	for _, variable := range container.Environment {
		if name := aws.ToString(variable.Name); name == "AWS_ACCESS_KEY_ID" || name == "AWS_SECRET_ACCESS_KEY" {
			found = append(found, Finding{
				"keys", "the container's variable " + name + " hides the task role from the exec agent",
				"remove it from the task definition",
			})
			break
		}
	}
	return found
}

func roleOf(task *types.Task, definition *types.TaskDefinition) string {
	if task != nil && task.Overrides != nil && aws.ToString(task.Overrides.TaskRoleArn) != "" {
		return aws.ToString(task.Overrides.TaskRoleArn)
	}
	return aws.ToString(definition.TaskRoleArn)
}

// unwritable returns the agent's paths that no writable mount covers.
func unwritable(mounts []types.MountPoint) []string {
	var missing []string
	for _, path := range agentPaths {
		covered := slices.ContainsFunc(mounts, func(m types.MountPoint) bool {
			at := strings.TrimSuffix(aws.ToString(m.ContainerPath), "/")
			return !aws.ToBool(m.ReadOnly) && (path == at || strings.HasPrefix(path, at+"/"))
		})
		if !covered {
			missing = append(missing, path)
		}
	}
	return missing
}

// unreachable lists what the network must allow; ECS's answers cannot prove that it does not.
func unreachable(b Bastion, task *types.Task) Finding {
	region := regionOf(b)
	p := partition.Of(region)
	from := ""
	if subnet := attachmentDetail(task, "subnetId"); subnet != "" {
		from = " from " + subnet
	}
	return Finding{
		"unreachable", fmt.Sprintf("the task may not reach %s:443%s", p.Endpoint("ssmmessages", region), from),
		fmt.Sprintf("give the subnet a NAT gateway or the VPC an endpoint %s, and allow TCP 443 to it in the security groups",
			p.EndpointService("ssmmessages", region)),
	}
}

// regionOf returns the region of a bastion's task, or a placeholder.
func regionOf(b Bastion) string {
	if parsed, err := arn.Parse(b.TaskARN); err == nil && parsed.Region != "" {
		return parsed.Region
	}
	return "REGION"
}

func mayLack(role string) Finding {
	name := "the task role"
	if role != "" {
		name += " " + lastPart(role)
	}
	return Finding{"role", name + " may lack permissions", "allow it " + messagesActions}
}

// mayNeedCapabilities is for a container that drops capabilities. By its source the exec agent needs none of them; AWS does not say which.
func mayNeedCapabilities(container *types.ContainerDefinition) []Finding {
	if container == nil || container.LinuxParameters == nil || container.LinuxParameters.Capabilities == nil {
		return nil
	}
	drop := container.LinuxParameters.Capabilities.Drop
	if len(drop) == 0 {
		return nil
	}
	return []Finding{{
		"capabilities", "the exec agent may need a capability that the container drops (" + strings.Join(drop, ", ") + ")",
		"try a revision of the task definition without linuxParameters.capabilities, and report it if that helps",
	}}
}

func attachmentDetail(task *types.Task, name string) string {
	if task == nil {
		return ""
	}
	for _, a := range task.Attachments {
		for _, detail := range a.Details {
			if aws.ToString(detail.Name) == name {
				return aws.ToString(detail.Value)
			}
		}
	}
	return ""
}

// platformOf returns the version of Fargate's platform that a task runs on; "" for a task elsewhere.
func platformOf(task *types.Task) string {
	if task.LaunchType != types.LaunchTypeFargate {
		return ""
	}
	return aws.ToString(task.PlatformVersion)
}

// OldPlatform reports whether the task's platform version is too old for ECS Exec.
func (b Bastion) OldPlatform() bool { return tooOld(b.Platform) }

func tooOld(platform string) bool { return olderThan(platform, 1, 4) }

// olderThan reports whether a platform version such as "1.3.0" is older than major.minor. Other versions (LATEST) are not.
func olderThan(version string, major, minor int) bool {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	a, err1 := strconv.Atoi(first)
	b, err2 := strconv.Atoi(second)
	return err1 == nil && err2 == nil && (a < major || a == major && b < minor)
}

// withFindings adds the findings' problems to an error's text and uses the first one's fix as the hint.
func withFindings(kind fail.Kind, op string, err error, findings []Finding) error {
	if len(findings) == 0 {
		return fail.New(kind, op, err, "")
	}
	problems := make([]string, len(findings))
	for i, f := range findings {
		problems[i] = f.Problem
	}
	next := findings[0].Fix
	if len(findings) > 1 {
		next += "; or " + findings[1].Fix
	}
	return fail.New(kind, op, fmt.Errorf("%w. Probable reason: %s", err, strings.Join(problems, "; or ")), next)
}
