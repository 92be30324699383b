package login

import (
	"fmt"
	"html"
	"net/http"

	"github.com/bastion-ssm/bastion/internal/printable"
)

// page is what the browser shows at the end.
type page struct{ title, text string }

var (
	pageDone    = page{"Signed in", "You are signed in to AWS. You may close this window and go back to the terminal."}
	pageUsed    = page{"Already used", "This login has its answer already. Go back to the terminal; if it asks for a login, start another one there."}
	pageForeign = page{"Refused", "This answer does not belong to the login that is waiting, and was refused. Finish the login in the window that bastion opened."}
)

// pageFailed returns the page of a failed login.
func pageFailed(err error) page {
	return page{"Not signed in", "The login has failed: " + printable.OneLine(err.Error()) + ". Go back to the terminal and try again."}
}

// show writes a page. It loads nothing and runs nothing, and no other site learns its address, which has the code.
func show(w http.ResponseWriter, status int, p page) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Connection", "close")
	w.WriteHeader(status)
	const form = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">` +
		`<title>%[1]s - bastion</title><style>body{font:1.1em/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;` +
		`color-scheme:light dark}</style><h1>%[1]s</h1><p>%[2]s</p></html>` + "\n"
	_, _ = fmt.Fprintf(w, form, html.EscapeString(p.title), html.EscapeString(p.text)) // a browser that has gone needs none
}
