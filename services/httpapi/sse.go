package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"nekoq/services/errs"
)

// StreamType is the content type of an event stream.
const StreamType = "text/event-stream"

// Event is one server-sent event.
type Event struct {
	ID   uint64 // the revision to resume after; 0 for none
	Mark string // instead of ID, where a revision alone does not say what the reader has
	Type string // "event:" line; "" for the default, message
	Data any    // []byte and json.RawMessage go out as they are (one line of JSON), all else is marshalled
}

// WantsStream tells whether the client asks for an event stream.
func WantsStream(c *gin.Context) bool {
	return strings.Contains(c.GetHeader("Accept"), StreamType)
}

// ResumeFrom gives the revision after which a stream is to go on: that of
// Last-Event-ID (a browser that reconnects), else of ?revision=.
func ResumeFrom(c *gin.Context) (revision uint64, ok bool, err error) {
	field, v := "Last-Event-ID", c.GetHeader("Last-Event-ID")
	if v == "" {
		field, v = "revision", c.Query("revision")
	}
	if v == "" {
		return 0, false, nil
	}
	revision, err = strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, false, errs.Invalid(field, v, "a number from 0 to 18446744073709551615")
	}
	return revision, true, nil
}

// Stream answers with server-sent events until next fails, the client goes
// away, or the server drains. next blocks for at least one event and must be
// callable again after its context ended: that is how heartbeats are sent
// without a second goroutine. Its last error goes to the client as an event of
// type "error" whose data is the problem document. A reader that takes longer
// than http.stream_write_timeout for one write is cut off.
func Stream(c *gin.Context, next func(ctx context.Context) ([]Event, error)) {
	r := requestOf(c.Request.Context())
	if r == nil {
		Fail(c, errs.New(errs.Internal, "internal error"))
		return
	}
	ctx, cancel, err := waiting(c.Request.Context())
	if err != nil {
		Fail(c, err)
		return
	}
	defer cancel()
	h := c.Writer.Header()
	h.Set("Content-Type", StreamType)
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	c.Writer.WriteHeader(http.StatusOK)
	if c.Request.Method == http.MethodHead {
		return // the header is all there is to tell, and a stream has no end to wait for
	}
	out := &stream{c: c, rc: http.NewResponseController(c.Writer), timeout: r.srv.cfg.StreamWriteTimeout}
	defer func() { _ = out.rc.SetWriteDeadline(time.Time{}) }()
	// The first bytes tell the client, and every proxy between, that it is on.
	out.buf = append(out.buf, ": open\n\n"...)
	if out.flush() != nil {
		return
	}
	for {
		idle, stop := context.WithTimeout(ctx, r.srv.cfg.StreamHeartbeat)
		events, err := next(idle)
		quiet := err != nil && idle.Err() != nil && isContextEnd(err)
		stop()
		for i := range events {
			if mErr := out.add(&events[i]); mErr != nil {
				err = errs.New(errs.Internal, "internal error").Wrap(mErr)
				break
			}
		}
		switch {
		case ctx.Err() != nil:
			out.end(r.problem(context.Cause(ctx), r.path))
			return
		case quiet:
			out.buf = append(out.buf, ": still here\n\n"...)
		case err != nil:
			out.end(r.problem(err, r.path))
			return
		}
		if out.flush() != nil {
			return
		}
	}
}

// stream builds events in one buffer and writes a batch with one call.
type stream struct {
	c       *gin.Context
	rc      *http.ResponseController
	timeout time.Duration
	buf     []byte
}

func (s *stream) add(e *Event) error {
	var data []byte
	switch d := e.Data.(type) {
	case []byte:
		data = d
	case json.RawMessage:
		data = d
	default:
		var err error
		if data, err = json.Marshal(d); err != nil {
			return err
		}
	}
	if e.Mark != "" {
		s.buf = append(append(append(s.buf, "id: "...), e.Mark...), '\n')
	} else if e.ID != 0 {
		s.buf = append(strconv.AppendUint(append(s.buf, "id: "...), e.ID, 10), '\n')
	}
	if e.Type != "" {
		s.buf = append(append(append(s.buf, "event: "...), e.Type...), '\n')
	}
	s.buf = append(append(append(s.buf, "data: "...), data...), "\n\n"...)
	return nil
}

func (s *stream) flush() error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(s.timeout))
	if len(s.buf) > 0 {
		if _, err := s.c.Writer.Write(s.buf); err != nil {
			return err
		}
		if cap(s.buf) > 256<<10 {
			s.buf = nil // one large batch must not stay with an idle watcher
		}
		s.buf = s.buf[:0]
	}
	return s.rc.Flush()
}

func (s *stream) end(p *Problem) {
	_ = s.add(&Event{Type: "error", Data: p})
	_ = s.flush()
}
