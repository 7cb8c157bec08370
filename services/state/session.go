package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"

	"nekoq/services/command"
	"nekoq/services/errs"
)

// The state's own tables.
const (
	tableSessions TableID = 1 // session id (8 bytes) → encoded session
	tableSystem   TableID = 2 // name → value; cluster_version
)

// The state's own kinds.
const (
	KindOpenSession    command.Kind = 0x0001
	KindExpireSessions command.Kind = 0x0002
	KindCloseSession   command.Kind = 0x0003
	KindClusterVersion command.Kind = 0x0004
)

// Limits of sessions. They change outcomes, so they are constants of cluster
// version 1 and not configuration.
const (
	MaxSessions       = 65536
	MaxSessionResults = 4096 // outstanding results of one session
	firstVersion      = 1
)

// outcome is the kept result of one request.
type outcome struct {
	seq      uint64
	revision uint64
	changed  bool
	data     []byte
	err      *errs.Error
}

// session is one client's window of results (Ongaro, Consensus, 6.3): those of
// seq >= acked, in order of seq.
type session struct {
	id      uint64
	lastUse int64 // replicated clock, Unix nanoseconds
	acked   uint64
	results []outcome
	dirty   bool
}

// find returns the place of seq in s.results and whether it is there. Requests
// come nearly in order, so it looks at the end first.
func (s *session) find(seq uint64) (int, bool) {
	n := len(s.results)
	if n == 0 || s.results[n-1].seq < seq {
		return n, false
	}
	return sort.Find(n, func(i int) int {
		switch at := s.results[i].seq; {
		case seq < at:
			return -1
		case seq > at:
			return 1
		}
		return 0
	})
}

// forget drops the results below acked.
func (s *session) forget(acked uint64) {
	if acked <= s.acked {
		return
	}
	s.acked = acked
	n, _ := s.find(acked)
	if n > 0 {
		clear(s.results[:n]) // let go of the data
		s.results = s.results[n:]
	}
}

// sessionTable is all sessions, decoded, owned by the apply goroutine. They
// become rows of tableSessions only when an overlay is handed to the committer
// and before a content hash, so a request costs no row of its own.
type sessionTable struct {
	byID  map[uint64]*session
	dirty []*session
}

func (t *sessionTable) touch(s *session) {
	if !s.dirty {
		s.dirty = true
		t.dirty = append(t.dirty, s)
	}
}

// load reads every session from r.
func (t *sessionTable) load(r Reader) error {
	t.byID, t.dirty = make(map[uint64]*session), nil
	var err error
	r.Scan(tableSessions, nil, nil, func(k, v []byte) bool {
		var s *session
		if s, err = decodeSession(k, v); err != nil {
			return false
		}
		t.byID[s.id] = s
		return true
	})
	return err
}

// materialize turns the sessions that changed into rows of o. The result is a
// function of the log, not of when it is called.
func (t *sessionTable) materialize(o *overlay, slot int) {
	for _, s := range t.dirty {
		s.dirty = false
		if t.byID[s.id] == s { // not removed meanwhile
			o.put(slot, sessionKey(s.id), s.encode())
		}
	}
	t.dirty = t.dirty[:0]
}

func sessionKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// begin looks a request up. It returns the first answer of a request that was
// carried out before, or a refusal, or neither: then the command is to be
// carried out and finish called.
func (m *Machine) beginRequest(cmd *command.Command) (s *session, first *outcome, refused *errs.Error) {
	if cmd.Session == 0 {
		return nil, nil, nil
	}
	s = m.sessions.byID[cmd.Session]
	if s == nil {
		return nil, nil, errs.New(errs.SessionExpired, "the client session %d is unknown or expired", cmd.Session)
	}
	if cmd.Seq == 0 {
		return nil, nil, errs.Invalid("seq", cmd.Seq, "1 or more")
	}
	m.sessions.touch(s)
	s.lastUse = m.meta.time
	s.forget(cmd.Acked)
	if cmd.Seq < s.acked {
		return nil, nil, errs.New(errs.SessionExpired,
			"request %d of session %d was acknowledged by the client and its result is forgotten", cmd.Seq, s.id)
	}
	if i, ok := s.find(cmd.Seq); ok {
		return s, &s.results[i], nil
	}
	if len(s.results) >= MaxSessionResults {
		return nil, nil, errs.New(errs.TooManyRequests,
			"session %d has %d results that the client has not acknowledged; the limit is %d",
			s.id, len(s.results), MaxSessionResults)
	}
	return s, nil, nil
}

