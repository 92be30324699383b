package lab

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// DBIAMUser is the user of the lab's database who signs in with IAM tokens, as a user with the role rds_iam does.
const DBIAMUser = "iam"

// VerifyDBToken checks an IAM token for a database as RDS does. It checks the signer, the expiry, the endpoint and the user, and
// that the signer has the permission rds-db:connect.
func (l *Lab) VerifyDBToken(token, host string, port int, user string) error {
	id, query, err := l.identities.VerifyPresigned(token, awsapi.Presigned{
		Service: "rds-db", Region: l.region, Host: net.JoinHostPort(host, strconv.Itoa(port)), Now: l.cfg.Now().UTC(),
		MaxAge: 15 * time.Minute,
	})
	if err != nil {
		return fmt.Errorf("the token is refused: %w", err)
	}
	if query.Get("Action") != "connect" || query.Get("DBUser") != user {
		return fmt.Errorf("the token is for %s as %q, not to connect as %q", query.Get("Action"), query.Get("DBUser"), user)
	}
	needs := awsapi.Access{Action: "rds-db:connect", Resource: l.rds.userARN(host, user)}
	if err := id.Authorize(awsapi.JSON, needs); err != nil {
		return fmt.Errorf("%s has not the permission rds-db:connect: %w", id.ARN, err)
	}
	return nil
}

// userARN is the ARN of a user of the database with an endpoint.
func (r *rds) userARN(host, user string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	resource := ""
	for _, d := range r.instances {
		if d.Host == host {
			resource = dbResource(d.ID)
		}
	}
	for _, d := range r.clusters {
		if d.host() == host || d.reader() == host {
			resource = clusterResource(d.ID)
		}
	}
	return r.arn("rds-db", "dbuser:"+resource+"/"+user)
}

// signIn is VerifyDBToken for the endpoint of an instance, under its name and port at the time of the call.
func (l *Lab) signIn(dbID string) func(user, token string) error {
	return func(user, token string) error {
		l.rds.mu.Lock()
		all := slices.Clone(l.rds.instances)
		l.rds.mu.Unlock()
		i := slices.IndexFunc(all, func(d DBInstance) bool { return strings.EqualFold(d.ID, dbID) })
		if i < 0 {
			return fmt.Errorf("there is no DB instance %s", dbID)
		}
		if !all[i].IAM {
			return fmt.Errorf("IAM authentication is not enabled on %s", dbID)
		}
		return l.VerifyDBToken(token, all[i].Host, int(all[i].Addr.Port()), user)
	}
}
