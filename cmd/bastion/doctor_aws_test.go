package main

import (
	"net/netip"
	"testing"

	"github.com/bastion-ssm/bastion/lab"
)

const (
	labSubnet  = "subnet-0000000000000laba"
	labGroup   = "sg-0000000000000000lab"
	labService = "com.amazonaws.eu-central-1."
)

// definition runs the doctor for a task definition of its own.
func definition(d lab.TaskDefinition) func(*testing.T, *labEnv) ([]string, []string) {
	return func(_ *testing.T, e *labEnv) ([]string, []string) {
		d.Family, d.Container = "broken", "bastion"
		e.AddTaskDefinition(d)
		return e.as("any", lab.IdentityConfig{Allow: []string{"*"}}), []string{"--task-definition", "broken"}
	}
}

func illAccounts() []ill {
	anyone := func(args ...string) func(*testing.T, *labEnv) ([]string, []string) {
		return func(_ *testing.T, e *labEnv) ([]string, []string) {
			return e.as("any", lab.IdentityConfig{Allow: []string{"*"}}), args
		}
	}
	encrypted := func(c *lab.Config) { c.KMS = true }
	return []ill{
		{name: "cluster missing", want: []string{"error aws.cluster missing"}, code: 2, breaks: anyone("--cluster", "nosuch")},
		{
			name: "cluster is another's", want: []string{"skipped aws.cluster denied", "error bastion.running denied"}, code: 5,
			breaks: given("--cluster", "nosuch"),
		},
		{
			name: "cluster inactive", want: []string{"error aws.cluster inactive"}, code: 2,
			breaks: doing(func(e *labEnv) { e.SetClusterStatus("bastion", "INACTIVE") }),
		},
		{name: "task definition missing", want: []string{"error aws.task_definition missing"}, code: 2, breaks: given("--task-definition",
			"nosuch")},
		{
			name: "task definition inactive", want: []string{"error aws.task_definition inactive"}, code: 2,
			breaks: definition(lab.TaskDefinition{Inactive: true}),
		},
		{
			name: "task definition of another network mode", want: []string{"error aws.task_definition network_mode"}, code: 2,
			breaks: definition(lab.TaskDefinition{NetworkMode: "bridge"}),
		},
		{
			name: "task definition not for Fargate", want: []string{"error aws.task_definition fargate"}, code: 2,
			breaks: definition(lab.TaskDefinition{NotFargate: true}),
		},
		{
			name: "read-only root", want: []string{"error aws.container read_only"}, code: 6,
			breaks: definition(lab.TaskDefinition{ReadOnlyRoot: true, Mounts: []string{"/managed-agents"}}),
		},
		{
			name: "keys in the container", want: []string{"error aws.container keys"}, code: 6,
			breaks: definition(lab.TaskDefinition{Env: map[string]string{"AWS_ACCESS_KEY_ID": "AKIA"}}),
		},
		{
			name: "no init process", want: []string{"warning aws.container init_process"}, code: 11,
			breaks: definition(lab.TaskDefinition{NoInit: true}),
		},
		{
			name: "shared processes", want: []string{"warning aws.container pid_mode"}, code: 11,
			breaks: definition(lab.TaskDefinition{PidMode: "task", Beside: []string{"proxy"}}),
		},
		{name: "no such container", want: []string{"error aws.container missing"}, code: 2, breaks: given("--container", "other")},
		{name: "no task role", want: []string{"error aws.task_role none"}, code: 6, breaks: definition(lab.TaskDefinition{NoTaskRole: true})},
		{
			name: "task role short of channels", want: []string{"error aws.task_role denied"}, code: 6,
			config: func(c *lab.Config) { c.TaskRoleDeny = []string{"ssmmessages:OpenControlChannel"} },
		},
		{
			name: "task role gone", want: []string{"error aws.task_role missing"}, code: 6,
			breaks: doing(func(e *labEnv) { e.DeleteRole("bastion-TaskRole-0LAB0LAB0LAB") }),
		},
		{
			name: "execution role gone", want: []string{"error aws.execution_role missing"}, code: 6,
			breaks: doing(func(e *labEnv) { e.DeleteRole("bastion-ExecutionRole-0LAB0LAB0LAB") }),
		},
		{name: "image of another repository", want: []string{"error aws.execution_role lacks"}, code: 6, breaks: func(_ *testing.T,
			e *labEnv,
		) ([]string, []string) {
			e.AddTaskDefinition(lab.TaskDefinition{
				Family: "bastion", Image: lab.Account + ".dkr.ecr.eu-central-1.amazonaws.com/other:1",
				LikeStack: true,
			})
			return nil, nil
		}},
		{
			name: "KMS key is not for the user", want: []string{"error aws.kms_user denied"}, code: 5,
			config: func(c *lab.Config) { c.KMS, c.User.Deny = true, []string{"kms:GenerateDataKey"} },
		},
		{
			name: "KMS key is disabled", want: []string{"error aws.kms_user unusable"}, code: 2, config: encrypted,
			breaks: doing(func(e *labEnv) { e.DisableKey() }),
		},
		{
			name: "KMS key is not for the task", want: []string{"error aws.kms_task denied"}, code: 6,
			config: func(c *lab.Config) { c.KMS, c.TaskRoleDeny = true, []string{"kms:Decrypt"} },
		},
		{
			name: "preferences end sessions early", want: []string{"warning aws.session_preferences duration"}, code: 11,
			breaks: doing(func(e *labEnv) {
				e.SetSessionPreferences(lab.SessionPreferences{Idle: "5", Most: "15"})
			}),
		},
		{name: "no capacity", want: []string{"warning aws.last_start failed"}, code: 11, breaks: failedStart(
			"Capacity is unavailable at this time. Please try again later or in a different availability zone")},
		{name: "image is not pulled by the role", want: []string{"warning aws.last_start failed"}, code: 11, breaks: failedStart(
			"CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref: pull access denied, repository does " +
				"not exist or may require authorization: authorization failed: no basic auth credentials")},
		{name: "image of another platform", want: []string{"warning aws.last_start failed"}, code: 11, breaks: failedStart(
			"CannotPullContainerError: image Manifest does not contain descriptor matching platform 'linux/amd64'")},
	}
}

