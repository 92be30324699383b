package targets

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kafka"
	"github.com/aws/aws-sdk-go-v2/service/kafka/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// mskKind has MSK's clusters and their brokers.
func mskKind() Description {
	return Description{
		Kind: MSK, Prefix: "msk", Form: "NAME[/BROKER]", Noun: "MSK cluster", Help: "an MSK cluster, or a broker of it",
		Lists: "MSK clusters", Port: "9098 (IAM), else 9096 (SCRAM), 9094 (TLS), 9092; with a port, the brokers' address with that port",
		TLS: "except at port 9092", Guard: "the brokers'", SignIn: "by the Kafka client at port 9098, if the cluster has it",
		id: brokerID,
		parts: func(r *Resolver) []part {
			return []part{{of: "MSK clusters", actions: []string{"kafka:GetBootstrapBrokers", "kafka:ListClustersV2"}, find: r.kafkas}}
		},
	}
}

// brokerID accepts NAME and NAME/BROKER, where BROKER is a number, "b-" and a number, or a broker's first label.
func brokerID(text string) (string, error) {
	name, broker, has := strings.Cut(text, "/")
	name, err := checkNamed(name, "-", 64)
	if err != nil || !has {
		return name, err
	}
	if broker, err = checkNamed(strings.ToLower(broker), "-", 63); err != nil {
		return "", err
	}
	if isDigits(broker) {
		broker = "b-" + broker
	}
	return name + "/" + broker, nil
}

const kafkaNote = "Kafka: the brokers send clients on to each other by their names; with --hosts bastion forwards each of them"

// kafkas returns the cluster, or the broker of one, with the given name, none if it does not exist, or all clusters if id is nil.
func (r *Resolver) kafkas(ctx context.Context, spec Spec, op string, id *string) ([]candidate, error) {
	name, broker, _ := strings.Cut(aws.ToString(id), "/")
	clusters, err := r.listKafkas(ctx, op, name)
	if err != nil {
		return nil, err
	}
	found := make([]candidate, len(clusters))
	err = each(len(clusters), func(i int) error {
		c := &clusters[i]
		found[i] = candidate{id: aws.ToString(c.ClusterName), what: "MSK cluster", status: string(c.State), engine: "kafka", tags: c.Tags}
		found[i].groups, found[i].signIn = kafkaDoor(c, spec.Port)
		if found[i].usability() == down || strings.EqualFold(found[i].status, "creating") {
			return nil // it has no brokers
		}
		brokers, err := r.brokers(ctx, op, c.ClusterArn, spec.Port)
		if err != nil && id == nil && passable(ctx, err) {
			return nil // listed without an address
		}
		if err == nil && len(brokers) > 0 {
			found[i].endpoint, err = chooseBroker(brokers, broker, found[i].id)
		}
		if broker != "" {
			found[i].id += "/" + broker
		}
		return err
	})
	return found, err
}

// kafkaDoor returns the security groups of a cluster, and what IAM has to do with a sign-in at the user's port, which may be 0.
func kafkaDoor(c *types.Cluster, port int) (groups []string, in SignIn) {
	on := false
	switch {
	case c.Serverless != nil:
		for _, v := range c.Serverless.VpcConfigs {
			groups = append(groups, v.SecurityGroupIds...)
		}
		on = true // serverless clusters have no other way in
	case c.Provisioned != nil:
		if b := c.Provisioned.BrokerNodeGroupInfo; b != nil {
			groups = b.SecurityGroups
		}
		a := c.Provisioned.ClientAuthentication
		on = a != nil && a.Sasl != nil && a.Sasl.Iam != nil && aws.ToBool(a.Sasl.Iam.Enabled)
	}
	const iamPort = 9098
	switch {
	case on:
		in.Means = "IAM authentication is on, at port 9098"
	case port == iamPort:
		in = SignIn{
			Means: "IAM authentication is off: the brokers do not listen at port 9098",
			Enable: "aws kafka update-security --client-authentication 'Sasl={Iam={Enabled=true}}' --cluster-arn " +
				aws.ToString(c.ClusterArn) + " --current-version " + aws.ToString(c.CurrentVersion),
		}
	default:
		in.Means = "IAM authentication is off: clients sign in by SCRAM, by a certificate, or not at all"
	}
	return groups, in
}

