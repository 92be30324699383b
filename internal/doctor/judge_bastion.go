package doctor

import (
	"cmp"
	"fmt"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
)

func judgeRunning(f *Facts) Finding {
	r := f.Running
	switch {
	case fail.KindOf(r.Err) == fail.Denied:
		return failed("denied", "AWS does not show your tasks", r.Err)
	case r.Err != nil:
		return failed("unanswered", "your tasks cannot be listed", r.Err)
	case !r.Asked:
		return hidden(caseNone, "your tasks", "")
	case f.bastion() == nil:
		return Finding{Level: Skipped, Case: caseNone, Means: "no bastion of yours is running; bastion up starts one, and doctor then " +
			"examines it too"}
	}
	return fine("bastion %s is %s", f.bastion().TaskID, f.bastion().LastStatus)
}

// bastion is the owner's newest task that is not about to end.
func (f *Facts) bastion() *bastions.Bastion {
	for i := range f.Running.All {
		if !f.Running.All[i].Stopping() {
			return &f.Running.All[i]
		}
	}
	return nil
}

func judgeTask(f *Facts) Finding {
	b := f.bastion()
	const again = "bastion down, then bastion up"
	switch {
	case b.Refused != "" && unless(noOwnTask, judgeSubnets)(f).Level == Error: // it is compared with them
		return because(idSubnets)
	case b.Refused != "" && unless(noOwnTask, judgeGroups)(f).Level == Error:
		return because(idGroups)
	case b.Refused != "":
		return wrong(fail.Start, "refused", fmt.Sprintf("task %s is marked as yours, but bastion would not have started it: it %s", b.TaskID,
			b.Refused),
			"bastion down --refused stops it, if nobody else works with it")
	case !b.ExecEnabled:
		return wrong(fail.Start, "exec_disabled", "the task "+b.TaskID+" was started without ECS Exec (enableExecuteCommand)", again)
	case b.OldPlatform():
		return wrong(fail.Start, "platform", fmt.Sprintf("the task %s runs on Fargate's platform version %s, which has no ECS Exec",
			b.TaskID, b.Platform), again+"; it starts on LATEST")
	case b.Outdated != "":
		return warn("outdated", fmt.Sprintf("the next command does not use the task %s, which costs money until it ends: it %s", b.TaskID,
			b.Outdated), again)
	case b.Unchecked != "":
		return hidden("unchecked", "whether the task is the one that you would start: "+b.Unchecked, "")
	}
	return fine("the task is the one that you would start")
}

func judgeExecAgent(f *Facts) Finding {
	b := f.bastion()
	switch {
	case b.ExecStatus == "STOPPED":
		return wrong(fail.Start, "stopped", "ECS Exec's agent in the task has stopped, and only a new task has another: "+
			cmp.Or(b.ExecReason, "ECS gives no reason"),
			"bastion down, then bastion up")
	case b.ExecRunning:
		return fine("ECS Exec's agent runs")
	case b.LastStatus != "RUNNING":
		return Finding{Level: Skipped, Case: caseNone, Means: "the task is still starting: " + b.LastStatus}
	case len(f.Running.Found) > 0:
		return wrong(fail.Start, "pending", "ECS Exec's agent has not connected: "+f.Running.Found[0].Problem, f.Running.Found[0].Fix)
	}
	return wrong(fail.Start, "pending", "ECS Exec's agent has not connected",
		"bastion down, then bastion up; see aws.task_role and aws.routes")
}

func judgeConnect(f *Facts) Finding {
	err := f.Running.ConnectErr
	if err == nil && f.Running.Measured == nil {
		return hidden(caseNone, "the bastion was not asked", "")
	}
	if err == nil {
		return fine("bastiond answers (version %s)", f.Running.Measured.Version)
	}
	answer := awsanswer.Of(err)
	call := map[string]string{"ExecuteCommand": "execute_command", "StartSession": "start_session", "GenerateDataKey": "kms"}[answer.Operation]
	switch answer.Class {
	case awsanswer.Denied:
		out := failed(cmp.Or(call, "call")+"_denied", "AWS denies "+cmp.Or(answer.Action, answer.Operation)+deniedBy(answer), err)
		out.kind = fail.Denied
		return out
	case awsanswer.LimitReached:
		return failed("limit", "AWS starts no further session in the task", err)
	case awsanswer.NotConnected:
		return failed("not_connected", "ECS Exec's agent in the task is not connected to Session Manager", err)
	}
	return failed("failed", "no connection to bastiond", err)
}

// judgeLastTry judges what the agent says of a link without a bastion. A start that AWS refuses leaves no task behind that would tell.
func judgeLastTry(f *Facts) Finding {
	if f.bastion() != nil {
		return fine("a bastion of yours runs")
	}
	for _, l := range f.Machine.State.Links {
		isThis := l.Environment == f.Settings.Environment && l.Region == f.Credentials.Region && l.Cluster == f.Settings.Bastion.Cluster
		if !isThis || l.Error == "" || l.State != api.LinkFailed && l.State != api.LinkWaiting {
			continue
		}
		if unless(noOwnTask, judgeLastStart)(f).Level == Warning {
			return because(idLastStart)
		}
		return warn("failed", "the agent could not get a bastion the last time: "+printable.Line(l.Error),
			cmp.Or(l.Next, "try again: bastion up"))
	}
	return fine("the agent knows of no failed start of a bastion")
}

func judgeSessions(f *Facts) Finding {
	m := f.Running.Measured
	switch {
	case m == nil || m.MaxSessions == 0:
		return hidden("unasked", "how many sessions the task has room for", "")
	case m.Sessions >= m.MaxSessions:
		return warn("full", fmt.Sprintf("the task has %d sessions, and room for %d", m.Sessions, m.MaxSessions),
			"end sessions that are not needed (bastion stop), or start a larger task: bastion down, then bastion up --task-size large")
	}
	return fine("the task has %d of %d sessions", m.Sessions, m.MaxSessions)
}

// Shares of the task's memory and CPU from which on it is about to be the limit.
const fullShare = 0.9

func judgeHeadroom(f *Facts) Finding {
	m := f.Running.Measured
	const larger = "a larger task: bastion down, then bastion up --task-size large"
	switch {
	case m == nil || m.MemoryLimit == 0:
		return hidden("unasked", "the task's load", "")
	case float64(m.MemoryUsed) >= fullShare*float64(m.MemoryLimit):
		return warn("memory", fmt.Sprintf("the task uses %d of %d MiB: ECS ends it at the limit", m.MemoryUsed>>20, m.MemoryLimit>>20), larger)
	case m.Throttled >= fullShare/2:
		return warn("cpu", fmt.Sprintf("the task has waited for its CPU in %.0f %% of the time so far", 100*m.Throttled), larger)
	}
	return fine("the task uses %d of %d MiB", m.MemoryUsed>>20, m.MemoryLimit>>20)
}
