package account

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/iamref"
)

var place = Place{Partition: "aws", Region: "eu-central-1", Account: "000000000000"}

// documents are the policies of people of a stack, as IAM reads them.
func documents(t *testing.T, in Inputs) map[string]iamref.Policy {
	t.Helper()
	all, err := newStack(t, in).Documents(place)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]iamref.Policy)
	for _, d := range all {
		var p iamref.Policy
		if err := json.Unmarshal(d.JSON, &p); err != nil || len(p.Statement) == 0 {
			t.Fatalf("%s: %v\n%s", d.Name, err, d.JSON)
		}
		if n := len(regexp.MustCompile(`\s`).ReplaceAll(d.JSON, nil)); n > 6144 { // IAM's limit does not count white space
			t.Errorf("%s has %d characters, more than a managed policy", d.Name, n)
		}
		out[d.Name] = p
	}
	return out
}

// Each policy names actions, resource types and condition keys that exist for each other, and fits into a managed policy.
func TestDocumentsExist(t *testing.T) {
	reference := iamref.New(t)
	for variant, in := range variants {
		for name, p := range documents(t, in) {
			for _, s := range p.Statement {
				for _, fault := range reference.Check(s) {
					t.Errorf("%s: %s: %s: %s", variant, name, s.Sid, fault)
				}
			}
		}
	}
	if err := reference.Err(); err != nil {
		t.Error(err)
	}
}

// Each fits also with the longest names.
func TestDocumentsFit(t *testing.T) {
	long := strings.Repeat("n", maxName)
	in := Inputs{
		Name: long, Path: "/a-longer-path/of-a-team/", Boundary: "arn:aws:iam::000000000000:policy/" + long, ExecLogs: true, AlarmEmail: "a@example.com",
		Endpoints: Endpoints{Make: true}, VPC: "vpc-0123456789abcdef0",
		Ingress: []Ingress{{Group: "sg-0123456789abcdef1", Port: 1, For: "a"}, {Group: "sg-0123456789abcdef2", Port: 2, For: "b"}},
	}
	for i := range 4 {
		in.Classes = append(in.Classes, Class{Name: long[1:] + decimal(i), Roles: []string{"people-" + decimal(i)}})
	}
	if got := documents(t, in); len(got) != 4+5 {
		t.Errorf("%d documents", len(got))
	}
}

// allows reports whether a policy has a statement for the action, whose name may stand there as a pattern.
func allows(p iamref.Policy, action string) bool {
	return slices.ContainsFunc(p.Statement, func(s iamref.Statement) bool {
		return slices.ContainsFunc(s.Action, func(a string) bool {
			ok, _ := filepath.Match(strings.ToLower(a), strings.ToLower(action))
			return ok
		})
	})
}

// unneeded are permissions of handlers that no stack needs, by patterns, and why.
var unneeded = map[string]string{
	"*:*AccountSetting*":                    "no setting of the account is changed",
	"ecr:*RepositoryPolicy":                 "the repository has no policy; the read handler asks for it",
	"firehose:*":                            "logs have no delivery",
	"iam:AttachGroupPolicy":                 "policies are given to roles",
	"iam:AttachUserPolicy":                  "policies are given to roles",
	"iam:DetachGroupPolicy":                 "policies are given to roles",
	"iam:DetachUserPolicy":                  "policies are given to roles",
	"iam:DeleteRolePermissionsBoundary":     "a boundary stays",
	"kms:DisableKeyRotation":                "the key rotates",
	"logs:CreateLogDelivery":                "logs have no delivery",
	"logs:*IndexPolicy":                     "logs have no index",
	"logs:*ResourcePolicy":                  "logs have no policy of their own",
	"logs:PutBearerTokenAuthentication":     "not set",
	"logs:PutDataProtectionPolicy":          "not set",
	"logs:DeleteDataProtectionPolicy":       "not set",
	"logs:PutLogGroupDeletionProtection":    "not set",
	"sns:PutDataProtectionPolicy":           "not set",
	"vpc-lattice:*":                         "endpoints of no service network",
	"vpce:*":                                "endpoints of the region's own services",
	"s3:REST.PUT.OBJECT":                    "logs have no delivery",
	"s3tables:*":                            "no tables of metadata",
	"s3:*Metadata*":                         "no tables of metadata",
	"s3:*Analytics*":                        "not set",
	"s3:*Accelerat*":                        "not set",
	"s3:PutBucketAbac":                      "not set",
	"s3:*Replication*":                      "not set",
	"s3:*Website":                           "not set",
	"s3:*Cors":                              "not set",
	"s3:*CORS":                              "not set",
	"s3:PutBucketLogging":                   "not set",
	"s3:PutBucketNotification":              "not set",
	"s3:*ObjectLock*":                       "not set",
	"s3:PutIntelligentTieringConfiguration": "not set",
	"s3:PutInventoryConfiguration":          "not set",
	"s3:*MetricsConfiguration":              "not set",
	"s3:DeleteBucket[EML]*":                 "encryption and lifecycle stay",
	"s3:PutBucketAcl":                       "not set",
	"s3:PutObjectAcl":                       "not set",
	"s3:DeleteObject":                       "the bucket stays",
}

