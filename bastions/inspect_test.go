package bastions

import (
	"bytes"
	"context"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// fakeEC2 has one network interface for every task, which change may alter.
type fakeEC2 struct {
	EC2API // others are not called

	change func(*ec2types.NetworkInterface)
	err    error

	mu    sync.Mutex
	calls int
}

func (f *fakeEC2) DescribeNetworkInterfaces(
	_ context.Context,
	in *ec2.DescribeNetworkInterfacesInput,
	_ ...func(*ec2.Options),
) (*ec2.DescribeNetworkInterfacesOutput, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.err != nil {
		return nil, f.err
	}
	face := ec2types.NetworkInterface{
		NetworkInterfaceId: aws.String(in.NetworkInterfaceIds[0]), SubnetId: aws.String("subnet-a"),
		Groups: []ec2types.GroupIdentifier{
			{GroupId: aws.String("sg-2"), GroupName: aws.String("b")}, {GroupId: aws.String("sg-1"), GroupName: aws.String("a")},
		},
	}
	if f.change != nil {
		f.change(&face)
	}
	return &ec2.DescribeNetworkInterfacesOutput{NetworkInterfaces: []ec2types.NetworkInterface{face}}, nil
}

// guardedSpec names all that can be compared.
func guardedSpec() Spec {
	spec := testSpec()
	spec.SecurityGroups = []string{"sg-2", "sg-1"}
	return spec
}

// withInterface makes a task ready and gives it the network interface that fakeEC2 describes.
func withInterface(t *fakeTask) {
	running(&t.Task)
	exec("RUNNING", "")(&t.Task)
	t.Attachments = []types.Attachment{{
		Type: aws.String("ElasticNetworkInterface"),
		Details: []types.KeyValuePair{
			{Name: aws.String("subnetId"), Value: aws.String("subnet-a")},
			{Name: aws.String("networkInterfaceId"), Value: aws.String("eni-1")},
		},
	}}
}

func override(change func(*types.TaskOverride, *types.ContainerOverride)) func(*types.Task) {
	return func(t *types.Task) {
		o, c := types.TaskOverride{}, types.ContainerOverride{Name: aws.String("bastion")}
		change(&o, &c)
		o.ContainerOverrides = append(o.ContainerOverrides, c)
		t.Overrides = &o
	}
}

func variable(name, value string) []types.KeyValuePair {
	return []types.KeyValuePair{{Name: aws.String(name), Value: aws.String(value)}}
}

func replaceIn(field **string, from, to string) {
	*field = aws.String(strings.Replace(**field, from, to, 1))
}

// attacks are tasks with the owner's marks that somebody else may have started, each by what it differs in.
var attacks = []struct {
	name string
	task func(*types.Task)
	face func(*ec2types.NetworkInterface)
	want string
}{
	{"resolver", override(func(_ *types.TaskOverride, c *types.ContainerOverride) {
		c.Environment = variable("BASTIOND_RESOLVER", "10.0.0.66:53")
	}), nil, "the variable BASTIOND_RESOLVER"},
	{"allow-list", override(func(_ *types.TaskOverride, c *types.ContainerOverride) {
		c.Environment = variable("BASTIOND_ALLOW", "*:*")
	}), nil, "the variable BASTIOND_ALLOW"},
	{"variable of a library", override(func(_ *types.TaskOverride, c *types.ContainerOverride) {
		c.Environment = variable("SSL_CERT_FILE", "/tmp/x")
	}), nil, "the variable SSL_CERT_FILE"},
	{"environment file", override(func(_ *types.TaskOverride, c *types.ContainerOverride) {
		c.EnvironmentFiles = []types.EnvironmentFile{{Value: aws.String("arn:aws:s3:::x/y"), Type: types.EnvironmentFileTypeS3}}
	}), nil, "an environment file"},
	{"command", override(func(_ *types.TaskOverride, c *types.ContainerOverride) {
		c.Command = []string{"serve", "--resolver", "10.0.0.66:53"}
	}), nil, `the command ["serve" "--resolver"`},
	{"command of another container", override(func(_ *types.TaskOverride, c *types.ContainerOverride) {
		c.Name, c.Command = aws.String("sidecar"), []string{"x"}
	}), nil, "in container sidecar: the command"},
	{"variable of the second override", override(func(o *types.TaskOverride, c *types.ContainerOverride) {
		o.ContainerOverrides = []types.ContainerOverride{{Name: aws.String("bastion"), Cpu: aws.Int32(64)}}
		c.Environment = variable("X", "")
	}), nil, "the variable X"},
	{"resources", override(func(_ *types.TaskOverride, c *types.ContainerOverride) {
		c.ResourceRequirements = []types.ResourceRequirement{{Type: types.ResourceTypeGpu, Value: aws.String("1")}}
	}), nil, "resources"},
	{"task role", override(func(o *types.TaskOverride, _ *types.ContainerOverride) {
		o.TaskRoleArn = aws.String("arn:aws:iam::000000000000:role/other")
	}), nil, "the task role overridden: arn:aws:iam::000000000000:role/other"},
	{"execution role", override(func(o *types.TaskOverride, _ *types.ContainerOverride) {
		o.ExecutionRoleArn = aws.String("arn:aws:iam::000000000000:role/other")
	}), nil, "the execution role overridden"},
	{"accelerator", override(func(o *types.TaskOverride, _ *types.ContainerOverride) {
		o.InferenceAcceleratorOverrides = []types.InferenceAcceleratorOverride{{}} //nolint:staticcheck // ECS may still answer it
	}), nil, "accelerators"},
	{
		"subnet", func(t *types.Task) { t.Attachments[0].Details[0].Value = aws.String("subnet-evil") }, nil,
		"is in subnet subnet-evil, not in subnet-a, subnet-b",
	},
	{
		"subnet of the interface", nil, func(n *ec2types.NetworkInterface) { n.SubnetId = aws.String("subnet-evil") },
		"is in subnet subnet-evil",
	},
	{
		"other security group", nil, func(n *ec2types.NetworkInterface) { n.Groups[0].GroupId = aws.String("sg-evil") },
		"has the security groups sg-1, sg-evil, not sg-1, sg-2",
	},
	{"one more security group", nil, func(n *ec2types.NetworkInterface) {
		n.Groups = append(n.Groups, ec2types.GroupIdentifier{GroupId: aws.String("sg-3")})
	}, "has the security groups sg-1, sg-2, sg-3"},
	{"default security group", nil, func(n *ec2types.NetworkInterface) {
		n.Groups = []ec2types.GroupIdentifier{{GroupId: aws.String("sg-0"), GroupName: aws.String("default")}}
	}, "has the security groups sg-0"},
	{"public address", nil, func(n *ec2types.NetworkInterface) {
		n.Association = &ec2types.NetworkInterfaceAssociation{PublicIp: aws.String("192.0.2.1")}
	}, "has the public address 192.0.2.1"},
	{"launch type", func(t *types.Task) { t.LaunchType = types.LaunchTypeEc2 }, nil, `the launch type "EC2"`},
	{"external machine", func(t *types.Task) { t.LaunchType = types.LaunchTypeExternal }, nil, `the launch type "EXTERNAL"`},
	{"container instance", func(t *types.Task) {
		t.ContainerInstanceArn = aws.String("arn:aws:ecs:eu-central-1:000000000000:container-instance/demo/i1")
	}, nil, "runs on the container instance i1"},
	{
		"capacity provider", func(t *types.Task) { t.CapacityProviderName = aws.String("own-machines") }, nil,
		"capacity provider own-machines",
	},
	{"volume", func(t *types.Task) {
		t.Attachments = append(t.Attachments, types.Attachment{Type: aws.String("AmazonElasticBlockStorage")})
	}, nil, "has a volume attached"},
	{"definition of another account", func(t *types.Task) {
		replaceIn(&t.TaskDefinitionArn, "000000000000", "999999999999")
	}, nil, "task definition of account 999999999999"},
	{"definition of another region", func(t *types.Task) {
		replaceIn(&t.TaskDefinitionArn, "eu-central-1", "us-east-1")
	}, nil, "has ARNs of the regions"},
	{
		"cluster of another name", func(t *types.Task) { replaceIn(&t.ClusterArn, "/demo", "/xdemo") }, nil,
		"runs in cluster arn:aws:ecs:eu-central-1:000000000000:cluster/xdemo, not in demo",
	},
	{
		"cluster of another account", func(t *types.Task) { replaceIn(&t.ClusterArn, "000000000000", "999999999999") }, nil,
		"cluster of account 999999999999",
	},
	{"no cluster", func(t *types.Task) { t.ClusterArn = nil }, nil, "is not an ARN"},
}

// TestSomebodyElsesTask: the client neither uses nor stops a task with the owner's marks that it would not have started, and says
// so. It starts another one beside it.
func TestSomebodyElsesTask(t *testing.T) {
	for _, tt := range attacks {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, network := &fakeECS{}, &fakeEC2{change: tt.face}
				evil := f.mine(time.Hour, func(t *fakeTask) {
					withInterface(t)
					if tt.task != nil {
						tt.task(&t.Task)
					}
				})
				var log bytes.Buffer
				m := New(Config{ECS: f, EC2: network, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				spec := guardedSpec()

				if b, err := m.Find(t.Context(), spec); b != nil || err != nil {
					t.Fatalf("Find = %+v, %v", b, err)
				}
				if id := lastPart(*evil.TaskArn); !strings.Contains(log.String(), id) {
					t.Errorf("the log does not name the task: %s", log.String())
				}
				all, err := m.List(t.Context(), spec)
				if err != nil || len(all) != 1 || !strings.Contains(all[0].Refused, tt.want) {
					t.Fatalf("List = %+v, %v; want a refusal with %q", all, err, tt.want)
				}
				_, err = m.Get(t.Context(), spec, *evil.TaskArn)
				checkError(t, err, fail.NoTarget, []string{"would not have started the task", tt.want}, "bastion down --refused")

				network.change = nil
				if tt.face != nil {
					network.change = func(n *ec2types.NetworkInterface) {
						if *n.NetworkInterfaceId == "eni-1" {
							tt.face(n)
						}
					}
				}
				var notes []string
				b, started, err := m.Ensure(t.Context(), spec, func(e Event) { notes = append(notes, e.Detail) })
				if err != nil || !started || b.TaskARN == *evil.TaskArn {
					t.Fatalf("Ensure = %+v, %v, %v", b, started, err)
				}
				if said := strings.Join(notes, "\n"); !strings.Contains(said, "marked as yours, but bastion would not have started it") ||
					!strings.Contains(said, tt.want) {
					t.Errorf("events %q lack the refusal", notes)
				}

				stopped, left, err := m.Stop(t.Context(), spec, "test", false)
				if err != nil || len(stopped) != 1 || len(left) != 1 || left[0].TaskARN != *evil.TaskArn {
					t.Errorf("Stop = %+v, %+v, %v", stopped, left, err)
				}
				stopped, left, err = m.Stop(t.Context(), spec, "test", true)
				if err != nil || len(stopped) != 1 || len(left) != 0 || stopped[0].TaskARN != *evil.TaskArn {
					t.Errorf("Stop of the refused = %+v, %+v, %v", stopped, left, err)
				}
			})
		})
	}
}

