package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// Organization is several accounts and regions behind one endpoint, as AWS has them: each pair of an account and a region is a Lab of
// its own, with its own clusters, tasks, databases and names. A call goes to the lab of the account that its credentials belong to, in
// the region that it is signed for. One IAM Identity Center is in front of all.
type Organization struct {
	labs     []*Lab
	server   *http.Server
	serving  sync.WaitGroup
	listener net.Listener
	dir      string

	identityCenter *IdentityCenter

	mu       sync.Mutex
	profiles []profile
}

// StartOrganization starts the labs and returns once everything in them answers. Each has another account or region; two with the same
// account share its identities. ctx bounds only the start; Close ends all.
func StartOrganization(ctx context.Context, labs ...Config) (_ *Organization, err error) {
	o := &Organization{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start the organization: %w", err), o.Close())
		}
	}()
	if o.dir, err = os.MkdirTemp("", "blab"); err != nil {
		return nil, err
	}
	for _, cfg := range labs {
		l, err := Start(ctx, cfg)
		if err != nil {
			return nil, err
		}
		o.labs = append(o.labs, l)
		if o.Lab(l.account, l.region) != l {
			return nil, fmt.Errorf("two labs for the account %s and the region %s", l.account, l.region)
		}
	}
	var lc net.ListenConfig
	if o.listener, err = lc.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	o.addIdentityCenter()
	mux := http.NewServeMux()
	o.identityCenter.register(mux)
	mux.Handle("/", o)
	o.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	o.serving.Go(func() { _ = o.server.Serve(o.listener) })
	return o, nil
}

// addIdentityCenter makes the Identity Center of all accounts. Each account has a session of its own in the AWS configuration, because a
// user may sign in to some of them alone.
func (o *Organization) addIdentityCenter() {
	first := o.labs[0]
	c := newIdentityCenter(first.region, first.cfg.IdentityCenter, o.URL, first.cfg.Now)
	for _, l := range o.labs {
		if c.account(l.account) != nil {
			continue
		}
		c.accounts = append(c.accounts, &ssoAccount{
			id: l.account, profile: SSOProfile + "-" + l.account, session: SSOSession + "-" + l.account, region: l.region, life: c.cfg.RoleLife,
			issue: func(expires time.Time) (awsapi.Identity, error) {
				id := l.ssoIdentity(expires)
				return id, o.admit(id, c.cfg.Rights)
			},
		})
	}
	o.identityCenter = c
}

// IdentityCenter returns the IAM Identity Center of all accounts.
func (o *Organization) IdentityCenter() *IdentityCenter { return o.identityCenter }

// Lab returns the lab of an account and a region; nil: there is none.
func (o *Organization) Lab(account, region string) *Lab {
	i := slices.IndexFunc(o.labs, func(l *Lab) bool { return l.account == account && l.region == region })
	if i < 0 {
		return nil
	}
	return o.labs[i]
}

// URL returns the endpoint of all accounts and regions.
func (o *Organization) URL() string { return "http://" + o.listener.Addr().String() }

// ServeHTTP passes an API call to its lab. A call with unknown credentials, or for a region without a lab, is for a lab to refuse.
func (o *Organization) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, region := awsapi.Scope(r)
	to := o.labs[0]
	for _, l := range o.labs {
		id, known := l.identities.Get(key)
		if !known || id.Account != l.account {
			continue
		}
		to = l
		if l.region == region {
			break
		}
	}
	to.httpServer.Handler.ServeHTTP(w, r)
}

// AddIdentity adds a caller of an account, with the profile name for its credentials and a region. It has the rights of cfg in each of
// the account's regions. An existing name gets new credentials.
func (o *Organization) AddIdentity(name, account, region string, cfg IdentityConfig) error {
	i := slices.IndexFunc(o.labs, func(l *Lab) bool { return l.account == account })
	if i < 0 {
		return fmt.Errorf("add identity %s: no lab has the account %s", name, account)
	}
	id, err := o.labs[i].newIdentity(name, cfg)
	if err != nil {
		return err
	}
	if err := o.admit(id, cfg); err != nil {
		return fmt.Errorf("add identity %s: %w", name, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.profiles = withProfile(o.profiles, profile{name, id, cfg.Process, region})
	return writeAWSFiles(o.dir, o.profiles, o.identityCenter.profiles(o.profiles))
}

// admit lets an identity in to each region of its account.
func (o *Organization) admit(id awsapi.Identity, cfg IdentityConfig) error {
	var errs []error
	for _, l := range o.labs {
		if l.account == id.Account {
			errs = append(errs, l.admit(id, cfg))
		}
	}
	return errors.Join(errs...)
}

// Env returns the environment of a program that uses the organization as its AWS. It names no profile and no region.
func (o *Organization) Env() []string { return filesEnv(o.URL(), o.dir) }

// Close ends all labs and removes the files.
func (o *Organization) Close() error {
	var errs []error
	if o.server != nil {
		errs = append(errs, o.server.Close())
		o.serving.Wait()
	}
	for _, l := range o.labs {
		errs = append(errs, l.Close())
	}
	if o.dir != "" {
		errs = append(errs, os.RemoveAll(o.dir))
	}
	return errors.Join(errs...)
}
