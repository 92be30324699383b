package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/partition"
)

func (f *Facts) bundle() string {
	return cmp.Or(partition.Of(f.Credentials.Region).CABundle, "RDS's CA bundle of your partition")
}

func judgeProfile(f *Facts) Finding {
	if err := f.Credentials.ProfileErr; err != nil {
		return failed("unusable", "the AWS profile cannot be used", err)
	}
	if f.Login.Profile == "" {
		return fine("no AWS profile is chosen")
	}
	return fine("the AWS profile is %s", f.Login.Profile)
}

func judgeRegion(f *Facts) Finding {
	if err := f.Credentials.RegionErr; err != nil {
		return failed("missing", "bastion does not know which region to use", err)
	}
	return fine("the region is %s", f.Credentials.Region)
}

func judgeVariables(f *Facts) Finding {
	l := f.Login
	switch {
	case l.Missing != "":
		return wrong(fail.Credentials, "incomplete", l.Set+" is set without "+l.Missing, "set "+l.Missing+" too, or unset "+l.Set)
	case l.Hides != "":
		return warn("hides", fmt.Sprintf("%s is set and takes precedence over the profile %s of %s: calls do not use the profile", l.Set, l.Hides,
			l.HidesFrom),
			"unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN, or choose the profile with --profile "+l.Hides)
	}
	return fine("no AWS variable hides the profile")
}

func judgeLogin(f *Facts) Finding {
	if l := f.Login; l.Legacy {
		return warn("legacy", fmt.Sprintf("the profile %s has the old form of single sign-on (sso_start_url in the profile): its token cannot "+
			"be renewed and ends each day",
			l.Profile), fmt.Sprintf("in %s: add [sso-session SESSION] with sso_start_url, sso_region and sso_registration_scopes = "+
			"sso:account:access, and in [profile %s] "+
			"put sso_session = SESSION in place of sso_start_url and sso_region", l.File, l.Profile))
	}
	return fine("the profile does not use the old form of single sign-on")
}

// listed names endpoints: all of them in short.
func (f *Facts) listed(services []string) string {
	if n := len(services); n == len(f.Reaches) && n > 2 {
		return fmt.Sprintf("%s and the %d other endpoints", services[0], n-1)
	}
	return strings.Join(services, ", ")
}

// hosts are the endpoints' hosts and ports, each once.
func (f *Facts) hosts() []string {
	var out []string
	for _, r := range f.Reaches {
		if !slices.Contains(out, r.Host) {
			out = append(out, r.Host)
		}
	}
	return out
}

// at lists the endpoints at which a step failed, and returns the first one's error.
func (f *Facts) at(step func(Reached) error) (services []string, first error) {
	for _, r := range f.Reaches {
		if err := step(r); err != nil {
			services = append(services, r.Service+" ("+r.Host+")")
			first = cmp.Or(first, err)
		}
	}
	return services, first
}

func judgeProxy(f *Facts) Finding {
	services, err := f.at(func(r Reached) error { return r.ProxyErr })
	if err != nil {
		proxy := ""
		for _, r := range f.Reaches {
			if r.ProxyErr != nil {
				proxy = r.Proxy
				break
			}
		}
		next := "check HTTPS_PROXY and NO_PROXY; ask the proxy's administrators to let CONNECT through to " + strings.Join(f.hosts(), ", ")
		word := "refuses"
		if refused, ok := errors.AsType[*proxyRefusal](err); ok && refused.status == 407 {
			word, next = "password", "put the proxy's user and password into HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT"
		} else if !ok {
			word, next = "unreached", "check HTTPS_PROXY and NO_PROXY: the proxy cannot be reached"
		}
		return wrong(fail.Start, word, fmt.Sprintf("the proxy %s does not lead to %s: %s", proxy, f.listed(services), plain(err)), next)
	}
	for _, r := range f.Reaches {
		if r.Proxy != "" {
			return fine("the proxy %s leads to AWS", r.Proxy)
		}
	}
	return fine("no proxy is set for AWS's endpoints")
}

