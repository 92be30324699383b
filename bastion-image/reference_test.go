package image

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/iamref"
)

// shipped returns all statements that are shipped, by where they stand: in iam/*.json and in the documentation.
func shipped(t *testing.T) map[string][]iamref.Statement {
	t.Helper()
	found := make(map[string][]iamref.Statement)
	type policy struct{ Statement []iamref.Statement }
	files, err := filepath.Glob("iam/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		var p struct {
			Version string
			policy
		}
		read(t, file, &p)
		found[file] = p.Statement
	}
	for _, file := range documents(t) {
		for i, block := range jsonBlocks(t, file) {
			var p policy
			var one iamref.Statement
			switch {
			case !strings.Contains(block, `"Effect"`):
				continue
			case json.Unmarshal([]byte(block), &p) == nil && len(p.Statement) > 0:
			case json.Unmarshal([]byte(block), &one) == nil && len(one.Action) > 0:
				p.Statement = []iamref.Statement{one}
			default:
				t.Errorf("%s: block %d looks like a policy and is none", file, i+1)
			}
			found[file] = append(found[file], p.Statement...)
		}
	}
	return found
}

// documents are the Markdown files of the repository.
func documents(t *testing.T) (files []string) {
	t.Helper()
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../docs/*/*.md", "*.md"} {
		some, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, some...)
	}
	if len(files) < 10 {
		t.Fatalf("only %d documents", len(files))
	}
	return files
}

var jsonBlock = regexp.MustCompile("(?s)```json\n(.*?)```")

func jsonBlocks(t *testing.T, file string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range jsonBlock.FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// TestReference: the actions, resource types and condition keys of each statement that is shipped exist for each other.
func TestReference(t *testing.T) {
	r := iamref.New(t)
	statements := 0
	for where, all := range shipped(t) {
		for _, s := range all {
			statements++
			for _, fault := range r.Check(s) {
				t.Errorf("%s: %s: %s", where, s.Sid, fault)
			}
		}
	}
	if r.Err() != nil || statements < 20 {
		t.Errorf("%d statements, %v", statements, r.Err())
	}
}

// TestActionNames: what documents and messages call actions of IAM are actions.
func TestActionNames(t *testing.T) {
	r := iamref.New(t)
	files := documents(t)
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && (e.Name() == "build" || e.Name() == ".git") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	mention := regexp.MustCompile("[`\" ]((?:ecs|ssm|ssmmessages|ec2|iam|kms|rds|rds-db|elasticache|sts|logs|ecr|cloudtrail):[A-Z][A-Za-z]+)\\b(:[a-z]+|\\*|[/:]\")?")
	keys := regexp.MustCompile("`((?:ecs|ssm|iam):[a-z][a-z-]+)`")
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mention.FindAllStringSubmatch(string(text), -1) {
			seen++
			name := m[1] + m[2]
			if begin, ok := strings.CutSuffix(name, `"`); ok { // of the keys for each tag, or for each part of an encryption context
				name = begin + "any"
			}
			if !r.Known(name) && !slices.Contains([]string{"ec2:NAME", "ecs:CLUSTER", "rds:ID"}, m[1]) { // targets
				t.Errorf("%s: there is no action or condition key %s", file, name)
			}
		}
		if !strings.HasSuffix(file, ".md") {
			continue
		}
		for _, m := range keys.FindAllStringSubmatch(string(text), -1) {
			if !r.Known(m[1]) {
				t.Errorf("%s: there is no condition key %s", file, m[1])
			}
		}
	}
	if seen < 50 {
		t.Errorf("%d actions in %d files", seen, len(files))
	}
}
