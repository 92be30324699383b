package lab

import (
	"context"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// parameter is a parameter of Parameter Store.
type parameter struct {
	value, kind string
	version     int64
	modified    time.Time
}

const (
	kindString   = "String"
	kindSecure   = "SecureString"
	mostOfAValue = 4096 // bytes, of the standard tier
)

type parameterInput struct {
	Name           string `json:"Name"`
	Value          string `json:"Value"`
	Type           string `json:"Type"`
	Overwrite      bool   `json:"Overwrite"`
	WithDecryption bool   `json:"WithDecryption"`
}

// parameterAccess returns the access to a parameter, whose ARN has one slash before its name.
func (s *ssm) parameterAccess(c *awsapi.Call) []awsapi.Access {
	name := strings.TrimPrefix(inputOf[parameterInput](c).Name, "/")
	return []awsapi.Access{{Action: c.Name(), Resource: s.arn("ssm", "parameter/"+name)}}
}

func errNoParameter() error { return awsapi.Errorf("ParameterNotFound", "") }

func (s *ssm) getParameter(_ context.Context, _ *awsapi.Call, in *parameterInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.parameters[in.Name]
	if !ok {
		return nil, errNoParameter()
	}
	value := p.value
	if p.kind == kindSecure && !in.WithDecryption {
		value = "AQICAHencrypted"
	}
	return map[string]any{"Parameter": map[string]any{
		"ARN": s.arn("ssm", "parameter/"+strings.TrimPrefix(in.Name, "/")), "DataType": "text", "LastModifiedDate": awsapi.At(p.modified),
		"Name": in.Name, "Type": p.kind, "Value": value, "Version": p.version,
	}}, nil
}

func (s *ssm) putParameter(_ context.Context, _ *awsapi.Call, in *parameterInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, exists := s.parameters[in.Name]
	switch {
	case in.Value == "":
		return nil, validationError(in.Value, "value", "Member must have length greater than or equal to 1")
	case len(in.Value) > mostOfAValue:
		return nil, awsapi.Errorf("ValidationException", "Standard tier parameters support a maximum parameter value of %d characters. "+
			"To create a larger parameter value, upgrade the parameter to use the advanced-parameter tier.", mostOfAValue)
	case exists && !in.Overwrite:
		return nil, awsapi.Errorf("ParameterAlreadyExists",
			"The parameter already exists. To overwrite this value, set the overwrite option in the request to true.")
	case exists && in.Type != "" && in.Type != old.kind:
		return nil, awsapi.Errorf("HierarchyTypeMismatchException", "Parameter Store doesn't support changing a parameter type in a hierarchy.")
	case in.Type != kindString && in.Type != kindSecure && !exists:
		return nil, awsapi.Errorf("ValidationException", "A parameter type is required when you create a parameter.")
	}
	if s.parameters == nil {
		s.parameters = make(map[string]parameter)
	}
	made := parameter{in.Value, in.Type, old.version + 1, time.Now()}
	if exists {
		made.kind = old.kind
	}
	s.parameters[in.Name] = made
	return map[string]any{"Version": made.version, "Tier": "Standard"}, nil
}

func (s *ssm) deleteParameter(_ context.Context, _ *awsapi.Call, in *parameterInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.parameters[in.Name]; !ok {
		return nil, errNoParameter()
	}
	delete(s.parameters, in.Name)
	return struct{}{}, nil
}