func judgeDNS(f *Facts) Finding {
	services, err := f.at(func(r Reached) error { return r.DNSErr })
	if err != nil {
		return wrong(fail.Start, "unknown", "AWS's names cannot be resolved: "+f.listed(services)+": "+plain(err),
			"check the region's spelling (--region), the VPN and DNS (nslookup the name)")
	}
	return fine("the names of %d endpoints resolve", len(f.Reaches))
}

func judgeTCP(f *Facts) Finding {
	services, err := f.at(func(r Reached) error { return r.TCPErr })
	if err != nil {
		return wrong(fail.Start, "closed", "no connection to "+f.listed(services)+": "+plain(err),
			"let this machine connect to these hosts at that port (firewall, VPN), or set HTTPS_PROXY to your company's proxy")
	}
	return fine("%d endpoints take connections", len(f.Reaches))
}

func judgeTLS(f *Facts) Finding {
	services, err := f.at(func(r Reached) error { return r.TLSErr })
	if err == nil {
		if !slices.ContainsFunc(f.Reaches, func(r Reached) bool { return r.Secure }) {
			return fine("the endpoints are reached without TLS, as their addresses say")
		}
		return fine("TLS works, with certificates that this machine trusts")
	}
	for _, r := range f.Reaches {
		if r.Issuer != "" {
			return wrong(fail.Start, "intercepted", fmt.Sprintf("a certificate of %q stands in place of AWS's at %s: a proxy or a firewall opens "+
				"the connection",
				r.Issuer, f.listed(services)), "set AWS_CA_BUNDLE to a file with your company's CA certificates, or have AWS's hosts left "+
				"out of the interception")
		}
	}
	return wrong(fail.Start, "failed", "no TLS to "+f.listed(services)+": "+plain(err), awsanswer.NextUnreached(err))
}

func judgeWebsocket(f *Facts) Finding {
	for _, r := range f.Reaches {
		if !r.Upgrade {
			continue
		}
		const next = "let websockets (HTTP Upgrade) through to it in the proxy or firewall; Session Manager works by no other way"
		switch {
		case r.UpgradeErr != nil:
			return wrong(fail.Start, "cut", "a websocket's request to "+r.Host+" gets no answer: "+plain(r.UpgradeErr), next)
		case r.Status/100 == 1, r.Status/100 == 4 && r.Status != 407:
			return fine("%s answers a websocket's request; only a session to a bastion shows that data passes", r.Host)
		}
		return wrong(fail.Start, "foreign", fmt.Sprintf("a websocket's request to %s is answered by HTTP %d, which is not the message "+
			"gateway's", r.Host, r.Status), next)
	}
	return hidden("unasked", "the message gateway was not asked", "")
}

// A clock that is this far off matters to others than bastion, which corrects its own calls; from noticeSkew on it is told.
const (
	noticeSkew = time.Minute
	mostSkew   = 5 * time.Minute // AWS's
)

func judgeClock(f *Facts) Finding {
	skew, known := f.Credentials.Skew, f.Credentials.SkewKnown
	for _, r := range f.Reaches {
		if !known && !r.Date.IsZero() {
			skew, known = r.Date.Sub(r.At), true
		}
	}
	switch {
	case !known:
		if cause, ok := f.cut(); ok {
			return cause
		}
		return hidden("unasked", "no answer of AWS has told the time", "")
	case skew.Abs() < noticeSkew:
		return fine("this machine's clock agrees with AWS's")
	}
	way := "behind"
	if skew < 0 {
		way = "ahead of"
	}
	off := fmt.Sprintf("this machine's clock is %s %s AWS's", skew.Abs().Round(time.Second), way)
	const set = "set this machine's clock (timedatectl set-ntp true; on macOS: sudo sntp -sS time.apple.com)"
	if skew.Abs() >= mostSkew {
		return wrong(fail.Credentials, "far", off+": AWS refuses signatures that are five minutes off", set)
	}
	return warn("off", off+"; bastion corrects its own calls, and AWS refuses those of others from five minutes on", set)
}

