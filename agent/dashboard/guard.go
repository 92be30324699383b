package dashboard

import (
	"embed"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
)

//go:embed assets
var assets embed.FS

// keyHeader carries the session's key. A page of another origin cannot send it: the browser's preflight fails.
const keyHeader = "Bastion-Key"

// headers are the headers of every answer.
var headers = map[string]string{
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
		"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
		"require-trusted-types-for 'script'; trusted-types 'none'",
	"Cache-Control":                "no-store",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), clipboard-read=()",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
}

// static maps paths to the page's files. They contain no secret, because any client may read them.
var static = map[string]struct{ file, mediaType string }{
	"/{$}":      {"index.html", "text/html; charset=utf-8"},
	"/app.js":   {"app.js", "text/javascript; charset=utf-8"},
	"/chart.js": {"chart.js", "text/javascript; charset=utf-8"},
	"/app.css":  {"app.css", "text/css; charset=utf-8"},
	"/icon.svg": {"icon.svg", "image/svg+xml"},
}

// handler returns the handler of all requests.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for path, f := range static {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			data, err := assets.ReadFile("assets/" + f.file)
			if err != nil {
				refuse(w, http.StatusNotFound, "there is no such page")
				return
			}
			w.Header().Set("Content-Type", f.mediaType)
			_, _ = w.Write(data) // the client may have gone
		})
	}
	mux.HandleFunc("POST /api/login", s.login)
	mux.HandleFunc("POST /api/logout", s.authed(s.logout))
	mux.HandleFunc("POST /api/open", s.authed(s.open))
	mux.HandleFunc("POST /api/close", s.authed(s.stop))
	mux.HandleFunc("GET /api/events", s.authed(s.events))
	return s.guard(mux)
}

// guard refuses requests that are neither from the dashboard's own page nor a visit to it.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		done, ok := s.begin()
		if !ok {
			refuse(w, http.StatusServiceUnavailable, "the dashboard is closed")
			return
		}
		defer done()
		if r.Host != s.addr {
			refuse(w, http.StatusMisdirectedRequest, "the dashboard is at "+s.addr+" and has no other name")
			return
		}
		if !s.isOwnPage(r) {
			refuse(w, http.StatusForbidden, "another page must not use the dashboard")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

// isOwnPage reports whether a request comes from the dashboard's page, or is a visit to it. Another origin of the same site is
// refused.
func (s *Server) isOwnPage(r *http.Request) bool {
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		// Browsers send the origin with each POST.
		return origin == "http://"+s.addr && (site == "" || site == "same-origin")
	}
	if origin != "" && origin != "http://"+s.addr {
		return false
	}
	switch site {
	case "", "same-origin":
		return true
	default: // a visit: typed, or from a terminal or another page; not a frame
		return r.URL.Path == "/" && r.Header.Get("Sec-Fetch-Mode") == "navigate" &&
			r.Header.Get("Sec-Fetch-Dest") == "document"
	}
}

// authed passes requests with a session to serve.
func (s *Server) authed(serve func(http.ResponseWriter, *http.Request, *session)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		found := s.access.session(r)
		if found == nil {
			refuse(w, http.StatusUnauthorized, "the session has ended; run bastion dashboard for another")
			return
		}
		serve(w, r, found)
	}
}

// login turns a token into a session.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Token string `json:"token"`
	}
	if !read(w, r, &in) {
		return
	}
	session, cookie, key := s.access.login(s.ctx, in.Token)
	if session == nil {
		refuse(w, http.StatusUnauthorized, "this address has been used, or is older than a minute; run bastion dashboard for another")
		return
	}
	setCookie(w, session, cookie, 0)
	answer(w, http.StatusOK, map[string]string{"key": key})
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request, session *session) {
	if !read(w, r, new(struct{})) {
		return
	}
	session.end()
	setCookie(w, session, "", -1)
	answer(w, http.StatusOK, struct{}{})
}

// setCookie sets a session's cookie until the browser closes. A negative age deletes it.
func setCookie(w http.ResponseWriter, s *session, value string, age int) {
	//nolint:gosec // not Secure: this is HTTP, and never leaves the machine
	http.SetCookie(w, &http.Cookie{
		Name: s.name, Value: value, Path: "/", MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

// read reads a request's JSON body. On a failure it answers and returns false.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	// Another page can post a form without a preflight, but not JSON.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "send application/json")
		return false
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("there is more than one value")
		}
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "not what is expected here: "+err.Error())
		return false
	}
	return true
}

func refuse(w http.ResponseWriter, code int, message string) {
	answer(w, code, map[string]api.Error{"error": {Kind: fail.Denied, Message: message}})
}

// answer sends JSON, with HTML's special characters escaped.
func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}