// listKafkas returns the clusters with the name, or all if it is "".
func (r *Resolver) listKafkas(ctx context.Context, op, name string) ([]types.Cluster, error) {
	in := &kafka.ListClustersV2Input{}
	if name != "" {
		in.ClusterNameFilter = &name // a prefix
	}
	var found []types.Cluster
	err := pages(ctx, r.AWS.kafka().clusters, in,
		func(in *kafka.ListClustersV2Input) **string { return &in.NextToken },
		func(out *kafka.ListClustersV2Output) *string { return out.NextToken },
		func(out *kafka.ListClustersV2Output) {
			for _, c := range out.ClusterInfoList {
				if name == "" || aws.ToString(c.ClusterName) == name {
					found = append(found, c)
				}
			}
		})
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "kafka:ListClustersV2", err)
	}
	return found, nil
}

// chooseBroker returns the broker with the label, or the first.
func chooseBroker(brokers []Endpoint, label, cluster string) (Endpoint, error) {
	i := 0
	if label != "" {
		i = slices.IndexFunc(brokers, func(e Endpoint) bool { return brokerLabel(e) == label })
	}
	if i >= 0 {
		return brokers[i], nil
	}
	var labels []string
	for _, b := range brokers {
		labels = append(labels, "msk:"+cluster+"/"+brokerLabel(b))
	}
	return Endpoint{}, fail.New(fail.NoTarget, "target msk:"+cluster+"/"+label,
		fmt.Errorf("the MSK cluster %s has no broker %s", cluster, label),
		"there are: "+strings.Join(labels, ", "))
}

// brokerLabel returns a broker's first label: "b-1".
func brokerLabel(e Endpoint) string {
	label, _, _ := strings.Cut(e.Host, ".")
	return label
}

// brokers returns the brokers' addresses with the port, else those of the kind of sign-in that needs least set-up.
func (r *Resolver) brokers(ctx context.Context, op string, arn *string, port int) ([]Endpoint, error) {
	out, err := r.AWS.kafka().brokers(ctx, &kafka.GetBootstrapBrokersInput{ClusterArn: arn})
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "kafka:GetBootstrapBrokers", err)
	}
	var first []Endpoint
	for i, list := range []*string{
		out.BootstrapBrokerStringSaslIam, out.BootstrapBrokerStringSaslScram, out.BootstrapBrokerStringTls, out.BootstrapBrokerString,
	} {
		const plain = 3
		some := parseBrokers(aws.ToString(list), i != plain)
		if len(some) > 0 && some[0].Port == port {
			return some, nil
		}
		if first == nil {
			first = some
		}
	}
	return first, nil
}

// parseBrokers reads "HOST:PORT,HOST:PORT" and sorts it by name.
func parseBrokers(list string, tls bool) []Endpoint {
	var out []Endpoint
	for text := range strings.SplitSeq(list, ",") {
		host, digits, err := net.SplitHostPort(strings.TrimSpace(text))
		port, err2 := strconv.Atoi(digits)
		if err == nil && err2 == nil {
			out = append(out, Endpoint{Host: host, Port: port, TLS: tls, Note: kafkaNote})
		}
	}
	slices.SortFunc(out, func(x, y Endpoint) int { return strings.Compare(x.Host, y.Host) })
	return out
}

// Brokers returns the specs of a cluster's brokers, each a Host; for any other Spec, the Spec. Clients of Kafka need all of them by
// their names.
func (r *Resolver) Brokers(ctx context.Context, spec Spec) ([]Spec, error) {
	if spec.Kind == Name {
		if named, ok := r.Names[spec.ID]; ok {
			inner, err := Parse(named.Target)
			if err != nil || inner.Kind != MSK {
				return []Spec{spec}, nil //nolint:nilerr // Resolve says what is wrong
			}
			if spec.Port != 0 {
				inner.Port = spec.Port
			}
			spec = inner
		}
	}
	if spec.Kind != MSK || strings.Contains(spec.ID, "/") || r.AWS == nil {
		return []Spec{spec}, nil
	}
	op := "look up the brokers of " + spec.String()
	endpoint, err := r.Resolve(ctx, spec) // it says what is wrong with the cluster
	if err != nil {
		return nil, err
	}
	name := strings.TrimPrefix(endpoint.Name, "msk:")
	clusters, err := r.listKafkas(ctx, op, name)
	switch {
	case err != nil:
		return nil, err
	case len(clusters) == 0: // it has been there a moment ago
		return nil, fail.New(fail.NoTarget, op, fmt.Errorf("the MSK cluster %s is gone", name), "name another one; bastion ls targets shows them")
	}
	brokers, err := r.brokers(ctx, op, clusters[0].ClusterArn, spec.Port)
	specs := make([]Spec, len(brokers))
	for i, b := range brokers {
		specs[i] = Spec{Kind: Host, Host: b.Host, Port: b.Port}
	}
	return specs, err
}
