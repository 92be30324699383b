package partition

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	smithy "github.com/aws/smithy-go/endpoints"
)

// sdkPartition is a partition in the SDK's data, which no package of the SDK exports.
type sdkPartition struct {
	ID      string
	Outputs struct{ DNSSuffix string }
	Regions map[string]any
}

func sdkPartitions(t *testing.T) []sdkPartition {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "internal", "endpoints", "awsrulesfn", "partitions.json"))
	if err != nil {
		t.Fatal(err)
	}
	var data struct{ Partitions []sdkPartition }
	if err := json.Unmarshal(text, &data); err != nil {
		t.Fatal(err)
	}
	return data.Partitions
}

// The table agrees with the SDK's data and with the endpoints that each of the product's clients resolves, region by region.
func TestTableIsTheSDKs(t *testing.T) {
	ctx := t.Context()
	resolve := map[string]func(region *string) (smithy.Endpoint, error){
		"ec2": func(r *string) (smithy.Endpoint, error) {
			return ec2.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, ec2.EndpointParameters{Region: r})
		},
		"ec2-instance-connect": func(r *string) (smithy.Endpoint, error) {
			return ec2instanceconnect.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, ec2instanceconnect.EndpointParameters{Region: r})
		},
		"ecs": func(r *string) (smithy.Endpoint, error) {
			return ecs.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, ecs.EndpointParameters{Region: r})
		},
		"elasticache": func(r *string) (smithy.Endpoint, error) {
			return elasticache.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, elasticache.EndpointParameters{Region: r})
		},
		"kms": func(r *string) (smithy.Endpoint, error) {
			return kms.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, kms.EndpointParameters{Region: r})
		},
		"rds": func(r *string) (smithy.Endpoint, error) {
			return rds.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, rds.EndpointParameters{Region: r})
		},
		"ssm": func(r *string) (smithy.Endpoint, error) {
			return ssm.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, ssm.EndpointParameters{Region: r})
		},
		"sts": func(r *string) (smithy.Endpoint, error) {
			return sts.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, sts.EndpointParameters{Region: r})
		},
	}
	all := sdkPartitions(t)
	if len(all) != len(partitions) {
		t.Errorf("the SDK has %d partitions, the table %d", len(all), len(partitions))
	}
	for _, want := range all {
		for region := range want.Regions {
			if strings.HasSuffix(region, "-global") {
				continue // a pseudo-region of services without regions
			}
			got := Of(region)
			if got.ID != want.ID || got.DNSSuffix != want.Outputs.DNSSuffix {
				t.Errorf("%s: %s with %s, the SDK has %s with %s", region, got.ID, got.DNSSuffix, want.ID, want.Outputs.DNSSuffix)
			}
			for service, f := range resolve {
				endpoint, err := f(aws.String(region))
				if err != nil {
					t.Errorf("%s in %s: %v", service, region, err)
					continue
				}
				if host := endpoint.URI.Hostname(); host != got.Endpoint(service, region) {
					t.Errorf("%s in %s: %s, the SDK resolves %s", service, region, got.Endpoint(service, region), host)
				}
			}
			name := got.RDSName("orders.abc", region)
			if r, ok := RDSRegion(name); !ok || r != region {
				t.Errorf("%s: region %q, %v", name, r, ok)
			}
		}
	}
}

