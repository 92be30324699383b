package partition

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// mayName are the files outside this package that may write a DNS suffix of AWS, and why.
var mayName = map[string]string{
	"bastion-image/iam/ecs-tasks-trust.json": "service principals have this suffix in every partition",
	"bastion-image/iam/user.json":            "service principals have this suffix in every partition",
	"account/alarms.go":                      "service principals and an event source have this suffix in every partition",
	"account/classic_policies.go":            "service principals have this suffix in every partition",
	"bastion-image/classic.tf":               "service principals have this suffix in every partition",
	"account/billing/billing.go":             "the source of a price, in a comment",
	"account/terraform_kinds.go":             "the source of a list, in a comment",
	"bastion-image/classic-hours.json":       "service principals have this suffix in every partition",
	"bastion-image/classic.json":             "service principals have this suffix in every partition",
	"account/deployer.go":                    "a service principal, and a source in a comment",
	"account/handlers.go":                    "service principals have this suffix in every partition",
	"account/inputs.go":                      "the source of a table, in a comment",
	"account/network.go":                     "the source of a table, in a comment",
	"account/policies.go":                    "service principals have this suffix in every partition",
	"account/storage.go":                     "service principals have this suffix in every partition",
	"account/survey/subnets.go":              "the source of a table, in a comment",
	"bastion-image/template.json":            "service principals have this suffix in every partition",
	"internal/hosts/hosts.go":                "an example in a comment",
	"internal/awsanswer/table.go":            "service principals have this suffix in every partition",
	"lab/rds.go":                             "an XML namespace",
	"lab/sts.go":                             "an XML namespace",
	"internal/fargate/sizes.go":              "the source of the table, in a comment",
	"lab/ecs_run.go":                         "a service principal",
	"lab/balancers.go":                       "an XML namespace",
	"lab/ec2.go":                             "an XML namespace",
	"lab/iam.go":                             "an XML namespace",
	"lab/redshift.go":                        "an XML namespace",
	"lab/elasticache.go":                     "an XML namespace",
}

// Code and templates name neither the partition aws in an ARN nor its DNS suffix: both come from the table, or from a placeholder.
func TestNoLiterals(t *testing.T) {
	arn := regexp.MustCompile(`arn:aws(-[a-z-]+)?:`)
	suffix := regexp.MustCompile(`amazonaws\.(com|eu)|console\.aws|aws\.amazon\.com`)
	seen := make(map[string]bool)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(filepath.ToSlash(path), "../../")
		if d.IsDir() && (name == "build" || name == ".git" || name == "docs" || d.Name() == "testdata" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		template := strings.HasPrefix(name, "bastion-image/") && !strings.HasSuffix(name, "_test.go")
		code := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "internal/partition/")
		if !d.Type().IsRegular() || !template && !code && !strings.HasSuffix(name, ".sh") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if found := arn.Find(text); found != nil {
			t.Errorf("%s: %s", name, found)
		}
		if found := suffix.Find(text); found != nil {
			seen[name] = true
			if mayName[name] == "" {
				t.Errorf("%s: %s", name, found)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(mayName)) {
		if !seen[name] {
			t.Errorf("%s names no suffix any more: remove it from the list", name)
		}
	}
}