// TestHarmlessDifferences: sizes, the order of lists, and what AWS adds by itself, make no task somebody else's.
func TestHarmlessDifferences(t *testing.T) {
	for name, change := range map[string]func(*types.Task, *Spec){
		"none": func(*types.Task, *Spec) {},
		"sizes": func(t *types.Task, _ *Spec) {
			t.Overrides = &types.TaskOverride{
				Cpu: aws.String("1024"), Memory: aws.String("2048"),
				EphemeralStorage: &types.EphemeralStorage{SizeInGiB: 30},
				ContainerOverrides: []types.ContainerOverride{{
					Name: aws.String("bastion"), Cpu: aws.Int32(512), Memory: aws.Int32(512), MemoryReservation: aws.Int32(256),
				}},
			}
		},
		"cluster by ARN":    func(_ *types.Task, s *Spec) { s.Cluster = testCluster },
		"definition by ARN": func(_ *types.Task, s *Spec) { s.TaskDefinition = testFamily },
		"a revision":        func(_ *types.Task, s *Spec) { s.TaskDefinition = "bastion:7" },
		"public on request": func(_ *types.Task, s *Spec) { s.AssignPublicIP = true },
		"a guard's container": func(t *types.Task, _ *Spec) {
			t.Containers = append(t.Containers, types.Container{Name: aws.String("aws-guardduty-agent-x")})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, spec := &fakeECS{}, guardedSpec()
				mine := f.mine(time.Hour, func(t *fakeTask) { withInterface(t); change(&t.Task, &spec) })
				network := &fakeEC2{}
				m := New(Config{ECS: f, EC2: network})
				for range 3 {
					b, err := m.Find(t.Context(), spec)
					if err != nil || b == nil || b.TaskARN != *mine.TaskArn || b.Unchecked != "" {
						t.Fatalf("Find = %+v, %v", b, err)
					}
				}
				if network.calls != 1 {
					t.Errorf("EC2 was asked %d times about a task that cannot change", network.calls)
				}
			})
		})
	}
}

