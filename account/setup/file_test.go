package setup

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/bastion-ssm/bastion/internal/config"
)

// The command line reads what File writes as it was meant.
func TestFile(t *testing.T) {
	for name, settings := range map[string]Settings{
		"least": {
			Account: "111122223333", Region: "eu-central-1", Cluster: "bastion", TaskDefinition: "bastion",
			Subnets: []string{"subnet-1"}, SecurityGroup: "sg-1",
		},
		"most": {
			Account: "111122223333", Region: "cn-north-1", Cluster: "data", TaskDefinition: "data-read",
			SharedService: "data-read", Subnets: []string{"subnet-1", "subnet-2"}, SecurityGroup: "sg-1", PublicAddress: true,
			Targets: map[string]string{"orders": "rds:orders", "no": "cache:no", "wiki": "wiki.internal:443"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := settings.File()
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), config.FileName)
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := config.Load(config.Source{File: path, LookupEnv: func(string) (string, bool) { return "", false }})
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			got := Settings{
				Account: settings.Account, Region: s.AWS.Region, Cluster: s.Bastion.Cluster, TaskDefinition: s.Bastion.TaskDefinition,
				SharedService: s.Bastion.SharedService,
				Subnets:       s.Bastion.Subnets, SecurityGroup: s.Bastion.SecurityGroups[0], PublicAddress: s.Bastion.AssignPublicIP,
			}
			for name, target := range s.Targets {
				if got.Targets == nil {
					got.Targets = make(map[string]string)
				}
				got.Targets[name] = target.Spec
			}
			if !reflect.DeepEqual(got, settings) {
				t.Errorf("read as %+v, written for %+v\n%s", got, settings, text)
			}
		})
	}
}
