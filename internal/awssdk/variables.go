package awssdk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/bastion-ssm/bastion/internal/files"
)

// sdkUse says how the agent treats a variable that the AWS SDK reads from its own process.
type sdkUse uint8

const (
	sdkHanded sdkUse = iota // the command hands it to the agent, which uses it as the SDK in the command's process would
	sdkAlone                // the SDK reads it only from its own process: a command that has it does not use the agent
	sdkShared               // a process reads it only once: a command with another value than the agent's does not use the agent
	sdkUnused               // it does not affect bastion's AWS calls
)

// sdkVariable is a variable that the SDK, or Go's HTTP and TLS under it, reads from its own process.
type sdkVariable struct {
	name   string
	use    sdkUse
	why    string                          // the reason, for all but sdkHanded
	path   bool                            // its value is a path
	option func(value string) (sdk, error) // for sdkHanded: the loader's option; nil: Env reads it itself
}

// sdk is an option of the SDK's loader.
type sdk = func(*awsconfig.LoadOptions) error

// servicesEndpoints is the prefix of the variables for single services' endpoints.
const servicesEndpoints = "AWS_ENDPOINT_URL_"

// sdkVariables has all variables that the SDK's modules read. TestVariablesOfTheSDK compares it with their source.
var sdkVariables = []sdkVariable{
	{name: envAccessKey},
	{name: envAccessKeyOld},
	{name: envSecretKey},
	{name: envSecretKeyOld},
	{name: envSessionToken},
	{name: envAccountID},
	{name: "AWS_PROFILE"},
	{name: "AWS_DEFAULT_PROFILE"},
	{name: "AWS_REGION"},
	{name: "AWS_DEFAULT_REGION"},
	{name: envConfigFile, path: true, option: func(v string) (sdk, error) {
		return awsconfig.WithSharedConfigFiles([]string{v}), nil
	}},
	{name: envCredentialsFile, path: true, option: func(v string) (sdk, error) {
		return awsconfig.WithSharedCredentialsFiles([]string{v}), nil
	}},
	{name: "AWS_RESTRICT_FILE_PERMISSIONS", option: func(v string) (sdk, error) {
		var mode aws.RestrictFilePermissions
		switch strings.ToLower(v) {
		case "user_read_write":
			mode = aws.RestrictFilePermissionsUserReadWrite
		case "unrestricted":
			mode = aws.RestrictFilePermissionsUnrestricted
		default:
			return nil, fmt.Errorf("neither user_read_write nor unrestricted")
		}
		return awsconfig.WithRestrictFilePermissions(mode), nil
	}},
	{name: "AWS_CA_BUNDLE", path: true, option: caBundle},
	{name: "AWS_ENDPOINT_URL", option: func(v string) (sdk, error) { return awsconfig.WithBaseEndpoint(v), nil }},
	{name: servicesEndpoints + "*"},
	{name: "AWS_USE_FIPS_ENDPOINT", option: eitherOr(
		awsconfig.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled), awsconfig.WithUseFIPSEndpoint(aws.FIPSEndpointStateDisabled))},
	{name: "AWS_USE_DUALSTACK_ENDPOINT", option: eitherOr(
		awsconfig.WithUseDualStackEndpoint(aws.DualStackEndpointStateEnabled),
		awsconfig.WithUseDualStackEndpoint(aws.DualStackEndpointStateDisabled))},
	{name: "AWS_RETRY_MODE", option: func(v string) (sdk, error) {
		mode, err := aws.ParseRetryMode(v)
		return awsconfig.WithRetryMode(mode), err
	}},
	{name: "AWS_MAX_ATTEMPTS", option: func(v string) (sdk, error) {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("not a number")
		}
		return awsconfig.WithRetryMaxAttempts(n), nil
	}},
	{name: "AWS_SDK_UA_APP_ID", option: func(v string) (sdk, error) { return awsconfig.WithAppID(v), nil }},
	{name: "AWS_AUTH_SCHEME_PREFERENCE", option: func(v string) (sdk, error) {
		return awsconfig.WithAuthSchemePreference(strings.FieldsFunc(v, func(r rune) bool { return strings.ContainsRune(", \t", r) })...), nil
	}},
	{name: "AWS_DISABLE_CLOCK_SKEW_CORRECTION", option: eitherOr(
		awsconfig.WithDisableClockSkewCorrection(aws.Bool(true)), awsconfig.WithDisableClockSkewCorrection(aws.Bool(false)))},
	{name: "AWS_EC2_METADATA_DISABLED", option: func(v string) (sdk, error) {
		state := imds.ClientDefaultEnableState
		switch strings.ToLower(v) {
		case "true":
			state = imds.ClientDisabled
		case "false":
			state = imds.ClientEnabled
		}
		return awsconfig.WithEC2IMDSClientEnableState(state), nil
	}},
	{name: "AWS_EC2_METADATA_SERVICE_ENDPOINT", option: func(v string) (sdk, error) { return awsconfig.WithEC2IMDSEndpoint(v), nil }},
	{name: "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", option: func(v string) (sdk, error) {
		var mode imds.EndpointModeState
		err := mode.SetFromString(v)
		return awsconfig.WithEC2IMDSEndpointMode(mode), err
	}},
	{name: envNoIMDSv1}, // see loadSDK
	{name: "HTTP_PROXY"},
	{name: "HTTPS_PROXY"},
	{name: "NO_PROXY"},

	{name: "AWS_CONTAINER_CREDENTIALS_FULL_URI", use: sdkAlone, why: "the credentials of a container"},
	{name: "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", use: sdkAlone, why: "the credentials of a container"},
	{name: "AWS_CONTAINER_AUTHORIZATION_TOKEN", use: sdkAlone, why: "the credentials of a container"},
	{name: envContainerToken, use: sdkAlone, why: "the credentials of a container"},
	{name: envWebIdentity, use: sdkAlone, why: "the credentials of a service account"},
	{name: "AWS_LOGIN_CACHE_DIRECTORY", use: sdkAlone, why: "the tokens of aws login are elsewhere"},
	{name: "AWS_DEFAULTS_MODE", use: sdkAlone, why: "auto looks at the process's surroundings"},
	{name: "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", use: sdkAlone, why: "the loader has no option for it"},
	{name: "AWS_NEW_RETRIES_2026", use: sdkAlone, why: "of the whole process"},
	{name: "AWS_ENABLE_DEFAULT_SOCKET_TIMEOUT_2026", use: sdkAlone, why: "of the whole process"},

	{name: envHome, use: sdkShared, why: "~/.aws has the profiles and the tokens of single sign-on"},
	{name: "SSL_CERT_FILE", use: sdkShared, why: "Go reads the system's certificates once"},
	{name: "SSL_CERT_DIR", use: sdkShared, why: "Go reads the system's certificates once"},
	{name: "GODEBUG", use: sdkShared, why: "TLS and the resolver go by it"},

	{name: envRoleARN, use: sdkUnused, why: "read with AWS_WEB_IDENTITY_TOKEN_FILE only"},
	{name: "AWS_ROLE_SESSION_NAME", use: sdkUnused, why: "read with AWS_WEB_IDENTITY_TOKEN_FILE only"},
	{name: "AWS_EXECUTION_ENV", use: sdkUnused, why: "a word of the user agent"},
	{name: "AWS_LAMBDA_FUNCTION_NAME", use: sdkUnused, why: "a header for functions that call themselves"},
	{name: "_X_AMZN_TRACE_ID", use: sdkUnused, why: "a header for functions that call themselves"},
	{name: "AWS_ENABLE_ENDPOINT_DISCOVERY", use: sdkUnused, why: "of other services"},
	{name: "AWS_ACCOUNT_ID_ENDPOINT_MODE", use: sdkUnused, why: "of other services"},
	{name: "AWS_S3_USE_ARN_REGION", use: sdkUnused, why: "of S3"},
	{name: "AWS_S3_DISABLE_MULTIREGION_ACCESS_POINTS", use: sdkUnused, why: "of S3"},
	{name: "AWS_S3_DISABLE_EXPRESS_SESSION_AUTH", use: sdkUnused, why: "of S3"},
	{name: "AWS_REQUEST_CHECKSUM_CALCULATION", use: sdkUnused, why: "of S3"},
	{name: "AWS_RESPONSE_CHECKSUM_VALIDATION", use: sdkUnused, why: "of S3"},
	{name: "AWS_DISABLE_REQUEST_COMPRESSION", use: sdkUnused, why: "of CloudWatch's metrics"},
	{name: "AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES", use: sdkUnused, why: "of CloudWatch's metrics"},
}

