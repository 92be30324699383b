package survey

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// internet is where tasks reach AWS without VPC endpoints.
var internet = account.Egress{Port: httpsPort, CIDR: "0.0.0.0/0"}

const httpsPort = 443 // of AWS's services

// Chosen describes the rules that the operator has given (--egress). There are no others then, whatever the lists of classes name.
const Chosen = "chosen for the tasks"

// ofVPC stands in --egress for the ranges of the VPC.
const ofVPC = "vpc"

// LetOut adds what --egress says: rules for the port of a CIDR or address, of a security group, or of the VPC.
func (a *Answers) LetOut(list string) error {
	for text := range strings.SplitSeq(list, ",") {
		colon := strings.LastIndexByte(text, ':')
		to := text[:max(colon, 0)]
		port, err := strconv.Atoi(text[colon+1:])
		rule := account.Egress{Port: port, Description: Chosen}
		prefix, isPrefix := asPrefix(to)
		switch {
		case err != nil:
			isPrefix = false
		case strings.HasPrefix(to, "sg-"):
			rule.Group, isPrefix = to, true
		case to == ofVPC:
			isPrefix = true
		case isPrefix && strings.Contains(to, "/") && prefix.String() != to:
			return fail.Usagef("write "+prefix.String()+":"+strconv.Itoa(port), "--%s %q: want a CIDR without host bits", FlagEgress, text)
		default:
			rule.CIDR = prefix.String()
		}
		if !isPrefix {
			return fail.Usagef("write CIDR:PORT, sg-...:PORT or "+ofVPC+":PORT, and commas between several",
				"--%s %q is no rule", FlagEgress, text)
		}
		a.Inputs.Egress = append(a.Inputs.Egress, rule)
	}
	return nil
}

// Chose reports whether rules are the operator's.
func Chose(rules []account.Egress) bool {
	return slices.ContainsFunc(rules, func(r account.Egress) bool { return r.Description == Chosen })
}

// Unopened returns notes on the destinations of the classes at whose ports none of the operator's rules lets a task out.
func Unopened(in account.Inputs) (notes []string) {
	rules := slices.Clone(in.Egress)
	if slices.Contains(toAWS(in.Endpoints), internet.CIDR+":443") {
		rules = append(rules, internet)
	}
	var closed []string
	for _, class := range in.Classes {
		for _, destination := range class.Allow {
			listed := []account.Class{{Allow: []string{destination}}}
			if !slices.ContainsFunc(rules, func(r account.Egress) bool { return ListsPort(listed, r.Port) }) && !slices.Contains(closed, destination) {
				closed = append(closed, destination)
			}
		}
	}
	if len(closed) > 0 {
		notes = append(notes, "no rule of --"+FlagEgress+" has the port of: "+some(closed, ", "))
	}
	return notes
}

// toAWS are, for a reader, the destinations of the rules by which the model leads tasks to AWS.
func toAWS(e account.Endpoints) (texts []string) {
	if e.Make && !slices.Equal(e.Services, []string{"s3"}) {
		texts = append(texts, "the stack's endpoints:443")
	}
	for _, group := range e.Groups {
		texts = append(texts, group+":443")
	}
	if len(texts) == 0 {
		texts = append(texts, internet.CIDR+":443")
	}
	if e.PrefixList != "" {
		texts = append(texts, e.PrefixList+":443")
	}
	return texts
}