// TestDefaultGroup: without security groups RunTask takes the VPC's default group, and no other.
func TestDefaultGroup(t *testing.T) {
	group := func(names ...string) (groups []ec2types.GroupIdentifier) {
		for _, n := range names {
			groups = append(groups, ec2types.GroupIdentifier{GroupId: aws.String("sg-" + n), GroupName: aws.String(n)})
		}
		return groups
	}
	if why := otherGroups(nil, group("default")); why != "" {
		t.Error(why)
	}
	for _, names := range [][]string{{"Default"}, {"x"}, {"default", "x"}} {
		if why := otherGroups(nil, group(names...)); !strings.Contains(why, "not the VPC's default") {
			t.Errorf("%v: %q", names, why)
		}
	}
}

// TestOneOfTwo: of two tasks with the owner's marks the right one is used, and the other is named.
func TestOneOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		good := f.mine(time.Hour, withInterface)
		evil := f.mine(time.Minute, func(t *fakeTask) { withInterface(t); attacks[0].task(&t.Task) })
		var notes []string
		b, started, err := New(Config{ECS: f, EC2: &fakeEC2{}}).Ensure(t.Context(), guardedSpec(), func(e Event) {
			notes = append(notes, e.Detail)
		})
		if err != nil || started || b.TaskARN != *good.TaskArn {
			t.Errorf("Ensure = %+v, %v, %v", b, started, err)
		}
		if !strings.Contains(strings.Join(notes, "\n"), lastPart(*evil.TaskArn)+" is marked as yours") {
			t.Errorf("events %q", notes)
		}
	})
}

