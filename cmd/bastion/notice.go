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

// noticeHandler shows warnings and errors: the message, then the values of its attributes.
type noticeHandler struct {
	progress *progress
	attrs    []slog.Attr
}

func (h *noticeHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn
}

func (h *noticeHandler) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	hint := ""
	add := func(a slog.Attr) bool {
		switch v := a.Value.String(); {
		case a.Key == "next":
			hint = v
		case v != "" && !strings.Contains(text, v):
			text += ": " + v
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	if hint != "" {
		text += "\nhint: " + hint
	}
	h.progress.Note(text)
	return nil
}

func (h *noticeHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &noticeHandler{progress: h.progress, attrs: append(append([]slog.Attr(nil), h.attrs...), attrs...)}
}

func (h *noticeHandler) WithGroup(string) slog.Handler { return h }
