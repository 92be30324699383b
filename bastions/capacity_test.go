package bastions

import (
	"testing"
	"testing/synctest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// A bastion on Spot is asked for by its capacity provider, without a launch type, and is used by everyone who finds it: the other client
// would have started the same program in the same place.
func TestSpot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		spec := testSpec()
		spec.Spot = true
		first, started, err := New(Config{ECS: f}).Ensure(t.Context(), spec, nil)
		if err != nil || !started {
			t.Fatalf("%v, %v", started, err)
		}
		in := f.runs[0]
		if in.LaunchType != "" || len(in.CapacityProviderStrategy) != 1 ||
			aws.ToString(in.CapacityProviderStrategy[0].CapacityProvider) != "FARGATE_SPOT" {
			t.Errorf("launch type %q, capacity %+v", in.LaunchType, in.CapacityProviderStrategy)
		}
		for _, spot := range []bool{true, false} {
			spec.Spot = spot
			b, started, err := New(Config{ECS: f}).Ensure(t.Context(), spec, nil)
			if err != nil || started || b.TaskARN != first.TaskARN {
				t.Errorf("spot %v: %+v, %v, %v", spot, b, started, err)
			}
		}
	})
}

// Both kinds have tokens of their own: ECS takes a token for one request only.
func TestSpotHasItsOwnToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := make(map[string]bool)
		for _, spot := range []bool{true, false} {
			f := &fakeECS{}
			spec := testSpec()
			spec.Spot = spot
			if _, _, err := New(Config{ECS: f}).Ensure(t.Context(), spec, nil); err != nil {
				t.Fatal(err)
			}
			tokens[aws.ToString(f.runs[0].ClientToken)] = true
		}
		if len(tokens) != 2 {
			t.Errorf("tokens %v", tokens)
		}
	})
}

// AWS's own providers are Fargate; another's machines are not, even where their name looks like it.
func TestCapacityProviders(t *testing.T) {
	for provider, refused := range map[string]bool{
		"": false, "FARGATE": false, "FARGATE_SPOT": false, "fargate_spot": true, "FARGATE_SPOT2": true, "own-machines": true,
	} {
		task := &types.Task{LaunchType: types.LaunchTypeFargate, CapacityProviderName: aws.String(provider)}
		if why := otherLaunch(task); (why != "") != refused {
			t.Errorf("%q: %q", provider, why)
		}
	}
}
