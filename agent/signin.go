package agent

import (
	"cmp"
	"context"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/login"
	"github.com/bastion-ssm/bastion/internal/report"
)

const (
	// askAgain is the least time between two notifications with the same remedy, unless the user has signed in meanwhile.
	askAgain = time.Hour
	// notifyTime bounds a notification.
	notifyTime = 10 * time.Second
	// maxAsked bounds Agent.asked.
	maxAsked = 100
)

// onSignIn receives from the link's Access that only the user can renew the AWS credentials, or nil once they are renewed. The
// link, its sessions and its connections stay meanwhile.
func (l *link) onSignIn(s *report.SignIn) {
	l.mu.Lock()
	before := l.asked
	l.asked = s
	if s == nil {
		l.failed.retry = time.Time{} // forwards' clients need not wait any longer
	}
	l.mu.Unlock()
	switch {
	case s != nil:
		text := s.Ask(time.Now())
		l.emit(api.Event{Event: api.EventNote, Text: text})
		l.agent.ask(remedy(s), text)
	case before != nil:
		l.emit(api.Event{Event: api.EventNote, Text: "the AWS credentials are renewed"})
		l.agent.askedNoMore(remedy(before))
	}
	l.agent.bump()
}

// remedy returns what the user has to do: one notification asks for it, whichever links need it.
func remedy(s *report.SignIn) string { return cmp.Or(s.Command, s.Next) }

// onRefused notes that calls with the link's credentials fail. The credentials of variables show only there that they have expired.
func (l *link) onRefused(err error) {
	l.mu.Lock()
	asked := l.asked != nil
	l.mu.Unlock()
	if !asked {
		l.agent.onRefused(err, l.settings, l.env)
	}
}

// onRefused asks for a login if a call, or a link that cannot be made, needs one.
func (a *Agent) onRefused(err error, settings config.Settings, env *awssdk.Env) {
	if fail.KindOf(err) != fail.Credentials || !awssdk.NeedsUser(err) {
		return
	}
	s := report.SignIn{Reason: err.Error(), Next: fail.NextOf(err)}
	if origin, err := awssdk.OriginOf(a.ctx, env, settings.AWS.Profile); err == nil {
		s.Command = origin.Command()
	}
	a.ask(remedy(&s), s.Ask(time.Now()))
}

// ask asks the user by a desktop notification, once for each remedy.
func (a *Agent) ask(remedy, text string) {
	if a.cfg.Notify == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if at, ok := a.asked[remedy]; a.closing || ok && now.Sub(at) < askAgain {
		return
	}
	if len(a.asked) >= maxAsked {
		clear(a.asked)
	}
	if a.asked == nil {
		a.asked = make(map[string]time.Time)
	}
	a.asked[remedy] = now
	a.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(a.ctx, notifyTime)
		defer cancel()
		if err := a.cfg.Notify(ctx, "Sign in to AWS again", text); err != nil {
			a.log.Debug("no notification", "err", err)
		}
	})
}

// askedNoMore lets the next expiry ask again.
func (a *Agent) askedNoMore(remedy string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.asked, remedy)
}

// mfaFor returns the source of MFA codes for settings and variables; nil without mfa_command. A code works once, so the links share
// what a code has opened.
func (a *Agent) mfaFor(s config.Settings, env *awssdk.Env) *awssdk.MFA {
	if s.AWS.MFACommand == "" {
		return nil
	}
	of := config.Settings{AWS: config.AWS{Profile: s.AWS.Profile, MFACommand: s.AWS.MFACommand}}
	key := linkKey(of, env.Public(), "")
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.mfas[key]
	if m == nil {
		m = &awssdk.MFA{Ask: login.CodeBy(a.ctx, s.AWS.MFACommand)}
		if a.mfas == nil {
			a.mfas = make(map[string]*awssdk.MFA)
		}
		a.mfas[key] = m
	}
	return m
}
