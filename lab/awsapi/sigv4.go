package awsapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	amzDate    = "20060102T150405Z"
	maxSkew    = 5 * time.Minute
	headerDate = "X-Amz-Date"
	headerTok  = "X-Amz-Security-Token"
	headerHash = "X-Amz-Content-Sha256"
)

// globalService is the service whose one endpoint is for all regions.
const globalService = "iam"

// authorization is a parsed Authorization header.
type authorization struct {
	accessKey, date, region, service string
	signedHeaders                    []string // lower case, as they came
	signature                        string
}

// parseAuthorization reads "AWS4-HMAC-SHA256 Credential=.../date/region/service/aws4_request, SignedHeaders=...,
// Signature=...".
func parseAuthorization(header string) (authorization, bool) {
	rest, ok := strings.CutPrefix(header, algorithm)
	if !ok {
		return authorization{}, false
	}
	var a authorization
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "Credential":
			f := strings.Split(value, "/")
			if len(f) != 5 || f[4] != "aws4_request" {
				return authorization{}, false
			}
			a.accessKey, a.date, a.region, a.service = f[0], f[1], f[2], f[3]
		case "SignedHeaders":
			a.signedHeaders = strings.Split(value, ";")
		case "Signature":
			a.signature = value
		}
	}
	ok = a.accessKey != "" && a.service != "" && len(a.signedHeaders) > 0 && a.signature != ""
	return a, ok
}

// Scope returns the access key and the region of a call's signature, unchecked; "" without one.
func Scope(r *http.Request) (accessKey, region string) {
	a, _ := parseAuthorization(r.Header.Get("Authorization"))
	return a.accessKey, a.region
}

// verifier checks signatures for one region.
type verifier struct {
	region     string
	identities *Directory
	now        func() time.Time
}

// verify returns the signer of the request. The caller has read the body already.
func (v *verifier) verify(r *http.Request, body []byte, auth authorization, p Protocol) (Identity, *Error) {
	id, ok := v.identities.Get(auth.accessKey)
	if !ok {
		return Identity{}, p.unknownKey()
	}
	if auth.region != v.region && auth.service != globalService {
		return Identity{}, p.common(errBadSignature, fmt.Sprintf(
			"Credential should be scoped to a valid region, not %q: this is %s.", auth.region, v.region))
	}
	signed, err := v.signingTime(r, auth, p)
	if err != nil {
		return Identity{}, err
	}
	token := r.Header.Get(headerTok)
	if subtle.ConstantTimeCompare([]byte(token), []byte(id.SessionToken)) != 1 {
		return Identity{}, p.unknownKey()
	}
	if !slices.Contains(auth.signedHeaders, "host") || !slices.Contains(auth.signedHeaders, "x-amz-date") ||
		(token != "" && !slices.Contains(auth.signedHeaders, "x-amz-security-token")) {
		return Identity{}, p.common(errBadSignature, "The signature must cover the host, the date and the security token.")
	}
	want, err2 := expectedSignature(r, body, auth, id, signed)
	if err2 != nil {
		return Identity{}, p.common(errInternal, err2.Error())
	}
	if subtle.ConstantTimeCompare([]byte(want), []byte(auth.signature)) != 1 {
		return Identity{}, p.mismatch()
	}
	if !id.Expires.IsZero() && !v.now().Before(id.Expires) {
		if p == EC2 {
			return Identity{}, p.common(errExpiredToken, "Request has expired.")
		}
		return Identity{}, p.common(errExpiredToken, "The security token included in the request is expired")
	}
	return id, nil
}

// signingTime returns the request's signing time, unless it is too far from now.
func (v *verifier) signingTime(r *http.Request, auth authorization, p Protocol) (time.Time, *Error) {
	t, err := time.Parse(amzDate, r.Header.Get(headerDate))
	if err != nil {
		return time.Time{}, p.common(errIncompleteSignature, "Date must be given as X-Amz-Date in the form YYYYMMDDTHHMMSSZ.")
	}
	if t.Format("20060102") != auth.date {
		return time.Time{}, p.common(errBadSignature,
			"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.")
	}
	now := v.now().UTC()
	switch at := t.Format(amzDate); {
	case t.Before(now.Add(-maxSkew)):
		return time.Time{}, p.common(errSkew, fmt.Sprintf("Signature expired: %s is now earlier than %s (%s - 5 min.)",
			at, now.Add(-maxSkew).Format(amzDate), now.Format(amzDate)))
	case t.After(now.Add(maxSkew)):
		return time.Time{}, p.common(errSkew, fmt.Sprintf(
			"Signature not yet current: %s is still later than %s (%s + 5 min.)",
			at, now.Add(maxSkew).Format(amzDate), now.Format(amzDate)))
	}
	return t, nil
}

// expectedSignature signs the received request as its sender must have done: over the named headers and the received body.
func expectedSignature(r *http.Request, body []byte, auth authorization, id Identity, at time.Time) (string, error) {
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	if h := r.Header.Get(headerHash); h != "" && h != hash {
		return "", nil // matches no signature
	}
	u := *r.URL
	u.Scheme, u.Host = "http", r.Host
	again, err := http.NewRequestWithContext(context.Background(), r.Method, u.String(), http.NoBody)
	if err != nil {
		return "", err
	}
	again.Host = r.Host
	for _, name := range auth.signedHeaders {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = int64(len(body)) // the signer reads it from here
		default:
			again.Header[http.CanonicalHeaderKey(name)] = slices.Clone(r.Header.Values(name))
		}
	}
	creds := aws.Credentials{AccessKeyID: id.AccessKey, SecretAccessKey: id.SecretKey, SessionToken: id.SessionToken}
	err = v4.NewSigner().SignHTTP(context.Background(), creds, again, hash, auth.service, auth.region, at)
	if err != nil {
		return "", err
	}
	redone, _ := parseAuthorization(again.Header.Get("Authorization"))
	return redone.signature, nil
}

func (p Protocol) unknownKey() *Error {
	if p == EC2 {
		return p.common(errUnknownKey, "AWS was not able to validate the provided access credentials")
	}
	return p.common(errUnknownKey, "The security token included in the request is invalid.")
}

func (p Protocol) mismatch() *Error {
	if p == EC2 {
		return p.common(errBadSignature, "AWS was not able to validate the provided access credentials")
	}
	return p.common(errBadSignature, "The request signature we calculated does not match the signature you provided. "+
		"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
}
