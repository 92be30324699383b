package main

import (
	"context"
	"log/slog"
	"strings"

	"github.com/bastion-ssm/bastion/internal/config"
)

// connectionLog returns where forwards log what happens to connections: with --verbose the log, else the display, which
// shows a warning as a line, because a client whose connection failed sees no reason.
func (a *app) connectionLog(s config.Settings, p *progress) *slog.Logger {
	if s.Verbose || p == nil {
		return a.logger(s, p)
	}
	return slog.New(&noticeHandler{progress: p})
}

// noticeHandler shows warnings and errors: the message, the destination, the error and its next step.
type noticeHandler struct {
	progress *progress
	attrs    []slog.Attr
}

func (h *noticeHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn
}

func (h *noticeHandler) Handle(_ context.Context, r slog.Record) error {
	values := make(map[string]string)
	note := func(a slog.Attr) bool {
		values[a.Key] = a.Value.String()
		return true
	}
	for _, a := range h.attrs {
		note(a)
	}
	r.Attrs(note)
	text := r.Message
	if dest := values["dest"]; dest != "" && !strings.Contains(values["err"], dest) {
		text += " to " + dest
	}
	if err := values["err"]; err != "" {
		text += ": " + err
	}
	if next := values["next"]; next != "" {
		text += "\nhint: " + next
	}
	h.progress.Note(text)
	return nil
}

func (h *noticeHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &noticeHandler{progress: h.progress, attrs: append(append([]slog.Attr(nil), h.attrs...), attrs...)}
}

func (h *noticeHandler) WithGroup(string) slog.Handler { return h }
