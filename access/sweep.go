package access

import (
	"context"
	"time"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/report"
)

// OwnedBastion is a bastion of any owner.
type OwnedBastion struct {
	report.Bastion
	Owner string            `json:"owner"` // its tag: AROA...:SESSION-NAME of a role, AIDA... of a user
	Tags  map[string]string `json:"tags"`
}

// SweptBastion is a bastion of any owner, with its age.
type SweptBastion struct {
	OwnedBastion
	AgeSeconds  int64  `json:"age_seconds"`
	LifeSeconds int64  `json:"life_seconds"`    // that it may have
	Error       string `json:"error,omitempty"` // why it could not be stopped; of one that is kept, why its life is not known
}

// SweepResult is the result of Sweep.
type SweepResult struct {
	Cluster string         `json:"cluster"`
	Region  string         `json:"region"`
	DryRun  bool           `json:"dry_run"`
	Expired []SweptBastion `json:"expired"` // stopped, unless it was a dry run or there is an error
	Kept    []SweptBastion `json:"kept"`
}

// Sweep stops every owner's bastions that are older than their life, or than olderThan if it is positive; see bastions.Manager.Sweep. The
// result is valid with an error too.
func (a *Access) Sweep(ctx context.Context, olderThan time.Duration, dry bool) (SweepResult, error) {
	out := SweepResult{
		Cluster: a.settings.Bastion.Cluster, Region: a.region, DryRun: dry, Expired: []SweptBastion{}, Kept: []SweptBastion{},
	}
	if err := a.needsTask("stop old bastions"); err != nil {
		return out, err
	}
	a.progress("looking for old bastions")
	swept, kept, err := a.manager.Sweep(ctx, a.everyone(), olderThan, dry)
	for _, s := range swept {
		out.Expired = append(out.Expired, a.swept(s))
	}
	for _, s := range kept {
		out.Kept = append(out.Kept, a.swept(s))
	}
	return out, err
}

// All returns the running bastions of every owner, the oldest first, with what each has cost so far.
func (a *Access) All(ctx context.Context) ([]OwnedBastion, error) {
	if err := a.needsTask("look at the bastions"); err != nil {
		return nil, err
	}
	a.progress("looking at the bastions of every owner")
	all, err := a.manager.All(ctx, a.everyone())
	out := make([]OwnedBastion, 0, len(all))
	for _, b := range all {
		out = append(out, a.owned(b))
	}
	return out, err
}

func (a *Access) owned(b bastions.Owned) OwnedBastion {
	return OwnedBastion{Bastion: a.priced(b.Bastion), Owner: b.Owner, Tags: b.Tags}
}

// everyone describes the bastions of every owner.
func (a *Access) everyone() bastions.Spec {
	s := a.settings.Bastion
	return bastions.Spec{Cluster: s.Cluster, TaskDefinition: s.TaskDefinition, Container: s.Container}
}

func (a *Access) swept(s bastions.Swept) SweptBastion {
	out := SweptBastion{
		OwnedBastion: a.owned(s.Owned), AgeSeconds: int64(s.Age.Seconds()), LifeSeconds: int64(s.Life.Seconds()),
	}
	if s.Err != nil {
		out.Error = s.Err.Error()
	}
	return out
}
