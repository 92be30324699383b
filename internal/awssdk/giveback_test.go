package awssdk

import "testing"

// Files of the SDK's caches are known by their names and texts; nothing else is given to another user.
func TestTokenFiles(t *testing.T) {
	const sso, login = "a0f1490a20d0211c997b44bc357e1972deab8ae3.json", "a0f1490a20d0211c997b44bc357e1972deab8ae3a0f1490a20d0211c997b44bc.json"
	for _, tt := range []struct {
		name, text string
		want       bool
	}{
		{sso, `{"accessToken":"t","expiresAt":"2026-01-01T00:00:00Z","refreshToken":"r"}`, true},
		{login, `{"accessToken":{"accessKeyId":"A"},"tokenType":"aws_sigv4"}`, true},
		{"botocore-client-id-eu-central-1.json", `{"accessToken":"t"}`, false},
		{"shadow", `{"accessToken":"t"}`, false},
		{sso, "root:*:20000:0:99999:7:::\n", false},
		{sso, `{"password":"p"}`, false},
		{sso, `["accessToken"]`, false},
		{sso, "", false},
		{"../" + sso, `{"accessToken":"t"}`, false},
	} {
		if got := isToken(tt.name, []byte(tt.text)); got != tt.want {
			t.Errorf("%s %s: %v", tt.name, tt.text, got)
		}
	}
}
