package login

import (
	"fmt"
	"strings"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// How says where credentials come from, for a user who wonders where to sign in.
func How(o *awssdk.Origin) string {
	profile := "the AWS profile " + printable.OneLine(o.Profile)
	if o.Profile == "" {
		profile = "the default AWS profile"
	}
	detail := printable.OneLine(o.Detail)
	var how string
	switch o.Kind {
	case awssdk.OriginVariables:
		how = "the credentials come from AWS_ACCESS_KEY_ID and the variables beside it, which go before AWS_PROFILE"
	case awssdk.OriginKeys:
		how = profile + " has keys"
	case awssdk.OriginSSO:
		how = profile + " signs in to IAM Identity Center at " + printable.OneLine(o.SSO.StartURL)
	case awssdk.OriginLogin:
		how = profile + " has the session of aws login " + detail
	case awssdk.OriginProcess:
		command, _, _ := strings.Cut(strings.TrimSpace(detail), " ") // its arguments may be secrets
		how = profile + " gets its credentials from a program (credential_process): " + command
	case awssdk.OriginWebIdentity:
		how = "the credentials come from the web identity token in " + detail
	case awssdk.OriginContainer:
		how = "the credentials come from this container, by " + detail
	case awssdk.OriginSource:
		how = profile + " takes its credentials from elsewhere: credential_source = " + detail
	default:
		how = "no profile and no variable has credentials; those of the instance's role count"
	}
	if len(o.Roles) > 0 {
		how += "; with them it assumes " + printable.OneLine(strings.Join(o.Roles, ", then "))
	}
	if o.MFA != "" {
		how += "; that needs a code of the MFA device " + printable.OneLine(o.MFA)
	}
	return how
}

// LegacyLines returns the lines that make a legacy profile one with a session, whose token is renewed without the user; "" if the
// origin is none.
func LegacyLines(o *awssdk.Origin) string {
	if o.Kind != awssdk.OriginSSO || o.SSO.Name != "" {
		return ""
	}
	section := "[profile " + o.Profile + "]"
	if o.Profile == "default" {
		section = "[default]"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s has the old form of a profile for IAM Identity Center: its login ends after some hours and cannot be renewed.\n",
		section)
	fmt.Fprintf(&b, "In %s, put in place of sso_start_url and sso_region of %s:\n\n", o.Config, section)
	fmt.Fprintf(&b, "  sso_session = corp\n\nand add the section\n\n")
	fmt.Fprintf(&b, "  [sso-session corp]\n  sso_start_url = %s\n  sso_region = %s\n  sso_registration_scopes = %s\n",
		o.SSO.StartURL, o.SSO.Region, defaultScope)
	return printable.Text(b.String())
}
