package numgen

import (
	"context"
	"encoding/binary"
	"strconv"
	"sync"
	"time"

	"nekoq/numgen/idgen"
	"nekoq/numgen/internal/table"
	"nekoq/services/command"
	"nekoq/services/errs"
)

// IDs gives n ids of a generator as texts, increasing.
func (s *Service) IDs(ctx context.Context, name string, n int) ([]string, error) {
	buf := getBuffer()
	defer putBuffer(buf)
	kind, packed, err := s.Append(ctx, (*buf)[:0], name, n)
	if err != nil {
		return nil, err
	}
	*buf = packed
	return kind.Texts(packed, n), nil
}

// AppendLines appends n ids as text, one a line, without a final newline.
func (s *Service) AppendLines(ctx context.Context, dst []byte, name string, n int) ([]byte, error) {
	buf := getBuffer()
	defer putBuffer(buf)
	kind, packed, err := s.Append(ctx, (*buf)[:0], name, n)
	if err != nil {
		return dst, err
	}
	*buf = packed
	return kind.AppendLines(dst, packed), nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// maxPooled keeps the buffer of a huge batch from living on, in bytes.
const maxPooled = 1 << 20

func getBuffer() *[]byte { return buffers.Get().(*[]byte) }

func putBuffer(b *[]byte) {
	if cap(*b) <= maxPooled {
		buffers.Put(b)
	}
}

// Append makes n ids of a generator and packs them onto dst; kind says how to
// read them. It is the hot path: with its lease in hand it touches no lock but
// the generator's and allocates nothing.
func (s *Service) Append(ctx context.Context, dst []byte, name string, n int) (kind idgen.Kind, packed []byte, err error) {
	h := s.cached(name)
	return s.appendIDs(ctx, dst, h, func() string { return name }, n)
}

// AppendRaw is Append for a name that is still in a request buffer.
func (s *Service) AppendRaw(ctx context.Context, dst, name []byte, n int) (kind idgen.Kind, packed []byte, err error) {
	h := s.cachedBytes(name)
	return s.appendIDs(ctx, dst, h, func() string { return string(name) }, n)
}

func (s *Service) appendIDs(ctx context.Context, dst []byte, h *handle, name func() string, n int) (idgen.Kind, []byte, error) {
	if err := s.CheckCount(n); err != nil {
		return 0, dst, err
	}
	if h == nil {
		var err error
		if h, err = s.lookup(ctx, name()); err != nil {
			return 0, dst, err
		}
	}
	out, err := s.issue(ctx, h, dst, n)
	if err != nil {
		s.metrics.failed(err)
		return 0, dst, err
	}
	s.metrics.issued(h.kind, n)
	return h.kind, out, nil
}

// CheckCount refuses a count outside of 1 to the batch limit.
func (s *Service) CheckCount(n int) error {
	if n < 1 || n > s.cfg.MaxBatch {
		return BadCount(strconv.Itoa(n), s.cfg.MaxBatch)
	}
	return nil
}

// BadCount is the answer to a count that is no number from 1 to limit.
func BadCount(value string, limit int) error {
	return errs.Invalid("count", value, "a number from 1 to "+strconv.Itoa(limit)+" (numgen.max_batch)")
}

func (s *Service) issue(ctx context.Context, h *handle, dst []byte, n int) ([]byte, error) {
	if h.template != nil {
		return s.issueFormat(ctx, h, dst, n)
	}
	switch {
	case h.stream != nil:
		return h.worker.Append(ctx, h.stream, dst, n)
	case h.segment != nil:
		return h.segment.Append(ctx, dst, n)
	}
	a, err := s.allocate(ctx, h, n)
	if err != nil {
		return dst, err
	}
	for i := range uint64(n) {
		dst = binary.BigEndian.AppendUint64(dst, a.First+i)
	}
	return dst, nil
}

// allocate takes n numbers of a sequence: one command, which carries the
// caller's request id, so that a retried request gets the same numbers.
func (s *Service) allocate(ctx context.Context, h *handle, n int) (table.Allocated, error) {
	a := table.Allocation{Element: h.element, N: uint64(n)}
	if h.template != nil {
		now := s.clock.Now()
		a.AtMS = uint64(max(now.UnixMilli(), 0))
		if a.Period = h.template.Period(now); a.Period != 0 {
			a.PeriodStart = uint64(max(h.template.PeriodStart(a.Period).Unix(), 0))
		}
	}
	res, err := s.propose(ctx, table.KindAllocate, a.Append(make([]byte, 0, 40)))
	if err != nil {
		return table.Allocated{}, err
	}
	return table.DecodeAllocated(res.Data)
}

// issueFormat makes the numbers behind a template and renders them. Dates are
// those of the number: the time in a timed id, and for a sequence the period
// that its numbers belong to.
func (s *Service) issueFormat(ctx context.Context, h *handle, dst []byte, n int) ([]byte, error) {
	t := h.template
	if h.behind == idgen.Sequence {
		a, err := s.allocate(ctx, h, n)
		if err != nil {
			return dst, err
		}
		at := time.UnixMilli(int64(a.AtMS))
		if t.Period(at) != a.Period {
			at = t.PeriodStart(a.Period) // another node has begun it already
		}
		for i := range uint64(n) {
			dst = t.AppendPacked(dst, idgen.Number{Lo: a.First + i}, at)
		}
		return dst, nil
	}
	buf := getBuffer()
	defer putBuffer(buf)
	var packed []byte
	var err error
	if h.stream != nil {
		packed, err = h.worker.Append(ctx, h.stream, (*buf)[:0], n)
	} else {
		packed, err = h.segment.Append(ctx, (*buf)[:0], n)
	}
	if err != nil {
		return dst, err
	}
	*buf = packed
	at := s.clock.Now()
	for {
		id, rest, ok := h.behind.Next(packed)
		if !ok {
			return dst, nil
		}
		num := idgen.Unpack(id)
		if h.stream != nil {
			at = h.layout.TimeOf(num)
		}
		dst, packed = t.AppendPacked(dst, num, at), rest
	}
}

func withoutRequestID(ctx context.Context) context.Context {
	if command.RequestIDFrom(ctx) == (command.RequestID{}) {
		return ctx
	}
	return command.NewContext(ctx, command.RequestID{})
}
