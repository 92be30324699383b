package image

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/partition"
	"github.com/bastion-ssm/bastion/server"
)

// The guide's first step, with a stand-in for the AWS CLI, fills in every template for each partition, and its allow-list permits the
// databases that RDS and ElastiCache name there.
func TestGuideInEveryPartition(t *testing.T) {
	guide, err := os.ReadFile("../docs/by-hand.md")
	if err != nil {
		t.Fatal(err)
	}
	step := regexp.MustCompile("(?s)## 1\\. .*?```sh\n(.*?)```").FindSubmatch(guide)
	if step == nil {
		t.Fatal("the guide has no first step")
	}
	templates, err := filepath.Glob("iam/*.json")
	if err != nil {
		t.Fatal(err)
	}
	templates = append(templates, "task-definition.json", "security-group-egress.json")
	for _, region := range []string{
		"eu-central-1", "cn-north-1", "cn-northwest-1", "us-gov-west-1", "eusc-de-east-1", "us-iso-east-1", "us-isob-east-1",
		"eu-isoe-west-1", "us-isof-south-1",
	} {
		t.Run(region, func(t *testing.T) {
			p := partition.Of(region)
			registry := p.Endpoint("000000000000.dkr.ecr", region)
			script := `ENDPOINTS_SG=sg-1 S3_PREFIX_LIST=pl-1 # of a later step
			aws() {
				case "$*" in
				*Account*) echo 000000000000 ;;
				*Arn*) echo "arn:` + p.ID + `:sts::000000000000:assumed-role/admin/ada" ;;
				*create-repository*) echo "` + registry + `/bastion" ;;
				*describe-vpcs*) echo 10.0.0.0/16 ;;
				*) echo "unknown call: aws $*" >&2; exit 1 ;;
				esac
			}
			` + strings.Replace(string(step[1]), "AWS_REGION=eu-central-1", "AWS_REGION="+region, 1) + `
			printf '%s\n' "$ALLOW_LIST" "${REPOSITORY_URI%%/*}"
			for template; do fill "$template"; done`
			cmd := exec.CommandContext(t.Context(), "bash", append([]string{"-euc", script, "guide"}, templates...)...)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			list, rest, _ := strings.Cut(string(out), "\n")
			host, filled, _ := strings.Cut(rest, "\n")
			if host != registry {
				t.Errorf("the registry is %s, not %s", host, registry)
			}
			if left := regexp.MustCompile(`PARTITION|REGION|ACCOUNT_ID|VPC_CIDR|REPOSITORY_URI|ALLOW_LIST|ENDPOINTS_SG|S3_PREFIX_LIST`).FindString(filled); left != "" {
				t.Errorf("%s is left", left)
			}
			for _, arn := range regexp.MustCompile(`arn:[^"]*`).FindAllString(filled, -1) {
				if !strings.HasPrefix(arn, "arn:"+p.ID+":") {
					t.Errorf("%s", arn)
				}
			}
			allow, err := server.ParseAllow(list)
			if err != nil {
				t.Fatal(err)
			}
			for name, port := range map[string]uint16{
				p.RDSName("orders.abc", region):                     5432,
				p.RDSName("crm.cluster-ro-abc", region):             5432,
				"master.sessions.abc.xxx1.cache." + p.DNSSuffix:     6379,
				"orders.abc." + region + ".rds." + p.DNSSuffix:      5432,
				"orders.abc." + p.Endpoint("rds", region):           5432,
				"sessions-abc.serverless.xxx1.cache." + p.DNSSuffix: 6379,
			} {
				if err := allow.Check(name, netip.MustParseAddr("10.0.0.1"), port); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// The guide's fourth step, with a stand-in for the AWS CLI, makes the VPC endpoints by the names that they have in each partition.
func TestGuideEndpoints(t *testing.T) {
	guide, err := os.ReadFile("../docs/by-hand.md")
	if err != nil {
		t.Fatal(err)
	}
	step := regexp.MustCompile("(?s)## 4\\. .*?```sh\n(.*?)```").FindSubmatch(guide)
	if step == nil {
		t.Fatal("the guide has no fourth step")
	}
	for _, region := range []string{"eu-central-1", "cn-north-1", "us-gov-west-1", "eusc-de-east-1", "us-iso-east-1"} {
		t.Run(region, func(t *testing.T) {
			p := partition.Of(region)
			var listed, made []string
			for _, service := range []string{"ssmmessages", "ecr.api", "ecr.dkr", "logs", "s3"} {
				name := p.EndpointService(service, region)
				listed = append(listed, name, "not."+region+"."+service+"-fips")
				made = append(made, name)
			}
			script := `AWS_REGION=` + region + ` VPC=vpc-1 VPC_CIDR=10.0.0.0/16 SUBNETS="subnet-1 subnet-2"
			fill() { :; }
			aws() {
				args=$*
				case $args in
				*describe-vpc-endpoint-services*)
					suffix=${args#*"ends_with(@, '"}; suffix=${suffix%%"'"*}
					for name in ` + strings.Join(listed, " ") + `; do
						case $name in *"$suffix") echo $name ;; esac
					done ;;
				*create-vpc-endpoint*) name=${args#*--service-name }; echo "${name%% *}" >&2 ;;
				*create-security-group*) echo sg-1 ;;
				*prefix-list-name,Values=com.amazonaws.` + region + `.s3) echo pl-1 ;;
				*describe-managed-prefix-lists*) echo "unknown prefix list: $args" >&2; exit 1 ;;
				esac
			}
			` + string(step[1])
			cmd := exec.CommandContext(t.Context(), "bash", "-euc", script)
			var names strings.Builder
			cmd.Stderr = &names
			if out, err := cmd.Output(); err != nil {
				t.Fatalf("%v: %s %s", err, out, &names)
			}
			if got := strings.Fields(names.String()); !slices.Equal(got, made) {
				t.Errorf("endpoints %q, want %q", got, made)
			}
		})
	}
}
