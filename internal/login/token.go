package login

import (
	"crypto/sha1" // #nosec G505 -- a file's name, as every AWS tool makes it
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/files"
)

// maxFile bounds a file of the cache, in bytes.
const maxFile = 64 << 10

// soon is how long before its expiry a token no longer counts as valid: a call with it takes time, and clocks differ.
const soon = time.Minute

// Token is a token of AWS's cache, in the fields that all AWS tools share.
type Token struct {
	AccessToken  string
	ExpiresAt    time.Time
	RefreshToken string // "": a legacy profile's
	Client       Registration
	StartURL     string
	Region       string

	rest map[string]any // further fields, of other tools
}

// Registration is a client that Identity Center has registered. Its secret is worth nothing without a user's consent.
type Registration struct {
	ID, Secret string
	ExpiresAt  time.Time
}

// Valid reports whether the token can be used for a while.
func (t *Token) Valid(now time.Time) bool {
	return t.AccessToken != "" && now.Add(soon).Before(t.ExpiresAt)
}

// Renewable reports whether the token can be renewed without the user.
func (t *Token) Renewable(now time.Time) bool {
	return t.RefreshToken != "" && t.Client.ID != "" && t.Client.Secret != "" && now.Before(t.Client.ExpiresAt)
}

// The fields of a token's file.
const (
	fieldAccessToken = "accessToken"
	fieldExpires     = "expiresAt"
	fieldRefresh     = "refreshToken"
	fieldClientID    = "clientId"
	fieldSecret      = "clientSecret"
	fieldRegistered  = "registrationExpiresAt"
	fieldStartURL    = "startUrl"
	fieldRegion      = "region"
)

// UnmarshalJSON implements json.Unmarshaler.
func (t *Token) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &t.rest); err != nil {
		return err
	}
	take := func(field string) string {
		text, _ := t.rest[field].(string)
		delete(t.rest, field)
		return text
	}
	t.AccessToken, t.RefreshToken, t.StartURL, t.Region = take(fieldAccessToken), take(fieldRefresh), take(fieldStartURL), take(fieldRegion)
	t.Client.ID, t.Client.Secret = take(fieldClientID), take(fieldSecret)
	t.ExpiresAt, t.Client.ExpiresAt = parseTime(take(fieldExpires)), parseTime(take(fieldRegistered))
	return nil
}

// MarshalJSON implements json.Marshaler.
func (t Token) MarshalJSON() ([]byte, error) {
	out := make(map[string]any, len(t.rest)+8)
	for field, value := range t.rest {
		out[field] = value
	}
	for field, value := range map[string]string{
		fieldAccessToken: t.AccessToken, fieldRefresh: t.RefreshToken, fieldStartURL: t.StartURL, fieldRegion: t.Region,
		fieldClientID: t.Client.ID, fieldSecret: t.Client.Secret,
		fieldExpires: formatTime(t.ExpiresAt), fieldRegistered: formatTime(t.Client.ExpiresAt),
	} {
		if value != "" {
			out[field] = value
		}
	}
	return json.Marshal(out)
}

// formatTime returns a time in the form that the AWS CLI writes; "" for the zero time.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// parseTime reads a time. Old versions of the AWS CLI wrote UTC for Z. An unreadable time is zero, and so in the past.
func parseTime(text string) time.Time {
	if day, ok := strings.CutSuffix(text, "UTC"); ok {
		text = day + "Z"
	}
	t, _ := time.Parse(time.RFC3339, text)
	return t
}

// cacheFile returns the path of a file in the directory of a session's token. key is hashed.
func cacheFile(s awssdk.SSOSession, key string) (string, error) {
	token, err := s.TokenFile()
	if err != nil {
		return "", err
	}
	sum := sha1.Sum([]byte(key)) // #nosec G401 -- a file's name
	return filepath.Join(filepath.Dir(token), hex.EncodeToString(sum[:])+".json"), nil
}

// Cached returns a session's token in the cache, without regard to its expiry. A missing file, or one that is no token, gives the
// zero Token.
func Cached(s awssdk.SSOSession) (Token, error) {
	path, err := s.TokenFile()
	if err != nil {
		return Token{}, err
	}
	var t Token
	if err := readCache(path, &t); err != nil {
		return Token{}, err
	}
	return t, nil
}

// readCache reads a file of the cache. Another tool may have written anything: what is not JSON counts as missing.
func readCache(path string, into any) error {
	data, err := files.Read(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_ = json.Unmarshal(data, into) // the next login writes it anew
	return nil
}

// writeCache replaces a file of the cache.
func writeCache(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := files.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := files.Replace(path, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return private(path)
}

// private takes the rights of others from a file that another program may have made.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	if err := os.Chmod(path, info.Mode().Perm()&0o700); err != nil {
		return fmt.Errorf("take the rights of others from %s: %w", path, err)
	}
	return nil
}