// failedStart lets a start fail with ECS's reason.
func failedStart(reason string) func(*testing.T, *labEnv) ([]string, []string) {
	return func(t *testing.T, e *labEnv) ([]string, []string) {
		setFaults(t, e, lab.APIFaults{TaskFailures: 1, TaskReason: reason})
		if r := e.run(nil, "up"); r.code != 6 {
			t.Fatalf("up: %d: %s", r.code, r.stderr)
		}
		return nil, nil
	}
}

func setFaults(t *testing.T, e *labEnv, f lab.APIFaults) {
	t.Helper()
	if err := e.SetAPIFaults(f); err != nil {
		t.Fatal(err)
	}
}

func illWays() []ill {
	closed := lab.RouteTable{ID: "rtb-closed", Main: true}
	endpoint := func(service string, change func(*lab.VPCEndpoint)) lab.VPCEndpoint {
		v := lab.VPCEndpoint{ID: "vpce-" + service, Service: labService + service, Groups: []string{"sg-endpoints"}}
		if service == "s3" {
			v = lab.VPCEndpoint{ID: "vpce-s3", Service: labService + "s3", Gateway: true, RouteTables: []string{"rtb-closed"}}
		}
		if change != nil {
			change(&v)
		}
		return v
	}
	// only sets a VPC that reaches AWS by endpoints alone, one of them changed.
	only := func(changed string, change func(*lab.VPCEndpoint)) func(*testing.T, *labEnv) ([]string, []string) {
		return doing(func(e *labEnv) {
			e.SetRouteTables(closed)
			e.SetSecurityGroup(lab.SecurityGroup{ID: "sg-endpoints", Name: "endpoints", Ingress: []lab.SecurityRule{{
				From: 443, To: 443,
				Group: labGroup,
			}}})
			e.SetSecurityGroup(lab.SecurityGroup{ID: "sg-others", Name: "others", Ingress: []lab.SecurityRule{{
				From: 443, To: 443,
				CIDR: "192.168.0.0/16",
			}}})
			var all []lab.VPCEndpoint
			for _, s := range []string{"ssmmessages", "ecr.api", "ecr.dkr", "s3", "logs"} {
				var how func(*lab.VPCEndpoint)
				if s == changed {
					how = change
				}
				if v := endpoint(s, how); v.ID != "" {
					all = append(all, v)
				}
			}
			e.SetVPCEndpoints(all...)
		})
	}
	group := func(g lab.SecurityGroup) func(*testing.T, *labEnv) ([]string, []string) {
		g.ID, g.Name, g.Tags = labGroup, "bastion", map[string]string{"bastion": "true"}
		return doing(func(e *labEnv) { e.SetSecurityGroup(g) })
	}
	return []ill{
		{name: "subnets by endpoints alone", breaks: only("", nil)},
		{name: "no such subnet", want: []string{"error aws.subnets missing"}, code: 2, breaks: given("--subnets", labSubnet+",subnet-gone")},
		{name: "no subnet with the tags", want: []string{"error aws.subnets missing"}, code: 2, breaks: given("--subnet-tags", "tier=gone")},
		{name: "subnets of several VPCs", want: []string{"error aws.subnets several_vpcs"}, code: 2, breaks: doing(func(e *labEnv) {
			e.AddSubnet(lab.Subnet{
				ID: "subnet-other", CIDR: "10.98.0.0/24", Zone: "eu-central-1a", VPC: "vpc-other",
				Tags: map[string]string{"bastion": "true"},
			})
		})},
		{name: "full subnets", want: []string{"error aws.subnets full"}, code: 6, breaks: func(_ *testing.T, e *labEnv) ([]string, []string) {
			e.AddSubnet(lab.Subnet{ID: "subnet-full", CIDR: "10.99.9.0/28", Zone: "eu-central-1a", Full: true})
			return nil, []string{"--subnets", "subnet-full"}
		}},
		{
			name: "no such subnet while a bastion runs", up: true, want: []string{"error aws.subnets missing"}, code: 2,
			breaks: given("--subnets", "subnet-gone"),
		},
		{name: "no such security group", want: []string{"error aws.security_groups missing"}, code: 2, breaks: given("--security-groups",
			"sg-gone")},
		{
			name: "no security group with the tags", want: []string{"error aws.security_groups missing"}, code: 2,
			breaks: given("--security-group-tags", "tier=gone"),
		},
		{name: "security group of another VPC", want: []string{"error aws.security_groups other_vpc"}, code: 2, breaks: func(_ *testing.T,
			e *labEnv,
		) ([]string, []string) {
			e.SetSecurityGroup(lab.SecurityGroup{ID: "sg-other", Name: "other", VPC: "vpc-other"})
			return nil, []string{"--security-groups", "sg-other"}
		}},
		{
			name: "no way out to 443", want: []string{"error aws.security_groups egress"}, code: 6,
			breaks: group(lab.SecurityGroup{Egress: []lab.SecurityRule{{From: 5432, To: 5432, CIDR: "10.0.0.0/8"}}}),
		},
		{name: "no route", want: []string{"error aws.routes none"}, code: 6, breaks: doing(func(e *labEnv) { e.SetRouteTables(closed) })},
		{name: "public subnet without a public address", want: []string{"error aws.routes public"}, code: 6, breaks: doing(func(e *labEnv) {
			e.SetRouteTables(lab.RouteTable{ID: "rtb-public", Main: true, Routes: []lab.Route{{To: "0.0.0.0/0", Gateway: "igw-0"}}})
		})},
		{name: "no endpoint for the gateway", want: []string{"error aws.routes none"}, code: 6, breaks: only("ssmmessages",
			func(v *lab.VPCEndpoint) { v.ID = "" })},
		{name: "S3 endpoint at other routes", want: []string{"error aws.routes none"}, code: 6, breaks: only("s3",
			func(v *lab.VPCEndpoint) { v.RouteTables = []string{"rtb-other"} })},
		{name: "endpoint admits others", want: []string{"error aws.endpoints security_group"}, code: 6, breaks: only("ssmmessages",
			func(v *lab.VPCEndpoint) { v.Groups = []string{"sg-others"} })},
		{name: "endpoint without private DNS", want: []string{"error aws.endpoints private_dns"}, code: 6, breaks: only("ecr.api",
			func(v *lab.VPCEndpoint) { v.NoDNS = true })},
		{name: "endpoint is pending", want: []string{"error aws.endpoints state"}, code: 6, breaks: only("logs",
			func(v *lab.VPCEndpoint) { v.State = "pendingAcceptance" })},
		{name: "endpoint's policy", want: []string{"error aws.endpoints policy"}, code: 5, breaks: only("ssmmessages", func(v *lab.VPCEndpoint) {
			v.Policy = `{"Statement":{"Effect":"Allow","Principal":"*","Action":["ssmmessages:Create*"],"Resource":"*"}}`
		})},
	}
}