// What CloudFormation may call is what its handlers of the stack's types list, but for the properties that no stack has: neither a gap nor a
// surplus.
func TestHandlersPermissions(t *testing.T) {
	text, err := os.ReadFile("testdata/handlers.json")
	if err != nil {
		t.Fatal(err)
	}
	var schemas struct{ Types map[string][]string }
	if err := json.Unmarshal(text, &schemas); err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	spare := func(permission string) bool {
		for pattern, why := range unneeded {
			if ok, _ := filepath.Match(pattern, permission); ok && why != "" {
				used[pattern] = true
				return true
			}
		}
		return false
	}
	for variant, in := range variants {
		s := newStack(t, in)
		all := documents(t, in)
		policy := iamref.Policy{Statement: slices.Concat(all["resources"].Statement, all["roles"].Statement, all["network"].Statement)}
		var listed []string
		for _, r := range s.Resources {
			permissions, known := schemas.Types[r.Type]
			if !known {
				t.Errorf("%s: testdata/handlers.json lacks %s", variant, r.Type)
			}
			listed = append(listed, permissions...)
			for _, p := range permissions {
				if !allows(policy, p) && !spare(p) && needed(s, r, p) {
					t.Errorf("%s: the handlers of %s may not call %s", variant, r.Type, p)
				}
			}
		}
		for _, statement := range policy.Statement {
			if _, only := statement.Condition["ForAnyValue:StringEquals"]["aws:CalledVia"]; !only {
				t.Errorf("%s: %s is not for CloudFormation alone", variant, statement.Sid)
			}
			for _, a := range statement.Action {
				if !slices.ContainsFunc(listed, func(p string) bool { return strings.EqualFold(a, p) }) {
					t.Errorf("%s: %s allows %s, which no handler lists", variant, statement.Sid, a)
				}
			}
		}
	}
	for pattern, why := range unneeded {
		if why != "" && !used[pattern] {
			t.Errorf("no handler lists %s any more: remove it from the list", pattern)
		}
	}
}

// needed reports whether a permission matters for the resource as it is in the stack.
func needed(s *Stack, r Resource, permission string) bool {
	switch permission {
	case "iam:PassRole", "iam:GetRole": // of topics, rules and buckets that have a role
		return r.Type == "AWS::IAM::Role" || r.Type == "AWS::ECS::TaskDefinition" && permission == "iam:PassRole"
	case "iam:AttachRolePolicy", "iam:DetachRolePolicy": // of a role, policies of others
		return r.Type == "AWS::IAM::ManagedPolicy" && r.at("Roles") != nil
	case "iam:PutRolePermissionsBoundary":
		return s.Inputs.Boundary != ""
	case "kms:DescribeKey": // of the cluster, for its storage
		return r.Type == "AWS::KMS::Key" || r.Type == "AWS::ECR::Repository"
	}
	return true
}

// Operators stop only what has an owner, and enter nothing.
func TestAdminEntersNothing(t *testing.T) {
	for _, s := range documents(t, Inputs{})["admin"].Statement {
		for _, a := range s.Action {
			if strings.HasPrefix(a, "ssm") && !strings.HasSuffix(a, "Parameter") || a == "ecs:ExecuteCommand" || a == "ecs:RunTask" {
				t.Errorf("an admin may call %s", a)
			}
			if a == "ecs:StopTask" && s.Condition["StringLike"]["aws:ResourceTag/bastion:owner"] != "*" {
				t.Errorf("an admin may stop anything in the cluster: %+v", s)
			}
		}
	}
}

// With a boundary, whoever deploys makes no role without it.
func TestBoundaryBinds(t *testing.T) {
	const boundary = "arn:aws:iam::000000000000:policy/boundary"
	seen := 0
	for _, s := range documents(t, Inputs{Boundary: boundary})["roles"].Statement {
		for _, a := range s.Action {
			if a == "iam:CreateRole" || a == "iam:PutRolePolicy" {
				if seen++; s.Condition["ArnEquals"]["iam:PermissionsBoundary"] != boundary {
					t.Errorf("%s without the boundary: %+v", a, s)
				}
			}
			if a == "iam:DeleteRolePermissionsBoundary" {
				t.Error("the boundary can be removed")
			}
		}
	}
	if seen != 2 {
		t.Errorf("%d statements make roles", seen)
	}
}
