package main

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/linkview"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/internal/topview"
)

// Whatever AWS, the agent or a file says, people's output holds printable text alone, and a value begins no further row.
func TestHostileText(t *testing.T) {
	bad := hostile + notUTF8
	live := report.Link{
		Bastion: bad, State: bad, Error: bad, Lacks: []string{bad}, Document: bad, DocumentReason: bad,
		Limit: &report.SessionLimit{Reason: bad}, Sessions: []report.Session{{ID: bad, State: bad}},
	}
	task := report.Bastion{TaskID: bad, Status: bad, Exec: bad, Target: bad, Cluster: bad}
	refused, outdated, unchecked := task, task, task
	refused.Refused, outdated.Outdated, unchecked.Unchecked = bad, bad, bad
	forward := api.Forward{Name: bad, Listen: bad, Target: bad, State: api.ForwardState(bad), Command: bad, Error: bad}
	top := topview.Lines(
		api.State{
			Info: api.Info{PID: 1, Version: bad}, Forwards: []api.Forward{forward}, Links: []api.Link{{Live: []report.Link{live}}},
			Audit: []api.AuditEvent{{Forward: bad, Target: bad, Client: bad, Error: bad}},
		},
		[]api.Account{{
			Status: report.Status{Region: bad, Bastions: []report.Bastion{task}}, Error: &api.Error{Message: bad},
		}},
		true)
	for name, show := range map[string]func(a *app) error{
		"status": func(a *app) error {
			return a.printStatus(statusOutput{
				Status:    report.Status{Owner: bad, Cluster: bad, Bastions: []report.Bastion{task, refused, outdated, unchecked}},
				Processes: []report.Process{{Command: bad, Links: []report.Link{live}}},
			})
		},
		"no bastion": func(a *app) error {
			return a.printStatus(statusOutput{Status: report.Status{Owner: bad, Cluster: bad}})
		},
		"sshd": func(a *app) error { return a.printStatus(statusOutput{Status: report.Status{Target: bad}}) },
		"top": func(a *app) error { // as on the terminal, where nothing else sanitizes
			_, err := io.WriteString(a.Raw.Out, strings.Join(top, "\n")+"\n")
			return err
		},
		"forwards": func(a *app) error { return a.printForwards([]api.Forward{forward}, config.Settings{}) },
		"error": func(a *app) error {
			printError(a.Err, fail.Usagef(bad, "%s", bad))
			return nil
		},
		"step": func(a *app) error {
			p := console.NewProgress(a.Raw.Err, false)
			defer p.Close()
			p.Step(bad)
			p.Note(bad)
			slog.New(slog.NewTextHandler(p, nil)).Error(bad, bad, bad, "err", errors.New(bad))
			(&linkview.Watch{Progress: p}).Event(api.Event{Event: api.EventRefused, Text: bad})
			_, err := p.Write([]byte(strings.NewReplacer("\r", "", "\n", "", "\t", "").Replace(bad) + "\n"))
			return err
		},
	} {
		a, out := testApp()
		if err := show(a); err != nil {
			t.Fatal(err)
		}
		checkHarmless(t, name, out.String())
		said(t, name, out.String())
	}
}

// JSON is exact data, and harmless.
func TestHostileJSON(t *testing.T) {
	a, out := testApp()
	if err := a.PrintJSON(map[string]string{"text": hostile}); err != nil {
		t.Fatal(err)
	}
	checkHarmless(t, "JSON", out.String())
	var got map[string]string
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got["text"] != hostile {
		t.Errorf("%q: %v", out.String(), err)
	}
}
