package telemetry

import (
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// newHandler makes the handler of one output. replace may be nil, which takes
// slog's faster path: the access log has fixed attributes and needs no redaction.
func newHandler(w io.Writer, cfg Config, level slog.Leveler, replace func([]string, slog.Attr) slog.Attr) slog.Handler {
	opts := &slog.HandlerOptions{AddSource: cfg.LogSource, Level: level, ReplaceAttr: replace}
	if cfg.LogFormat == FormatJSON {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// Redacted stands for a secret in the log.
const Redacted = "[redacted]"

// Secret is a string that no log line and no %v shows. Reveal gives it.
type Secret string

// LogValue, String and GoString hide the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue(Redacted) }

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return Redacted
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// Reveal gives the secret itself.
func (s Secret) Reveal() string { return string(s) }

// redact is the second net: an attribute whose name says that it is a secret is
// not written, whatever its type.
func redact(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindString && IsSecretName(a.Key) {
		a.Value = slog.StringValue(Redacted)
	}
	return a
}

// IsSecretName tells whether a setting or attribute of that name is never to be
// shown: passwords, secrets, private keys and tokens that open something. Fencing
// and page tokens open nothing.
func IsSecretName(name string) bool {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		name = name[i+1:]
	}
	switch name {
	case "password", "secret", "token", "authorization", "cookie", "private_key", "api_key", "passphrase":
		return true
	case "fencing_token", "page_token", "next_page_token":
		return false
	}
	return strings.HasSuffix(name, "_password") || strings.HasSuffix(name, "_secret") || strings.HasSuffix(name, "_token")
}

// lockedWriter makes one writer out of one that two handlers share.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// lineBufferSize is how many bytes of lines are gathered before a write.
const lineBufferSize = 32 << 10

// LineBuffer gathers lines and writes them together: when the buffer is full, or
// when the oldest line is delay old. It has no goroutine while it is empty.
// After Close it writes through.
type LineBuffer struct {
	mu     sync.Mutex
	w      io.Writer
	delay  time.Duration
	buf    []byte
	timer  *time.Timer
	closed bool
}

// NewLineBuffer gathers lines for w.
func NewLineBuffer(w io.Writer, delay time.Duration) *LineBuffer {
	return &LineBuffer{w: w, delay: delay, buf: make([]byte, 0, 4<<10)}
}

// Write takes one or more whole lines.
func (b *LineBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return b.w.Write(p)
	}
	if len(b.buf)+len(p) > lineBufferSize {
		if err := b.flush(); err != nil {
			return 0, err
		}
	}
	if len(b.buf) == 0 {
		if b.timer == nil {
			b.timer = time.AfterFunc(b.delay, func() { _ = b.Flush() })
		} else {
			b.timer.Reset(b.delay)
		}
	}
	b.buf = append(b.buf, p...)
	return len(p), nil
}

// Flush writes what is gathered.
func (b *LineBuffer) Flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flush()
}

func (b *LineBuffer) flush() error {
	if b.timer != nil {
		b.timer.Stop()
	}
	if len(b.buf) == 0 {
		return nil
	}
	_, err := b.w.Write(b.buf)
	b.buf = b.buf[:0]
	return err
}

// Close flushes; later lines are written through.
func (b *LineBuffer) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.flush()
}