func TestRDSRegion(t *testing.T) {
	for host, want := range map[string]string{
		"orders.abc123.eu-central-1.rds.amazonaws.com":               "eu-central-1",
		"orders.abc123.eu-central-1.rds.amazonaws.com.":              "eu-central-1",
		"Orders.ABC123.EU-Central-1.RDS.amazonaws.com":               "eu-central-1",
		"crm.cluster-abc123.us-east-2.rds.amazonaws.com":             "us-east-2",
		"crm.cluster-ro-abc123.ap-southeast-7.rds.amazonaws.com":     "ap-southeast-7",
		"reports.cluster-custom-abc123.me-south-1.rds.amazonaws.com": "me-south-1",
		"pool.proxy-abc123.il-central-1.rds.amazonaws.com":           "il-central-1",
		"ro.endpoint.proxy-abc123.mx-central-1.rds.amazonaws.com":    "mx-central-1",
		"shard.shardgrp-abc123.us-east-1.rds.amazonaws.com":          "us-east-1",
		"orders.abc.xy-northeast-9.rds.amazonaws.com":                "xy-northeast-9", // a region of the future

		"orders.abc.rds.cn-north-1.amazonaws.com.cn":             "cn-north-1",
		"orders.abc.rds.cn-northwest-1.amazonaws.com.cn.":        "cn-northwest-1",
		"crm.cluster-abc.rds.cn-northwest-1.amazonaws.com.cn":    "cn-northwest-1",
		"crm.cluster-custom-abc.rds.cn-north-1.amazonaws.com.cn": "cn-north-1",
		"pool.proxy-abc.rds.cn-north-1.amazonaws.com.cn":         "cn-north-1",
		"crm.cluster-ro-abc.cn-north-1.rds.amazonaws.com.cn":     "cn-north-1",
		"orders.abc.us-gov-west-1.rds.amazonaws.com":             "us-gov-west-1",
		"orders.abc.rds.us-gov-east-1.amazonaws.com":             "us-gov-east-1",
		"orders.abc.eusc-de-east-1.rds.amazonaws.eu":             "eusc-de-east-1",
		"crm.cluster-abc.eusc-de-east-1.rds.amazonaws.eu":        "eusc-de-east-1",
		"orders.abc.rds.us-iso-east-1.c2s.ic.gov":                "us-iso-east-1",
		"orders.abc.us-iso-west-1.rds.c2s.ic.gov":                "us-iso-west-1",
		"crm.cluster-abc.rds.us-isob-east-1.sc2s.sgov.gov":       "us-isob-east-1",
		"orders.abc.rds.eu-isoe-west-1.cloud.adc-e.uk":           "eu-isoe-west-1",
		"orders.abc.rds.us-isof-south-1.csp.hci.ic.gov":          "us-isof-south-1",
		"world.global-abc123.global.rds.amazonaws.com":           GlobalRegion,
		"world.global-abc123.global.rds.amazonaws.com.cn":        GlobalRegion,
		"world.abc123.global.rds.amazonaws.com":                  "",
		"global.rds.amazonaws.com":                               "",
		"orders.abc.cn-north-1.rds.amazonaws.com":                "", // a region of another partition
		"orders.abc.eu-central-1.rds.amazonaws.com.cn":           "",
		"orders.abc.eu-central-1.rds.amazonaws.eu":               "",
		"orders.abc.us-gov-west-1.rds.amazonaws.com.cn":          "",
		"rds.eu-central-1.amazonaws.com":                         "", // the API
		"rds.cn-north-1.amazonaws.com.cn":                        "",
		"eu-central-1.rds.amazonaws.com":                         "",
		"orders.abc.eu-central-1.rds.amazonaws.com.example.org":  "",
		"orders.abc.eu-central-1.rds.evilamazonaws.com":          "",
		"orders.abc.eu-central-1.rds.amazonaws.org":              "",
		"orders.abc.eu-central-1.redshift.amazonaws.com":         "",
		"vpce-1.rds.eu-central-1.vpce.amazonaws.com":             "",
		"master.sessions.abc.euc1.cache.amazonaws.com":           "",
		"a..eu-central-1.rds.amazonaws.com":                      "",
		"a b.abc.eu-central-1.rds.amazonaws.com":                 "",
		"orders.abc.rds.rds.amazonaws.com":                       "",
		"10.0.0.1":                                               "",
		"db.internal":                                            "",
		"":                                                       "",
	} {
		if got, ok := RDSRegion(host); ok != (want != "") || ok && got != want {
			t.Errorf("%q: region %q, %v; want %q", host, got, ok, want)
		}
	}
}

func TestNames(t *testing.T) {
	for region, want := range map[string][2]string{
		"eu-central-1":   {"ssmmessages.eu-central-1.amazonaws.com", "db.abc.eu-central-1.rds.amazonaws.com"},
		"cn-north-1":     {"ssmmessages.cn-north-1.amazonaws.com.cn", "db.abc.rds.cn-north-1.amazonaws.com.cn"},
		"eusc-de-east-1": {"ssmmessages.eusc-de-east-1.amazonaws.eu", "db.abc.eusc-de-east-1.rds.amazonaws.eu"},
	} {
		p := Of(region)
		if got := [2]string{p.Endpoint("ssmmessages", region), p.RDSName("db.abc", region)}; got != want {
			t.Errorf("%s: %q", region, got)
		}
	}
}

// The VPC endpoint services that the task needs, as AWS lists them. Outside the partitions aws and aws-us-gov, those of ECR have
// another prefix than the others.
func TestEndpointService(t *testing.T) {
	for region, registry := range map[string]string{
		"eu-central-1":    "com.amazonaws",
		"us-gov-west-1":   "com.amazonaws",
		"cn-north-1":      "cn.com.amazonaws",
		"cn-northwest-1":  "cn.com.amazonaws",
		"eusc-de-east-1":  "eu.amazonaws",
		"us-iso-east-1":   "gov.ic.c2s",
		"us-isob-west-1":  "gov.sgov.sc2s",
		"eu-isoe-west-1":  "uk.adc-e.cloud",
		"us-isof-south-1": "gov.ic.hci.csp",
	} {
		for service, prefix := range map[string]string{
			"ecr.api": registry, "ecr.dkr": registry, "ssmmessages": "com.amazonaws", "s3": "com.amazonaws", "logs": "com.amazonaws",
			"kms": "com.amazonaws", "ecs": "com.amazonaws", "ecs-agent": "com.amazonaws", "ecs-telemetry": "com.amazonaws",
		} {
			if got, want := Of(region).EndpointService(service, region), prefix+"."+region+"."+service; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	}
}
