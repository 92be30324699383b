package inventory

import (
	"context"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/picker"
	"github.com/bastion-ssm/bastion/targets"
)

// OrPick returns args, or where they name no target the one that the user picks from the list. Without a terminal it returns args, and
// the command says what it misses.
func (a *Inventory) OrPick(ctx context.Context, s config.Settings, hasTarget bool, args []string) ([]string, error) {
	out := a.Raw.Err // standard output may be another program's
	if hasTarget || s.Output.Format == "json" || !console.IsTerminal(out) || !console.CanAsk(a.In) {
		return args, nil
	}
	scopes, err := a.scopes(s, false)
	if err != nil {
		return nil, err
	}
	lists := a.lists(ctx, s, scopes, false, nil)
	var choices []picker.Choice
	for _, l := range lists {
		for _, name := range l.names(s) {
			choices = append(choices, picker.Choice{Value: targets.InEnvironment(l.prefix(s), name), Help: l.settings.Targets[name].Spec})
		}
	}
	for _, l := range lists {
		for _, item := range l.list.Items {
			choices = append(choices, picker.Choice{Value: targets.InEnvironment(l.prefix(s), item.Spec), Help: itemHelp(item)})
		}
	}
	err = missingOf(lists)
	if len(choices) == 0 {
		return args, err // the command says what it misses
	}
	if err != nil {
		a.Note(s, "the list lacks something: %v", err)
	}
	value, ok, err := picker.Pick(ctx, a.In, out, "target", choices)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fail.Usagef("name a target, or choose one with enter", "no target was chosen")
	}
	return append([]string{value}, args...), nil
}