// eitherOr returns the option for a variable that is true or false.
func eitherOr(yes, no awsconfig.LoadOptionsFunc) func(string) (sdk, error) {
	return func(v string) (sdk, error) {
		switch strings.ToLower(v) {
		case "true":
			return yes, nil
		case "false":
			return no, nil
		}
		return nil, fmt.Errorf("neither true nor false")
	}
}

// caBundle returns an option that can be applied more than once, although the SDK reads its reader to the end.
func caBundle(path string) (sdk, error) {
	pem, err := files.ReadText(path)
	return func(o *awsconfig.LoadOptions) error {
		o.CustomCABundle = bytes.NewReader(pem)
		return nil
	}, err
}

// sdkVariableOf returns a variable's row. Names of proxy variables may be in lower case.
func sdkVariableOf(name string) (sdkVariable, bool) {
	if strings.HasPrefix(name, servicesEndpoints) {
		name = servicesEndpoints + "*"
	}
	if upper := strings.ToUpper(name); strings.HasSuffix(upper, "_PROXY") {
		name = upper
	}
	i := slices.IndexFunc(sdkVariables, func(v sdkVariable) bool { return v.name == name })
	if i < 0 {
		return sdkVariable{}, false
	}
	return sdkVariables[i], true
}

// UnsupportedEnv returns the names of the variables in environ, this process's, that only this process can use. With them, the
// agent cannot act for the command. profile is the setting's, or "".
func UnsupportedEnv(ctx context.Context, environ []string, profile string) []string {
	var out []string
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		v, ok := sdkVariableOf(name)
		switch {
		case !ok || value == "":
		case v.use == sdkAlone, profile != "" && v.name == envAccessKey && basedOnEnvironment(ctx, profile):
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// ProcessEnv returns a hash of each set variable that a process of this program reads only once.
func ProcessEnv() map[string]string {
	out := make(map[string]string)
	for _, v := range sdkVariables {
		if v.use != sdkShared {
			continue
		}
		value := os.Getenv(v.name)
		if v.name == envHome {
			value, _ = os.UserHomeDir() // other systems use another variable
		}
		if value != "" {
			sum := sha256.Sum256([]byte(value))
			out[v.name] = hex.EncodeToString(sum[:8])
		}
	}
	return out
}

// OtherEnv returns the names of the variables that differ between another process's ProcessEnv and this one's.
func OtherEnv(theirs map[string]string) []string {
	var out []string
	own := ProcessEnv()
	for _, v := range sdkVariables {
		if v.use == sdkShared && own[v.name] != theirs[v.name] {
			out = append(out, v.name)
		}
	}
	return out
}

// ForgetEnv removes the AWS SDK's variables from this process, which acts with other processes' variables. If a command lacks a
// variable, the result must not depend on the terminal or service manager that started this process.
func ForgetEnv() error {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if _, ok := sdkVariableOf(name); ok && strings.HasPrefix(name, "AWS_") {
			if err := os.Unsetenv(name); err != nil {
				return err
			}
		}
	}
	return nil
}
