package login

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc/types"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

const (
	// deviceInterval is the pause between questions if Identity Center names none (RFC 8628, section 3.2).
	deviceInterval = 5 * time.Second
	// deviceSlower is added to the pause after each slow_down (RFC 8628, section 3.5), and after a question without an answer.
	deviceSlower = 5 * time.Second
)

// byDevice signs in by a device code.
func (l *Login) byDevice(ctx context.Context, c *client) (Token, error) {
	by, err := c.register(ctx, true)
	if err != nil {
		return Token{}, err
	}
	began := c.now()
	d, err := c.oidc.StartDeviceAuthorization(ctx, &ssooidc.StartDeviceAuthorizationInput{
		ClientId: &by.ID, ClientSecret: &by.Secret, StartUrl: &c.session.StartURL,
	})
	if err != nil {
		return Token{}, err
	}
	l.Tell(Prompt{
		URL: aws.ToString(d.VerificationUri), Code: aws.ToString(d.UserCode), WithCode: aws.ToString(d.VerificationUriComplete),
		Lasts: time.Duration(d.ExpiresIn) * time.Second,
	})
	if l.Open != nil {
		if err := l.openPage(ctx, aws.ToString(d.VerificationUriComplete)); err != nil {
			l.note("no browser was started (%s)", err)
		}
	}
	ctx, cancel := context.WithDeadlineCause(ctx, began.Add(time.Duration(d.ExpiresIn)*time.Second), errDeviceExpired)
	defer cancel()
	return l.awaitDevice(ctx, c, by, d)
}

var errDeviceExpired = fail.New(fail.Timeout, "", errors.New("the device code has expired before it was entered"),
	"try again: bastion login")

// awaitDevice asks for the token until the user has entered the code.
func (l *Login) awaitDevice(ctx context.Context, c *client, by Registration, d *ssooidc.StartDeviceAuthorizationOutput) (Token, error) {
	pause := time.Duration(d.Interval) * time.Second
	if pause <= 0 {
		pause = deviceInterval
	}
	in := &ssooidc.CreateTokenInput{ClientId: &by.ID, ClientSecret: &by.Secret, GrantType: aws.String(grantDevice), DeviceCode: d.DeviceCode}
	for {
		if err := l.sleep(ctx, pause); err != nil {
			return Token{}, context.Cause(ctx)
		}
		made, err := c.oidc.CreateToken(ctx, in)
		switch {
		case err == nil:
			return c.token(by, Token{}, made)
		case ctx.Err() != nil:
			return Token{}, context.Cause(ctx)
		case is[*types.AuthorizationPendingException](err):
		case is[*types.SlowDownException](err):
			pause += deviceSlower
		case is[*types.ExpiredTokenException](err):
			return Token{}, errDeviceExpired
		case is[*types.AccessDeniedException](err):
			return Token{}, refused("the access was denied in the browser")
		case awsanswer.ClassOf(err) == awsanswer.None, awsanswer.ClassOf(err).Passes():
			l.note("Identity Center does not answer; asking again (%s)", err)
			pause += deviceSlower
		default:
			return Token{}, err
		}
	}
}

func is[E error](err error) bool { return errors.As(err, new(E)) }

// sleep waits between two questions.
func (l *Login) sleep(ctx context.Context, d time.Duration) error {
	if l.Sleep != nil {
		return l.Sleep(ctx, d)
	}
	return sleep.For(ctx, d)
}