// finishRequest keeps the answer of a request for its retries.
func (m *Machine) finishRequest(s *session, seq uint64, r *Result) {
	if m.sessions.byID[s.id] != s {
		return // the command closed its own session
	}
	o := outcome{seq: seq, revision: r.Revision, changed: r.Changed, data: slices.Clone(r.Data)}
	if r.Err != nil {
		o.err = r.Err.(*errs.Error)
	}
	i, _ := s.find(seq)
	s.results = slices.Insert(s.results, i, o)
}

const sessionFormat = 1

func (s *session) encode() []byte {
	size := 32
	for i := range s.results {
		size += 24 + len(s.results[i].data)
	}
	b := make([]byte, 0, size)
	b = append(b, sessionFormat)
	b = binary.AppendVarint(b, s.lastUse)
	b = binary.AppendUvarint(b, s.acked)
	b = binary.AppendUvarint(b, uint64(len(s.results)))
	for i := range s.results {
		b = s.results[i].append(b)
	}
	return b
}

const (
	outcomeChanged = 1 << 0
	outcomeData    = 1 << 1
	outcomeError   = 1 << 2
)

func (o *outcome) append(b []byte) []byte {
	b = binary.AppendUvarint(b, o.seq)
	var flags byte
	if o.changed {
		flags |= outcomeChanged
	}
	if o.data != nil {
		flags |= outcomeData
	}
	if o.err != nil {
		flags |= outcomeError
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, o.revision)
	if o.data != nil {
		b = appendString(b, string(o.data))
	}
	if o.err != nil {
		b = appendString(b, string(o.err.Code))
		b = appendString(b, o.err.Message)
		b = binary.AppendUvarint(b, uint64(len(o.err.Details)))
		for _, d := range o.err.Details {
			for _, s := range [4]string{d.Field, d.Value, d.Limit, d.Help} {
				b = appendString(b, s)
			}
		}
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errSessionRow = errors.New("a session row is damaged")

// fields reads what the append functions wrote; the first failure sticks.
type fields struct {
	buf []byte
	bad bool
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.buf)
	if n <= 0 {
		f.bad, f.buf = true, nil
		return 0
	}
	f.buf = f.buf[n:]
	return v
}

func (f *fields) varint() int64 {
	u := f.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (f *fields) byte() byte {
	if len(f.buf) == 0 {
		f.bad = true
		return 0
	}
	b := f.buf[0]
	f.buf = f.buf[1:]
	return b
}

func (f *fields) string() string {
	n := f.uvarint()
	if n > uint64(len(f.buf)) {
		f.bad, f.buf = true, nil
		return ""
	}
	s := string(f.buf[:n])
	f.buf = f.buf[n:]
	return s
}

func decodeSession(key, value []byte) (*session, error) {
	if len(key) != 8 {
		return nil, fmt.Errorf("%w: a key of %d bytes", errSessionRow, len(key))
	}
	f := fields{buf: value}
	if format := f.byte(); format != sessionFormat {
		return nil, fmt.Errorf("%w: format %d", errSessionRow, format)
	}
	s := &session{id: binary.BigEndian.Uint64(key), lastUse: f.varint(), acked: f.uvarint()}
	n := f.uvarint()
	if n > MaxSessionResults {
		return nil, fmt.Errorf("%w: %d results", errSessionRow, n)
	}
	s.results = make([]outcome, 0, n)
	for range n {
		s.results = append(s.results, f.outcome())
	}
	if f.bad || len(f.buf) != 0 {
		return nil, errSessionRow
	}
	return s, nil
}

func (f *fields) outcome() outcome {
	o := outcome{seq: f.uvarint()}
	flags := f.byte()
	o.changed = flags&outcomeChanged != 0
	o.revision = f.uvarint()
	if flags&outcomeData != 0 {
		o.data = []byte(f.string())
	}
	if flags&outcomeError != 0 {
		o.err = errs.New(errs.Code(f.string()), "%s", f.string())
		n := f.uvarint()
		if n > uint64(len(f.buf)) {
			f.bad = true
			return o
		}
		for range n {
			o.err.Details = append(o.err.Details,
				errs.Detail{Field: f.string(), Value: f.string(), Limit: f.string(), Help: f.string()})
		}
	}
	return o
}

// Sessions is the number of client sessions.
func (m *Machine) Sessions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.sessions.byID)
}