// TestOutdated: a task of another revision than a new one would be of is the owner's to stop, and is not used.
func TestOutdated(t *testing.T) {
	latest := "arn:aws:ecs:eu-central-1:000000000000:task-definition/bastion:8"
	for name, tt := range map[string]struct {
		change func(*types.Task)
		spec   string
		want   string
	}{
		"latest of the family": {nil, "bastion", "runs task definition bastion:7; a new one would run bastion:8"},
		"other than pinned":    {nil, "bastion:6", "runs task definition bastion:7; a new one would run bastion:6"},
		"other ARN":            {nil, strings.Replace(latest, ":8", ":9", 1), "a new one would run bastion:9"},
		"older owner tag": {func(t *types.Task) {
			t.Tags = []types.Tag{{Key: aws.String(tagOwner), Value: aws.String(testARN)}}
		}, "bastion:7", "started by an older bastion"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{definition: &types.TaskDefinition{TaskDefinitionArn: aws.String(latest)}}
				f.mine(time.Hour, func(t *fakeTask) {
					withInterface(t)
					if tt.change != nil {
						tt.change(&t.Task)
					}
				})
				m := New(Config{ECS: f, EC2: &fakeEC2{}})
				spec := guardedSpec()
				spec.TaskDefinition = tt.spec
				all, err := m.List(t.Context(), spec)
				if err != nil || len(all) != 1 || all[0].Refused != "" || !strings.Contains(all[0].Outdated, tt.want) {
					t.Fatalf("List = %+v, %v", all, err)
				}
				if _, started, err := m.Ensure(t.Context(), spec, nil); err != nil || !started {
					t.Errorf("Ensure: %v, %v", started, err)
				}
				if stopped, left, err := m.Stop(t.Context(), spec, "test", false); err != nil || len(stopped) != 2 || len(left) != 0 {
					t.Errorf("Stop = %+v, %+v, %v", stopped, left, err)
				}
			})
		})
	}
}

