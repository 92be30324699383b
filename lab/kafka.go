package lab

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// Kafka is a provisioned cluster of MSK.
type Kafka struct {
	Name    string
	State   string   // default: ACTIVE
	TLS     bool     // clients use TLS, else plain text
	IAM     bool     // clients may sign in by IAM
	Groups  []string // ids of the brokers' security groups; default: the lab's of databases
	Tags    map[string]string
	Brokers []netip.AddrPort // where they really listen
}

// kafka is Managed Streaming for Apache Kafka.
type kafka struct {
	site
	shelf[Kafka]
}

// AddKafka adds a cluster of MSK.
func (l *Lab) AddKafka(k Kafka) error {
	k.State = cmp.Or(k.State, "ACTIVE")
	for i, addr := range k.Brokers {
		if err := l.publish(addr, l.kafka.broker(k.Name, i)); err != nil {
			return fmt.Errorf("add MSK cluster %s: %w", k.Name, err)
		}
	}
	l.kafka.add(k)
	return nil
}

// broker returns the name of a broker, by its index.
func (k *kafka) broker(cluster string, i int) string {
	return fmt.Sprintf("b-%d.%s.%s.c2.kafka.%s.%s", i+1, cluster, labZone, k.region, k.partition().DNSSuffix)
}

func (k *kafka) clusterARN(name string) string {
	return k.arn("kafka", "cluster/"+name+"/"+seededUUID(name)+"-2")
}

func (k *kafka) service() awsapi.Service {
	return awsapi.Service{
		Name: "kafka", Protocol: awsapi.RESTJSON, Version: "2018-11-14",
		Ops: map[string]awsapi.Op{
			"ListClustersV2":      {Handle: k.listClusters, Route: "GET /api/v2/clusters"},
			"GetBootstrapBrokers": {Handle: k.getBrokers, Route: "GET /v1/clusters/{ClusterArn}/bootstrap-brokers"},
		},
	}
}

func (k *kafka) listClusters(_ context.Context, c *awsapi.Call) (any, error) {
	begin := c.Form.Get("clusterNameFilter")
	found := k.those(func(cluster Kafka) bool { return strings.HasPrefix(cluster.Name, begin) })
	some, next, err := page(found, c.Form.Get("nextToken"), 100)
	list := []map[string]any{}
	for _, cluster := range some {
		list = append(list, map[string]any{
			"clusterArn": k.clusterARN(cluster.Name), "clusterName": cluster.Name, "clusterType": "PROVISIONED", "state": cluster.State,
			"tags": cluster.Tags, "currentVersion": "K0LAB",
			"provisioned": map[string]any{
				"numberOfBrokerNodes": len(cluster.Brokers),
				"brokerNodeGroupInfo": map[string]any{
					"instanceType": "kafka.t3.small", "clientSubnets": []string{vpcSubnet + "a"}, "securityGroups": guardedBy(cluster.Groups),
				},
				"clientAuthentication": map[string]any{"sasl": map[string]any{"iam": map[string]any{"enabled": cluster.IAM}}},
			},
		})
	}
	return withToken(map[string]any{"clusterInfoList": list}, "nextToken", next), err
}

func (k *kafka) getBrokers(_ context.Context, c *awsapi.Call) (any, error) {
	arn := c.Form.Get("ClusterArn")
	found := k.those(func(cluster Kafka) bool { return k.clusterARN(cluster.Name) == arn })
	if len(found) == 0 {
		return nil, &awsapi.Error{Code: "NotFoundException", Message: "The cluster does not exist.", Status: 404}
	}
	var list []string
	for i, addr := range found[0].Brokers {
		list = append(list, fmt.Sprintf("%s:%d", k.broker(found[0].Name, i), addr.Port()))
	}
	key := "bootstrapBrokerString"
	switch {
	case found[0].IAM:
		key = "bootstrapBrokerStringSaslIam"
	case found[0].TLS:
		key = "bootstrapBrokerStringTls"
	}
	return map[string]any{key: strings.Join(list, ",")}, nil
}