func illBastions() []ill {
	alter := func(a lab.TaskAlteration) func(*testing.T, *labEnv, lab.Task) {
		return func(t *testing.T, e *labEnv, task lab.Task) {
			if err := e.AlterTask(task.ID, a); err != nil {
				t.Fatal(err)
			}
		}
	}
	fault := func(f lab.APIFaults) func(*testing.T, *labEnv, lab.Task) {
		return func(t *testing.T, e *labEnv, _ lab.Task) { setFaults(t, e, f) }
	}
	return []ill{
		{
			name: "task without ECS Exec", up: true, want: []string{"error bastion.task exec_disabled"}, code: 6,
			after: alter(lab.TaskAlteration{NoExec: true}),
		},
		{
			name: "old platform", up: true, want: []string{"error bastion.task platform"}, code: 6,
			after: alter(lab.TaskAlteration{Platform: "1.3.0"}),
		},
		{
			name: "exec agent has stopped", up: true, want: []string{"error bastion.exec_agent stopped"}, code: 6,
			after: alter(lab.TaskAlteration{ExecAgent: "STOPPED", ExecReason: "exited"}),
		},
		{
			name: "exec agent does not come up", up: true, want: []string{"error bastion.exec_agent pending"}, code: 6,
			after: alter(lab.TaskAlteration{ExecAgent: "PENDING"}),
		},
		{name: "outdated task", up: true, want: []string{"warning bastion.task outdated"}, code: 11, after: func(_ *testing.T, e *labEnv,
			_ lab.Task,
		) {
			e.AddTaskDefinition(lab.TaskDefinition{Family: "bastion", LikeStack: true})
		}},
		{
			name: "ExecuteCommand denied", up: true, want: []string{"error bastion.connect execute_command_denied"}, code: 5,
			after: fault(lab.APIFaults{Errors: map[string]lab.APIError{
				"ecs:ExecuteCommand": {Code: "AccessDeniedException", Message: "User: u is not authorized to perform: ecs:ExecuteCommand on " +
					"resource: r with an explicit deny in a service control policy"},
			}}),
		},
		{
			name: "StartSession denied", up: true, want: []string{"error bastion.connect start_session_denied"}, code: 5,
			after: fault(lab.APIFaults{Errors: map[string]lab.APIError{
				"ssm:StartSession": {Code: "AccessDeniedException", Message: "User: u is not authorized to perform: ssm:StartSession on resource: r " +
					"because no permissions boundary allows the ssm:StartSession action"},
			}}),
		},
		{
			name: "tasks are not to be seen", want: []string{"error bastion.running denied"}, code: 5,
			config: func(c *lab.Config) { c.User.Deny = []string{"ecs:ListTasks"} },
		},
	}
}

