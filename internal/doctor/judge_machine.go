package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

func judgeDirectories(f *Facts) Finding {
	if err := cmp.Or(f.Machine.RuntimeErr, f.Machine.StateErr); err != nil {
		word := "runtime"
		if f.Machine.RuntimeErr == nil {
			word = "state"
		}
		return failed(word, "a private directory cannot be used", err)
	}
	return fine("the private directories are usable")
}

func judgeAgent(f *Facts) Finding {
	m := f.Machine
	switch {
	case m.Stale:
		return warn("stale", "the socket of an agent that has ended without cleaning up is still there: "+m.Socket,
			"bastion doctor --fix (the next command that needs the agent removes it too)")
	case errors.Is(m.AgentErr, api.ErrNotRunning):
		return fine("no agent runs; the next command that needs it starts it")
	case m.AgentErr != nil:
		return failed("silent", "the agent does not answer", fail.New(fail.Timeout, "", m.AgentErr,
			"bastion agent stop; the next command starts another"))
	case m.Agent.Version != f.Version:
		return warn("version", fmt.Sprintf("the agent runs version %s, and this program is version %s: the agent keeps the old one until it "+
			"restarts", m.Agent.Version, f.Version), "bastion agent stop (the next command starts one of this version)")
	}
	return fine("the agent answers (version %s)", m.Agent.Version)
}

func judgeOpenSSH(f *Facts) Finding {
	p := f.Machine.SSH
	const renew = "bastion doctor --fix, or write it again: "
	switch {
	case f.Machine.SSHErr != nil:
		return warn("unreadable", "bastion's block in ssh's configuration cannot be read: "+plain(f.Machine.SSHErr),
			fail.NextOf(f.Machine.SSHErr))
	case !p.Found:
		return fine("ssh's configuration has no block of bastion's")
	case p.Gone != "":
		return warn("gone", "bastion's block in "+p.Path+" names a program that is not there: "+p.Gone, renew+p.Command)
	case p.Renewed != "":
		return warn("old", "bastion's block in "+p.Path+" is not the one that this version writes", renew+p.Command)
	}
	return fine("bastion's block in %s is the one that this version writes", p.Path)
}

func judgeHosts(f *Facts) Finding {
	m := f.Machine
	switch {
	case m.HostsErr != nil:
		return warn("unreadable", "the hosts file cannot be read: "+plain(m.HostsErr), fail.NextOf(m.HostsErr))
	case len(m.HostsDead) > 0:
		return warn("left", fmt.Sprintf("%s still has the entries of %d ended command(s) with --hosts: their names resolve to addresses "+
			"where no forward listens", m.HostsFile, len(m.HostsDead)), "sudo bastion doctor --fix (the next command with --hosts does it too)")
	}
	return fine("the hosts file has no lines of ended commands")
}

func judgePorts(f *Facts) Finding {
	var busy []string
	first, unknown := "", 0
	for _, p := range f.Machine.Ports {
		if p.Err == nil || p.Ours != "" {
			continue
		}
		first = cmp.Or(first, p.For)
		if !errors.Is(p.Err, syscall.EADDRINUSE) {
			busy = append(busy, fmt.Sprintf("%d for %s (%s)", p.Number, p.For, plain(p.Err)))
			continue
		}
		if p.By == "" {
			unknown = p.Number
		}
		busy = append(busy, fmt.Sprintf("%d for %s is in use by %s", p.Number, p.For, cmp.Or(p.By, "a process that this user cannot see")))
	}
	if len(busy) == 0 {
		return fine("the local ports are free, or the agent's own")
	}
	fix := "end that program, or choose another port: bastion forward " + first + " 0 takes a free one"
	if unknown != 0 {
		fix = fmt.Sprintf("see who has it: sudo lsof -nP -iTCP:%d -sTCP:LISTEN; ", unknown) + fix
	}
	if f.Target == "" {
		return warn("busy", "local ports are not available: "+strings.Join(busy, "; "), fix)
	}
	return wrong(fail.PortInUse, "busy", "a local port is not available: "+strings.Join(busy, "; "), fix)
}

func judgeFile(f *Facts) Finding {
	if f.SettingsErr != nil {
		return failed("invalid", "the settings cannot be used", f.SettingsErr)
	}
	if f.Settings.File == "" {
		return fine("the settings are in order; there is no configuration file")
	}
	return fine("the settings are in order (file %s)", f.Settings.File)
}

func judgeTarget(f *Facts) Finding {
	switch {
	case f.Target == "":
		return Finding{Level: Skipped, Case: caseNone, Means: "no target was named; bastion doctor TARGET goes on to it"}
	case f.TargetErr != nil:
		return failed("invalid", "the target is not in a target's form", f.TargetErr)
	}
	return fine("%s is a target", f.Target)
}

func judgeCA(f *Facts) Finding {
	isDatabase := f.Spec.Kind == targets.RDS && f.Where.Thing.What != ""
	bundle := "curl -fo rds-ca.pem " + f.bundle() + ", and set tls_ca to the file's path"
	switch {
	case f.Machine.CAErr != nil:
		return failed("unreadable", "the CA bundle of databases, tls_ca, cannot be read",
			fail.New(fail.Usage, "", f.Machine.CAErr, "correct tls_ca, or "+bundle))
	case f.Settings.Forward.TLSCA == "" && isDatabase:
		return warn("unknown", "tls_ca is not set, and no system trusts AWS's CA for databases by itself: clients encrypt, but do not "+
			"verify the server", bundle)
	case f.Settings.Forward.TLSCA == "":
		return fine("no database was named that needs a CA bundle")
	}
	return fine("the CA bundle of databases can be read")
}
