package iamref

import (
	"strings"
	"testing"
)

// TestReferenceFinds: the check finds what it is for.
func TestReferenceFinds(t *testing.T) {
	r := New(t)
	const task = "arn:PARTITION:ecs:REGION:ACCOUNT_ID:task/bastion/*"
	const definition = "arn:PARTITION:ecs:REGION:ACCOUNT_ID:task-definition/bastion:*"
	is := func(operator, key string) map[string]map[string]string {
		return map[string]map[string]string{operator: {key: "x"}}
	}
	for _, tt := range []struct {
		s    Statement
		want string // "": nothing
	}{
		{Statement{Action: List{"ecs:RunTask"}, Resource: List{definition}, Condition: is("ArnEquals", "ecs:cluster")}, ""},
		{Statement{Action: List{"ecs:RunTask"}, Resource: List{definition}, Condition: is("NumericLessThanEquals", "ecs:task-cpu")}, ""},
		{Statement{Action: List{"ecs:RunTask"}, Resource: List{definition}, Condition: is("ForAllValues:StringLike", "aws:TagKeys")}, ""},
		{
			Statement{Action: List{"ecs:RunTask"}, Resource: List{definition}, Condition: is("StringEquals", "ecs:auto-assign-public-ip")},
			"ecs:auto-assign-public-ip does not exist for ecs:RunTask",
		},
		{
			Statement{Action: List{"ecs:RunTask"}, Resource: List{definition}, Condition: is("StringEquals", "ecs:subnet")},
			"ecs:subnet does not exist for ecs:RunTask",
		},
		{
			Statement{Action: List{"ecs:StopTask"}, Resource: List{task}, Condition: is("StringEquals", "kms:EncryptionContext:x")},
			"kms:EncryptionContext:x does not exist for ecs:StopTask",
		},
		{
			Statement{Action: List{"ecs:StopTask"}, Resource: List{task}, Condition: is("StringEquals", "aws:RequestTag/x")},
			"aws:RequestTag/x does not exist for ecs:StopTask",
		},
		{
			Statement{Action: List{"ssm:TerminateSession"}, Resource: List{"arn:aws:ssm:r:1:session/*"}, Condition: is("StringEquals", "aws:ResourceTag/x")},
			"aws:ResourceTag/x does not exist for ssm:TerminateSession",
		},
		{
			Statement{Action: List{"ecs:RunTask"}, Resource: List{definition}, Condition: is("Bool", "ecs:enable-execute-command")},
			"Bool does not suit ecs:enable-execute-command",
		},
		{Statement{Action: List{"rds:DescribeDBClusters"}, Resource: List{"arn:PARTITION:rds:REGION:ACCOUNT_ID:*"}}, ""},
		{Statement{Action: List{"rds:DescribeDBClusters"}, Resource: List{"arn:PARTITION:ecs:REGION:ACCOUNT_ID:*"}}, "has none of the resources"},
		{Statement{Action: List{"ecs:ListClusters"}, Resource: List{"arn:PARTITION:ecs:REGION:ACCOUNT_ID:*"}}, "has none of the resources"},
		{Statement{Action: List{"ecs:RunTask"}, Resource: List{task}}, "ecs:RunTask has none of the resources"},
		{Statement{Action: List{"ecs:DescribeTaskDefinition"}, Resource: List{definition}}, "no action is about"},
		{Statement{Action: List{"ecs:StopTask"}, Resource: List{task, definition}}, "no action is about"},
		{Statement{Action: List{"ecs:StopTask"}, Resource: List{"*"}}, "has resource types, and is allowed on *"},
		{Statement{Action: List{"ecs:RunTasks"}, Resource: List{"*"}}, "there is no action ecs:RunTasks"},
		{Statement{Action: List{"ecs:runTask"}, Resource: List{definition}}, "there is no action ecs:runTask"},
		{Statement{Action: List{"nothing:Do"}, Resource: List{"*"}}, "there is no action nothing:Do"},
	} {
		got := strings.Join(r.Check(tt.s), "; ")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.s, got, tt.want)
		}
	}
}