func illTargets() []ill {
	database := func(d lab.DBInstance) func(*testing.T, *labEnv) ([]string, []string) {
		return func(t *testing.T, e *labEnv) ([]string, []string) {
			if d.ID == "" {
				d.ID = "other"
			}
			if err := e.AddDBInstance(d); err != nil {
				t.Fatal(err)
			}
			return nil, nil
		}
	}
	nowhere := netip.MustParseAddrPort("127.0.0.77:5999")
	return []ill{
		{name: "unknown target", target: "rds:nosuch", want: []string{"error target.exists missing"}, code: 3},
		{
			name: "target is not to be seen", target: "rds:orders", want: []string{"error target.exists denied"}, code: 5,
			config: func(c *lab.Config) { c.User.Deny = []string{"rds:*"} },
		},
		{
			name: "stopped", target: "rds:other", want: []string{"error target.status down"}, code: 3,
			breaks: database(lab.DBInstance{Status: "stopped", IAM: true, Addr: nowhere}),
		},
		{
			name: "creating", target: "rds:other", want: []string{"warning target.status passing"}, code: 11,
			breaks: database(lab.DBInstance{Status: "creating", IAM: true, Addr: nowhere}),
		},
		{
			name: "IAM authentication is off", target: "rds:other", want: []string{"warning target.iam off"}, code: 11,
			breaks: database(lab.DBInstance{Addr: nowhere}),
		},
		{
			name: "security group does not admit", target: "rds:other", want: []string{"error target.security_group closed"}, code: 1,
			breaks: func(t *testing.T, e *labEnv) ([]string, []string) {
				e.SetSecurityGroup(lab.SecurityGroup{ID: "sg-strict", Name: "strict", Ingress: []lab.SecurityRule{{
					From: 5999, To: 5999,
					CIDR: "192.168.0.0/16",
				}}})
				return database(lab.DBInstance{IAM: true, Addr: nowhere, Groups: []string{"sg-strict"}})(t, e)
			},
		},
		{
			name: "bastion's group does not let out", target: "rds:other", want: []string{"error target.security_group egress"}, code: 1,
			breaks: func(t *testing.T, e *labEnv) ([]string, []string) {
				e.SetSecurityGroup(lab.SecurityGroup{
					ID: labGroup, Name: "bastion", Tags: map[string]string{"bastion": "true"}, Egress: []lab.SecurityRule{{
						From: 443, To: 443,
						CIDR: "0.0.0.0/0",
					}},
				})
				return database(lab.DBInstance{IAM: true, Addr: nowhere})(t, e)
			},
		},
		{
			name: "name is unknown to the bastion", up: true, target: "nosuch.corp.internal:80", want: []string{"error target.reach name"},
			code: 1, config: func(c *lab.Config) {
				c.Allow = []string{"nosuch.corp.internal:80"}
			},
		},
		{
			name: "database in another VPC", target: "rds:other", want: []string{"warning target.vpc other_vpc"}, code: 11,
			breaks: database(lab.DBInstance{IAM: true, VPC: "vpc-other"}),
		},
		{
			name: "cluster in another VPC by its security group", target: "rds:other", want: []string{"warning target.vpc other_vpc"}, code: 11,
			breaks: func(t *testing.T, e *labEnv) ([]string, []string) {
				e.SetSecurityGroup(lab.SecurityGroup{ID: "sg-far", Name: "far", VPC: "vpc-other"})
				if err := e.AddDBCluster(lab.DBCluster{ID: "other", IAM: true, Groups: []string{"sg-far"}}); err != nil {
					t.Fatal(err)
				}
				return nil, nil
			},
		},
		{
			name: "database in another VPC without a way", up: true, target: "rds:other", want: []string{"error target.vpc other_vpc"}, code: 1,
			breaks: database(lab.DBInstance{IAM: true, VPC: "vpc-other"}), config: func(c *lab.Config) { c.Allow = []string{"*:5432"} },
		},
		{
			name: "host in another region", target: "orders.abc123.eu-west-1.rds.amazonaws.com:5432",
			want: []string{"warning target.vpc other_region"}, code: 11,
		},
		{
			name: "target without a known VPC", target: "cloudmap:corp.internal/billing", want: []string{"skipped target.vpc unknown"},
			breaks: func(t *testing.T, e *labEnv) ([]string, []string) {
				if err := e.AddMappedService(lab.MappedService{
					Namespace: "corp.internal", Name: "billing", Instances: []netip.AddrPort{nowhere},
				}); err != nil {
					t.Fatal(err)
				}
				return nil, nil
			},
		},
		{name: "not on the lists", up: true, target: "127.0.0.88:80", want: []string{"error target.reach task"}, code: 5},
		{
			name: "port is closed there", up: true, target: nowhere.String(), want: []string{"error target.reach closed"}, code: 1,
			config: func(c *lab.Config) {
				c.Allow = []string{nowhere.String()}
			},
		},
	}
}