// TestUncheckedParts: what IAM does not let the owner see is said and not held against a task; other failures are errors.
func TestUncheckedParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{before: func(_ context.Context, call string) error {
			if call == "DescribeTaskDefinition" {
				return &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no"}
			}
			return nil
		}}
		f.mine(time.Hour, withInterface)
		network := &fakeEC2{err: &smithy.GenericAPIError{Code: "UnauthorizedOperation", Message: "no"}}
		m := New(Config{ECS: f, EC2: network})
		var notes []string
		b, started, err := m.Ensure(t.Context(), guardedSpec(), func(e Event) { notes = append(notes, e.Detail) })
		if err != nil || started {
			t.Fatalf("Ensure = %+v, %v, %v", b, started, err)
		}
		for _, want := range []string{"used unchecked in part", "ec2:DescribeNetworkInterfaces", "ecs:DescribeTaskDefinition"} {
			if !strings.Contains(strings.Join(notes, "\n"), want) {
				t.Errorf("events %q lack %q", notes, want)
			}
		}
		network.err = &smithy.GenericAPIError{Code: "InternalError", Message: "x"}
		_, _, err = m.Ensure(t.Context(), guardedSpec(), nil)
		checkError(t, err, fail.Start, []string{"compare a task's network", "InternalError"}, "")

		// The client need not compare a task to show or stop it.
		all, err := m.List(t.Context(), guardedSpec())
		if err != nil || len(all) != 1 || !strings.Contains(all[0].Unchecked, "InternalError") {
			t.Errorf("List = %+v, %v", all, err)
		}
		if stopped, _, err := m.Stop(t.Context(), guardedSpec(), "test", false); err != nil || len(stopped) != 1 {
			t.Errorf("Stop = %+v, %v", stopped, err)
		}
	})
}

// TestUncheckedOnceStarted: what cannot be compared of a task that was found starting is said too.
func TestUncheckedOnceStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		f.mine(time.Second, func(t *fakeTask) {
			becomesReady(t)
			t.then(12*time.Second, func(*types.Task) { withInterface(t) })
		})
		network := &fakeEC2{err: &smithy.GenericAPIError{Code: "UnauthorizedOperation", Message: "no"}}
		var notes []string
		b, started, err := New(Config{ECS: f, EC2: network}).Ensure(t.Context(), guardedSpec(), func(e Event) {
			notes = append(notes, e.Detail)
		})
		if err != nil || started || !strings.Contains(b.Unchecked, "ec2:DescribeNetworkInterfaces") {
			t.Fatalf("Ensure = %+v, %v, %v", b, started, err)
		}
		if all := strings.Join(notes, "\n"); strings.Count(all, "used unchecked in part: its security groups") != 1 {
			t.Errorf("events %q", notes)
		}
	})
}

// TestEveryOverrideIsClassified: an override that a newer ECS API adds is refused or known to be harmless, not overlooked.
func TestEveryOverrideIsClassified(t *testing.T) {
	harmless := []string{"ContainerOverrides", "Cpu", "EphemeralStorage", "Memory", "MemoryReservation", "Name"}
	for _, of := range []reflect.Type{reflect.TypeFor[types.TaskOverride](), reflect.TypeFor[types.ContainerOverride]()} {
		for i := range of.NumField() {
			field := of.Field(i)
			if !field.IsExported() || slices.Contains(harmless, field.Name) {
				continue
			}
			o := types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{}}}
			in := reflect.ValueOf(&o).Elem()
			if of != in.Type() {
				in = reflect.ValueOf(&o.ContainerOverrides[0]).Elem()
			}
			switch v := in.Field(i); v.Kind() {
			case reflect.Pointer:
				v.Set(reflect.New(v.Type().Elem()))
				if v.Elem().Kind() == reflect.String {
					v.Elem().SetString("x")
				}
			case reflect.Slice:
				v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			default:
				t.Errorf("%s.%s: no rule for its type", of.Name(), field.Name)
			}
			if otherOverrides(&o) == "" {
				t.Errorf("%s.%s is neither refused nor among the harmless", of.Name(), field.Name)
			}
		}
	}
}

// TestAmbiguousNetwork: a network that cannot be chosen, as when others set the same tags, is no reason to trust a task.
func TestAmbiguousNetwork(t *testing.T) {
	w := account(t, 1)
	normal := w.answer
	w.answer = func(action, body string, n int) (int, string) {
		if action == "DescribeSubnets" {
			return 200, `<DescribeSubnetsResponse><subnetSet><item><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId></item>` +
				`<item><subnetId>subnet-2</subnetId><vpcId>vpc-2</vpcId></item></subnetSet></DescribeSubnetsResponse>`
		}
		return normal(action, body, n)
	}
	m := w.manager(t)
	all, err := m.List(t.Context(), networkSpec())
	if err != nil || len(all) != 1 || !strings.Contains(all[0].Refused, "subnets of 2 VPCs") {
		t.Errorf("List = %+v, %v", all, err)
	}
	_, _, err = m.Ensure(t.Context(), networkSpec(), nil)
	checkError(t, err, fail.Usage, []string{"subnets of 2 VPCs"}, "name the subnets by id")
}

