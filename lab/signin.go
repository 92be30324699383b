package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// signin is the AWS Sign-In service, as far as the sessions of `aws login` need it: it renews their tokens. A renewal carries a proof
// that its sender has the session's key (DPoP, RFC 9449).
type signin struct {
	site
	now   func() time.Time
	url   func() string
	life  time.Duration // of credentials
	issue func(expires time.Time) (awsapi.Identity, error)

	mu       sync.Mutex
	sessions map[string]*loginSession // by refresh token
	renewals int
}

// loginSession is a session of `aws login`.
type loginSession struct {
	key  *ecdsa.PublicKey
	over bool
}

// loginLife is the life of the credentials that a session of `aws login` gives.
const loginLife = 15 * time.Minute

// loginClient is the id of the AWS CLI as a client of the service.
func (s site) loginClient() string {
	return "arn:" + s.partition().ID + ":signin:::devtools/same-device"
}

const loginTokenType = "urn:aws:params:oauth:token-type:access_token_sigv4" // #nosec G101 -- a type's name

// Login makes a session of `aws login` for the user lab, and returns the file that the AWS CLI would write.
func (l *Lab) Login() (file []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	s := l.signin
	s.mu.Lock()
	defer s.mu.Unlock()
	id, refresh, err := s.next(&loginSession{key: &key.PublicKey})
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"accessToken": map[string]any{
			"accessKeyId": id.AccessKey, "secretAccessKey": id.SecretKey, "sessionToken": id.SessionToken, "accountId": id.Account,
			"expiresAt": id.Expires.UTC().Format(time.RFC3339Nano),
		},
		"tokenType": loginTokenType, "refreshToken": refresh, "clientId": l.loginClient(),
		"dpopKey": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})),
	})
}

// LoginRenewals returns how often sessions of `aws login` were renewed.
func (l *Lab) LoginRenewals() int {
	l.signin.mu.Lock()
	defer l.signin.mu.Unlock()
	return l.signin.renewals
}

// EndLogins ends the sessions of `aws login`.
func (l *Lab) EndLogins() {
	l.signin.mu.Lock()
	defer l.signin.mu.Unlock()
	for _, s := range l.signin.sessions {
		s.over = true
	}
}

// next makes credentials and a refresh token. The caller holds the lock.
func (s *signin) next(of *loginSession) (id awsapi.Identity, refresh string, err error) {
	if id, err = s.issue(s.now().Add(s.life)); err != nil {
		return id, "", err
	}
	refresh = "lab-login-refresh-" + randomHex(32)
	s.sessions[refresh] = of
	return id, refresh, nil
}

// ServeHTTP answers CreateOAuth2Token with a refresh token.
func (s *signin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct{ ClientId, GrantType, RefreshToken string }
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdminBody)).Decode(&in)
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.sessions[in.RefreshToken]
	switch {
	case err != nil || in.GrantType != "refresh_token" || in.ClientId != s.loginClient():
		s.write(w, http.StatusBadRequest, map[string]any{"__type": "ValidationException", "error": "INVALID_REQUEST", "message": "Invalid request"})
		return
	case session == nil || session.over:
		s.write(w, http.StatusUnauthorized, map[string]any{"__type": "AccessDeniedException", "error": "TOKEN_EXPIRED", "message": "The token has expired"})
		return
	case !proves(r.Header.Get("DPoP"), session.key, s.url()+r.URL.Path):
		s.write(w, http.StatusBadRequest, map[string]any{"__type": "ValidationException", "error": "INVALID_REQUEST", "message": "Invalid DPoP proof"})
		return
	}
	id, refresh, err := s.next(session)
	if err != nil {
		s.write(w, http.StatusInternalServerError, map[string]any{"__type": "InternalServerException", "error": "server_error", "message": err.Error()})
		return
	}
	s.renewals++
	delete(s.sessions, in.RefreshToken)
	s.write(w, http.StatusOK, map[string]any{
		"accessToken": map[string]string{"accessKeyId": id.AccessKey, "secretAccessKey": id.SecretKey, "sessionToken": id.SessionToken},
		"tokenType":   loginTokenType, "expiresIn": max(1, int(s.life.Seconds())), "refreshToken": refresh,
	})
}

func (s *signin) write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone needs none
}

// proves reports whether a proof is signed with key, for a POST to an address.
func proves(proof string, key *ecdsa.PublicKey, address string) bool {
	parts := strings.Split(proof, ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || len(signature) != 64 {
		return false
	}
	var claims struct{ Htm, Htu string }
	if json.Unmarshal(payload, &claims) != nil || claims.Htm != http.MethodPost || claims.Htu != address {
		return false
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	return ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
}