// Open returns rules for the destinations of the operator's own lists that a security group's rules do not cover, and notes on those that
// stay closed. A name leads to the VPC's ranges, at its port: what else it leads to cannot be known. known are destinations that the rules
// cover already by security groups, as the lists of classes have them. Where the VPC's range is not known, it is a parameter of the stack.
func Open(in account.Inputs, known []string) (more []account.Egress, notes []string) {
	o := opener{rules: slices.Clone(in.Egress), vpc: append([]string{in.VPCCIDR}, in.MoreCIDRs...), had: len(in.Egress)}
	if slices.Contains(toAWS(in.Endpoints), internet.CIDR+":443") {
		o.rules, o.had = append(o.rules, internet), o.had+1
	}
	for _, class := range in.Classes {
		for _, destination := range class.Allow {
			if !slices.Contains(known, destination) {
				o.open(destination)
			}
		}
	}
	for _, closed := range []struct {
		what         string
		destinations []string
	}{
		{"opens no range of ports and stays closed to", o.ranges},
		{"opens no IPv6 address and stays closed to", o.six},
		{"opens the ports of these destinations in " + cmp.Or(strings.Join(o.vpc, ", "), "the VPC") + " only", o.names},
		{fmt.Sprintf("takes at most %d rules and stays closed to", maxRules), o.full},
	} {
		if len(closed.destinations) > 0 {
			notes = append(notes, "the tasks' security group "+closed.what+": "+some(closed.destinations, ", ")+
				" (a security group of your own opens more: --security-groups)")
		}
	}
	return o.rules[o.had:], notes
}

// Listed describes rules for what the lists of classes name besides databases.
const Listed = "destinations on the list"

// ListsPort reports whether a list of the classes has a destination at a port.
func ListsPort(classes []account.Class, port int) bool {
	for _, class := range classes {
		for _, destination := range class.Allow {
			ports := destination[strings.LastIndexByte(destination, ':')+1:]
			first, last, isRange := strings.Cut(ports, "-")
			if !isRange {
				last = first
			}
			from, errFrom := strconv.Atoi(first)
			to, errTo := strconv.Atoi(last)
			if ports == "*" || errFrom == nil && errTo == nil && from <= port && port <= to {
				return true
			}
		}
	}
	return false
}

// opener adds rules for destinations.
type opener struct {
	rules []account.Egress
	had   int      // rules at the beginning
	vpc   []string // its ranges; "": the one that a parameter gives

	ranges, six, names, full []string // destinations that are closed, or closed outside the VPC
}

func (o *opener) open(destination string) {
	colon := strings.LastIndexByte(destination, ':')
	host := destination[:max(colon, 0)]
	port, err := strconv.Atoi(destination[colon+1:])
	switch {
	case err != nil:
		o.add(&o.ranges, destination)
	case strings.HasPrefix(host, "["):
		o.add(&o.six, destination)
	default:
		prefix, ok := asPrefix(host)
		if ok {
			o.cover(prefix.String(), port, destination)
			return
		}
		for _, cidr := range o.vpc {
			o.cover(cidr, port, destination)
		}
		if !o.covered(netip.PrefixFrom(netip.IPv4Unspecified(), 0), port) {
			o.add(&o.names, destination)
		}
	}
}

// add adds a destination to a list of those that are closed.
func (o *opener) add(to *[]string, destination string) {
	if !slices.Contains(*to, destination) {
		*to = append(*to, destination)
	}
}

// asPrefix reads a destination's address or CIDR.
func asPrefix(host string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	prefix, err := netip.ParsePrefix(host)
	return prefix.Masked(), err == nil
}

// covered reports whether a rule opens a port of all addresses of a prefix.
func (o *opener) covered(prefix netip.Prefix, port int) bool {
	return slices.ContainsFunc(o.rules, func(r account.Egress) bool {
		cidr, err := netip.ParsePrefix(r.CIDR)
		return err == nil && r.Port == port && cidr.Bits() <= prefix.Bits() && cidr.Contains(prefix.Addr())
	})
}

// inVPC reports whether a rule opens a port of the range that a parameter gives, or of all addresses.
func (o *opener) inVPC(port int) bool {
	return o.covered(netip.PrefixFrom(netip.IPv4Unspecified(), 0), port) ||
		slices.Contains(o.rules, account.Egress{Port: port, Description: Listed})
}

// cover adds a rule for a port of a range, unless there is one or there are too many.
func (o *opener) cover(cidr string, port int, destination string) {
	prefix, err := netip.ParsePrefix(cidr)
	switch {
	case cidr == "" && o.inVPC(port), cidr != "" && (err != nil || o.covered(prefix, port)):
	case len(o.rules) >= maxRules:
		o.add(&o.full, destination)
	default:
		o.rules = append(o.rules, account.Egress{Port: port, CIDR: cidr, Description: Listed})
	}
}