// TestStartingTask: the security groups of a task that was found starting are compared before it is used.
func TestStartingTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		evil := f.mine(time.Second, func(t *fakeTask) {
			becomesReady(t)
			t.then(12*time.Second, func(*types.Task) { withInterface(t) })
		})
		network := &fakeEC2{change: func(n *ec2types.NetworkInterface) {
			if *n.NetworkInterfaceId == "eni-1" {
				n.Groups[0].GroupId = aws.String("sg-evil")
			}
		}}
		b, started, err := New(Config{ECS: f, EC2: network}).Ensure(t.Context(), guardedSpec(), nil)
		if err != nil || !started || b.TaskARN == *evil.TaskArn {
			t.Errorf("Ensure = %+v, %v, %v", b, started, err)
		}
	})
}

// TestHiddenTasks: a task that IAM hides, because it has somebody else's tag and the owner's startedBy, keeps nobody from
// their own.
func TestHiddenTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		hidden := f.mine(time.Minute, withInterface)
		f.conceal = []string{*hidden.TaskArn}
		m := New(Config{ECS: f, EC2: &fakeEC2{}})
		_, err := m.List(t.Context(), guardedSpec())
		checkError(t, err, fail.Denied, nil, "ecs:DescribeTasks")

		mine := f.mine(time.Hour, withInterface)
		all, err := m.List(t.Context(), guardedSpec())
		if err != nil || len(all) != 1 || all[0].TaskARN != *mine.TaskArn {
			t.Errorf("List = %+v, %v", all, err)
		}
		b, started, err := m.Ensure(t.Context(), guardedSpec(), nil)
		if err != nil || started || b.TaskARN != *mine.TaskArn {
			t.Errorf("Ensure = %+v, %v, %v", b, started, err)
		}
		stops(types.TaskStopCodeUserInitiated, "x")(&mine.Task)
		if b, started, err = m.Ensure(t.Context(), guardedSpec(), nil); err != nil || !started {
			t.Errorf("Ensure = %+v, %v, %v", b, started, err)
		}
	})
}

// TestMayNotSee: IAM hides a new task until its tags are there. One that its owner may never see is stopped, so that each
// call does not leave another behind.
func TestMayNotSee(t *testing.T) {
	for name, tt := range map[string]struct {
		seen time.Duration // after the start
		kind fail.Kind
		live int
	}{
		"for a moment": {unseenTime / 2, fail.Other, 1},
		"never":        {time.Hour, fail.Denied, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{}
				begin := time.Now()
				f.before = func(_ context.Context, call string) error {
					if call == "DescribeTasks" && time.Since(begin) < tt.seen {
						return &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no"}
					}
					return nil
				}
				_, _, err := New(Config{ECS: f, EC2: &fakeEC2{}}).Ensure(t.Context(), guardedSpec(), nil)
				if fail.KindOf(err) != tt.kind || len(f.live()) != tt.live || f.count("RunTask") != 1 {
					t.Errorf("%v; live %v, %d started", err, f.live(), f.count("RunTask"))
				}
				if err != nil {
					checkError(t, err, tt.kind, nil, "ecs:DescribeTasks")
				}
			})
		})
	}
}

// TestForeignAnswer: a task that ECS answers to RunTask and that was not asked for is not used.
func TestForeignAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		f.plan = func(t *fakeTask) {
			if f.calls["RunTask"] == 1 {
				attacks[0].task(&t.Task)
			}
			becomesReady(t)
		}
		b, started, err := New(Config{ECS: f, EC2: &fakeEC2{}}).Ensure(t.Context(), guardedSpec(), nil)
		if err != nil || !started || b.TaskARN == *f.tasks[0].TaskArn || len(f.runs) != 2 {
			t.Errorf("Ensure = %+v, %v, %v; %d runs", b, started, err, len(f.runs))
		}
	})
}

// TestCheckedIsBounded: the remembered checks of tasks are bounded, and belong to a Spec.
func TestCheckedIsBounded(t *testing.T) {
	var c checked
	spec := guardedSpec()
	for i := range 3 * maxChecked {
		c.add(spec, wireARN(i))
	}
	if len(c.tasks) > maxChecked || !c.has(spec, wireARN(3*maxChecked-1)) {
		t.Errorf("%d remembered", len(c.tasks))
	}
	other := spec
	other.SecurityGroups = slices.Clone(spec.SecurityGroups[:1])
	if c.has(other, wireARN(3*maxChecked-1)) {
		t.Error("a task that was compared with one Spec counts for another")
	}
}
