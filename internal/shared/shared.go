package shared

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

const (
	// Name is the parameter's name unless Variable has another.
	Name = "/bastion/config"
	// Variable names another parameter, or is Off.
	Variable = "BASTION_SHARED_CONFIG"
	// Off is the value of Variable for commands that use no shared configuration.
	Off = "off"

	// MaxText is the most bytes of a configuration: those of a parameter that costs nothing (the standard tier).
	MaxText = 4096

	freshFor = 15 * time.Minute // after which AWS is asked again
	retryIn  = time.Minute      // after a look-up that failed
	askWait  = 5 * time.Second  // bounds the look-up, once there are credentials
	attempts = 2                // of the look-up
)

// How says when Read asks AWS.
type How int

// The ways to read.
const (
	Usual  How = iota // if the copy is old
	Cached            // never
	Anew              // always
)

// Reader reads the shared configuration of a scope.
type Reader struct {
	Name  string // of the parameter
	Dir   string // state directory, which Read makes if it keeps a copy
	Scope Scope
	// AWS returns the configuration of the AWS SDK. Read calls it only if it asks AWS.
	AWS func(context.Context) (aws.Config, error)
	Now func() time.Time // nil: time.Now
}

// Read returns the shared configuration; its text is empty if the account has none. With an error there is no copy either. A look-up that
// fails is not repeated for a minute, and its error is in Copy.Failure where an earlier copy serves.
func (r Reader) Read(ctx context.Context, how How) (Copy, error) {
	now := time.Now
	if r.Now != nil {
		now = r.Now
	}
	old, have := r.load()
	if how == Cached || how == Usual && have && old.isFresh(now()) {
		if how == Cached && !old.served() {
			return Copy{}, nil
		}
		return old, old.err()
	}
	found, err := r.ask(ctx)
	if ctx.Err() != nil {
		return Copy{}, context.Cause(ctx)
	}
	found.Scope, found.Name, found.Tried = r.Scope, r.Name, now()
	if err == nil {
		found.At = found.Tried
		r.save(found)
		return found, nil
	}
	if have && old.served() {
		old.Tried = found.Tried
		found = old
	}
	found.Failure = failureOf(err)
	if found.Failure.isRemote() {
		r.save(found)
	}
	return found, found.err()
}

// ask looks the parameter up.
func (r Reader) ask(ctx context.Context) (Copy, error) {
	cfg, err := r.AWS(ctx)
	if err != nil {
		return Copy{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	out, err := ssm.NewFromConfig(cfg, func(o *ssm.Options) { o.RetryMaxAttempts = attempts }).
		GetParameter(ctx, &ssm.GetParameterInput{Name: &r.Name, WithDecryption: aws.Bool(true)})
	found := Copy{Region: cfg.Region}
	if isAbsent(err) {
		return found, nil
	}
	if err != nil {
		return found, fail.AWS(fail.Other, fmt.Sprintf("read the shared configuration %s in %s", r.Name, cfg.Region), "ssm:GetParameter", err)
	}
	p := out.Parameter
	found.Text, found.ARN, found.Version = aws.ToString(p.Value), aws.ToString(p.ARN), p.Version
	found.Modified, found.Secure = aws.ToTime(p.LastModifiedDate), p.Type == ssmtypes.ParameterTypeSecureString
	return found, nil
}

// isAbsent reports whether AWS says that there is no such parameter.
func isAbsent(err error) bool {
	_, absent := errors.AsType[*ssmtypes.ParameterNotFound](err)
	return absent
}

// Write makes text the shared configuration of an account and region, and returns the parameter's new version.
func Write(ctx context.Context, cfg aws.Config, name, text string) (version int64, err error) {
	out, err := ssm.NewFromConfig(cfg).PutParameter(ctx, &ssm.PutParameterInput{
		Name: &name, Value: &text, Type: ssmtypes.ParameterTypeString, Tier: ssmtypes.ParameterTierStandard, Overwrite: aws.Bool(true),
		Description: aws.String("Configuration of bastion for the people of this account"),
	})
	if err != nil {
		return 0, fail.AWS(fail.Other, fmt.Sprintf("write the shared configuration %s in %s", name, cfg.Region), "ssm:PutParameter", err)
	}
	return out.Version, nil
}

// Remove removes the shared configuration of an account and region. It reports whether there was one.
func Remove(ctx context.Context, cfg aws.Config, name string) (had bool, err error) {
	_, err = ssm.NewFromConfig(cfg).DeleteParameter(ctx, &ssm.DeleteParameterInput{Name: &name})
	if isAbsent(err) {
		return false, nil
	}
	if err != nil {
		return false, fail.AWS(fail.Other, fmt.Sprintf("remove the shared configuration %s in %s", name, cfg.Region), "ssm:DeleteParameter", err)
	}
	return true, nil
}

// CheckName checks the name of a parameter.
func CheckName(name string) error {
	if !strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || len(name) > maxName || strings.Trim(name, letters) != "" {
		return fail.Usagef("write a path such as "+Name+", or "+Off, "%s: %q is no name of an SSM parameter", Variable, name)
	}
	return nil
}

const (
	maxName = 900
	letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/"
)
