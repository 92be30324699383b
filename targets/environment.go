package targets

import "strings"

// InEnvironment returns a target's text with its environment, which may be "".
func InEnvironment(environment, target string) string {
	if environment == "" {
		return target
	}
	return environment + "/" + target
}

// CutEnvironment cuts the environment off a target: in ENV/SPEC, the first slash before any colon ends it. environment is "" if the
// user wrote none.
func CutEnvironment(s string) (environment, spec string) {
	environment, spec, ok := strings.Cut(s, "/") // a colon before the slash is no part of a name
	if _, err := checkNamed(environment, "-_", len(s)); !ok || err != nil || isDigits(environment) {
		return "", s
	}
	return environment, spec
}

// cutPartEnvironment cuts the environment off the part after the local port.
func cutPartEnvironment(parts []string) (environment string) {
	for i, part := range parts[:min(len(parts), 3)] {
		if i == 0 || !isDigits(parts[i-1]) {
			continue
		}
		if environment, parts[i] = CutEnvironment(part); environment != "" {
			return environment
		}
	}
	return ""
}
