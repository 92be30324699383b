package awssdk

import (
	"os"
	"slices"

	"github.com/bastion-ssm/bastion/internal/pattern"
)

// ProfileFiles are the files of the AWS configuration.
func ProfileFiles() []string {
	e := NewEnv(nil)
	return []string{e.configFile(), e.credentialsFile()}
}

// profileLine is the beginning of a profile in the AWS configuration. Its name may have quotes.
var profileLine = pattern.Lazy(`(?m)^\[[ \t]*(?:profile[ \t]+)?"?([^]" \t]+)"?[ \t]*\]`)

// Profiles returns the profiles of the AWS configuration.
func Profiles() []string {
	var names []string
	for _, path := range ProfileFiles() {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, m := range profileLine().FindAllStringSubmatch(string(data), -1) {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