// unreached is the finding for an error that comes from the network, where a check of the network has the cause.
func (f *Facts) unreached(err error) (Finding, bool) {
	if class := awsanswer.Of(err).Class; err == nil || class != awsanswer.None && class != awsanswer.Foreign {
		return Finding{}, false
	}
	return f.cut()
}

// cut is the finding of what the network keeps away, where a check of the network has the cause.
func (f *Facts) cut() (Finding, bool) {
	for _, c := range []struct {
		id    string
		judge func(*Facts) Finding
	}{{idProxy, judgeProxy}, {idDNS, judgeDNS}, {idTCP, judgeTCP}, {idTLS, judgeTLS}, {idWebsocket, judgeWebsocket}} {
		if c.judge(f).Level == Error {
			return because(c.id), true
		}
	}
	return Finding{}, false
}

func judgeFound(f *Facts) Finding {
	err := f.Credentials.LoadErr
	if err == nil {
		return fine("AWS credentials were found")
	}
	if cause, ok := f.unreached(err); ok {
		return cause
	}
	word := "none"
	switch answer := awsanswer.Of(err); {
	case answer.Class == awsanswer.Expired || strings.Contains(strings.ToLower(err.Error()), "expired"):
		word = "expired"
	case answer.Class != awsanswer.None:
		word = "refused"
	case fail.KindOf(err) == fail.Timeout:
		word = "unanswered"
	case !strings.Contains(err.Error(), "none were found"):
		word = "unusable"
	}
	if p := f.Login.Process; word == "unanswered" && p != "" {
		return wrong(fail.Timeout, word, fmt.Sprintf("the credential_process of the profile %s has not answered for %s", f.Login.Profile,
			credentialsLimit), "run it by itself to see what it waits for: "+p)
	}
	out := failed(word, "AWS credentials cannot be loaded", err)
	if out.Fix == "" {
		out.Fix = "see what AWS's own program says: aws sts get-caller-identity"
	}
	return out
}

func judgeValid(f *Facts) Finding {
	err := f.Credentials.AskErr
	if err == nil {
		return fine("AWS accepts the credentials: %s", f.Credentials.ARN)
	}
	if byClock(err) {
		return because(idClock)
	}
	if cause, ok := f.unreached(err); ok {
		return cause
	}
	word := "refused"
	switch awsanswer.Of(err).Class {
	case awsanswer.Expired:
		word = "expired"
	case awsanswer.None:
		word = "unanswered"
	case awsanswer.Foreign:
		word = "foreign"
	case awsanswer.Denied:
		word = "denied"
	}
	return failed(word, "AWS does not accept the credentials", err)
}

func judgeAccount(f *Facts) Finding {
	c, l := f.Credentials, f.Login
	if l.Account != "" && l.Account != c.Account && l.Hides == "" {
		return wrong(fail.Credentials, "profile", fmt.Sprintf("the credentials are of account %s, and the profile %s is for account %s",
			c.Account, l.Profile, l.Account),
			"sign in to the profile's account, or choose another profile with --profile")
	}
	s := f.Settings.Bastion
	for _, named := range []struct{ key, value string }{{"cluster", s.Cluster}, {"task_definition", s.TaskDefinition}} {
		at, err := arn.Parse(named.value)
		switch {
		case err != nil:
		case at.AccountID != c.Account:
			return wrong(fail.Credentials, "settings", fmt.Sprintf("the credentials are of account %s, and the setting %s names account %s",
				c.Account, named.key, at.AccountID),
				"choose the profile of that account with --profile, or correct "+named.key)
		case at.Region != c.Region:
			return wrong(fail.Usage, "region", fmt.Sprintf("the region is %s, and the setting %s names the region %s", c.Region, named.key,
				at.Region),
				"set --region "+at.Region+", or correct "+named.key)
		}
	}
	return fine("the credentials are of account %s", c.Account)
}
