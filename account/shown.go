package account

import "encoding/json"

// Shown returns the inputs for programs, with names in snake case. The record in a template keeps Go's.
func (in Inputs) Shown() map[string]any {
	var all any
	text, err := json.Marshal(in)
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		panic("account: inputs: " + err.Error()) // texts, numbers and lists of them
	}
	return snakeNames(all).(map[string]any)
}

// shownNames are names whose capitals tell no words.
var shownNames = map[string]string{"ARN": "arn", "VPCCIDR": "vpc_cidr", "MoreCIDRs": "more_cidrs"}

// snakeNames is a value of JSON with the names of members in snake case.
func snakeNames(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, value := range v {
			shown, ok := shownNames[name]
			if !ok {
				shown = snake(name)
			}
			out[shown] = snakeNames(value)
		}
		return out
	case []any:
		for i := range v {
			v[i] = snakeNames(v[i])
		}
	}
	return v
}
