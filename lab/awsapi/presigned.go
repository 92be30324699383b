package awsapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Presigned describes a valid presigned GET request.
type Presigned struct {
	Service, Region string
	Host            string // with its port
	Now             time.Time
	MaxAge          time.Duration // longest lifetime that the request may have
	// Headers are signed besides the host, by their names in lower case.
	Headers map[string]string
}

// VerifyPresigned checks a presigned GET request, given without its scheme and body. It returns the signer's identity and the
// query. It follows the specification of Signature Version 4 and shares no code with the SDK, which signs.
func (d *Directory) VerifyPresigned(request string, want Presigned) (Identity, url.Values, error) {
	target, rawQuery, _ := strings.Cut(request, "?")
	host, path, _ := strings.Cut(target, "/")
	if host != want.Host {
		return Identity{}, nil, fmt.Errorf("it is for the host %q, not %q", host, want.Host)
	}
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return Identity{}, nil, fmt.Errorf("its query: %w", err)
	}
	for name, values := range query {
		if len(values) != 1 {
			return Identity{}, nil, fmt.Errorf("it has %s %d times", name, len(values))
		}
	}
	if a := query.Get("X-Amz-Algorithm"); a != algorithm {
		return Identity{}, nil, fmt.Errorf("its algorithm is %q", a)
	}
	credential := strings.Split(query.Get("X-Amz-Credential"), "/")
	if len(credential) != 5 {
		return Identity{}, nil, errors.New("its credential has not five parts")
	}
	signed, err := time.Parse(amzDate, query.Get(headerDate))
	if err != nil {
		return Identity{}, nil, fmt.Errorf("its date: %w", err)
	}
	scope := []string{signed.Format("20060102"), want.Region, want.Service, "aws4_request"}
	if !slices.Equal(credential[1:], scope) {
		return Identity{}, nil, fmt.Errorf("its scope is %q, not %q", credential[1:], scope)
	}
	seconds, err := strconv.Atoi(query.Get("X-Amz-Expires"))
	lifetime := time.Duration(seconds) * time.Second
	if err != nil || lifetime <= 0 || lifetime > want.MaxAge {
		return Identity{}, nil, fmt.Errorf("its lifetime is %q seconds", query.Get("X-Amz-Expires"))
	}
	if signed.After(want.Now.Add(maxSkew)) || !want.Now.Before(signed.Add(lifetime)) {
		return Identity{}, nil, fmt.Errorf("it is good from %s for %s; it is %s now", signed, lifetime, want.Now)
	}
	headers := maps.Clone(want.Headers)
	if headers == nil {
		headers = make(map[string]string)
	}
	headers["host"] = host
	names := slices.Sorted(maps.Keys(headers))
	if h := query.Get("X-Amz-SignedHeaders"); h != strings.Join(names, ";") {
		return Identity{}, nil, fmt.Errorf("it signs the headers %q", h)
	}
	id, ok := d.Get(credential[0])
	if !ok || subtle.ConstantTimeCompare([]byte(query.Get(headerTok)), []byte(id.SessionToken)) != 1 {
		return Identity{}, nil, errors.New("its credentials are not known")
	}
	if !id.Expires.IsZero() && !want.Now.Before(id.Expires) {
		return Identity{}, nil, errors.New("its credentials have expired")
	}
	signature := presignedSignature(id.SecretKey, scope, path, headers, signed, query)
	if subtle.ConstantTimeCompare([]byte(signature), []byte(query.Get("X-Amz-Signature"))) != 1 {
		return Identity{}, nil, errors.New("its signature is wrong")
	}
	return id, query, nil
}

// presignedSignature returns the signature that the request must have.
func presignedSignature(secret string, scope []string, path string, headers map[string]string, signed time.Time, query url.Values) string {
	var params []string
	for name, values := range query {
		if name != "X-Amz-Signature" {
			params = append(params, awsEscape(name)+"="+awsEscape(values[0]))
		}
	}
	slices.Sort(params)
	empty := sha256.Sum256(nil)
	names := slices.Sorted(maps.Keys(headers))
	lines := []string{"GET", "/" + path, strings.Join(params, "&")}
	for _, name := range names {
		lines = append(lines, name+":"+headers[name])
	}
	canonical := strings.Join(append(lines, "", strings.Join(names, ";"), hex.EncodeToString(empty[:])), "\n")
	hash := sha256.Sum256([]byte(canonical))
	toSign := strings.Join([]string{algorithm, signed.Format(amzDate), strings.Join(scope, "/"), hex.EncodeToString(hash[:])}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range append(slices.Clone(scope), toSign) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	return hex.EncodeToString(key)
}

// awsEscape escapes all but the unreserved characters of RFC 3986.
func awsEscape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
