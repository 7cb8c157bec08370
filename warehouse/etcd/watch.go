package etcd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/grpcserver"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
	"nekoq/warehouse/etcd/internal/table"
)

// noWatch is the id of a watch that was refused, and of progress for all.
const noWatch = -1

// The reasons of a refused watch, as etcd words them.
const (
	reasonEmptyRange = "mvcc: watcher range is empty"
	reasonDuplicate  = "mvcc: duplicate watch ID provided on the WatchStream"
)

// watchStream is one stream with any number of watches. mu covers the table of
// watches and sending, so that what a watch gives always follows its "created" and
// nothing follows its "cancelled".
type watchStream struct {
	door   *Door
	stream pb.Watch_WatchServer
	ctx    context.Context
	who    access // as of the stream's first watch
	known  bool
	set    *warehouse.Watches

	mu      sync.Mutex
	watches map[int64]*watched
	nextID  int64
	// all is the pending request for progress of all watches: those that have not
	// answered yet, and the lowest revision of those that have.
	all    map[int64]struct{}
	allRev uint64
	asked  int // further requests that came meanwhile
}

type watched struct {
	key, end []byte
	rev      uint64 // auth revision under which it was allowed
	fragment bool
	progress bool // wants to be told its progress
	quiet    bool // had no event since the last tick
	waiting  bool // Progress was asked for it alone
}

// Watch implements etcd's Watch.
func (s *Door) Watch(stream pb.Watch_WatchServer) error {
	s.metrics.streams.Inc()
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(rpctypes.ErrGRPCStopped) })()
	if err := s.requireLeader(ctx, cancel); err != nil {
		return err
	}
	w := &watchStream{door: s, stream: stream, ctx: ctx, set: s.store.NewWatches(), watches: map[int64]*watched{}}
	defer w.leave()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { cancel(w.sendAll()) })
	wg.Go(func() { w.tick() })
	got := make(chan error, 1)
	go func() { // ends with the stream, which ends after this returns
		if err := w.receiveAll(); !errors.Is(err, io.EOF) {
			got <- err // a client that says nothing more goes on listening
		}
	}()
	select {
	case err := <-got:
		return w.ended(err)
	case <-ctx.Done():
		return w.ended(context.Cause(ctx))
	}
}

// leave ends all watches.
func (w *watchStream) leave() {
	w.set.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.door.metrics.watches.Sub(float64(len(w.watches)))
	clear(w.watches)
}

func (w *watchStream) ended(err error) error {
	if err == nil {
		return nil
	}
	gone := w.stream.Context().Err()
	if errors.Is(gone, context.DeadlineExceeded) {
		return status.FromContextError(gone).Err()
	}
	if gone != nil || errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return grpcError(context.Background(), err)
}

func (w *watchStream) receiveAll() error {
	for {
		req, err := w.stream.Recv()
		if err != nil {
			return err
		}
		switch r := req.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			if r.CreateRequest != nil {
				err = w.create(r.CreateRequest)
			}
		case *pb.WatchRequest_CancelRequest:
			if r.CancelRequest != nil {
				err = w.cancel(r.CancelRequest.WatchId)
			}
		case *pb.WatchRequest_ProgressRequest:
			if r.ProgressRequest != nil {
				w.askAll()
			}
		}
		if err != nil {
			return err
		}
	}
}

func (w *watchStream) create(r *pb.WatchCreateRequest) error {
	if len(r.Key) == 0 {
		r.Key = []byte{0} // the least key
	}
	users, uerr := w.users() // may ask the leader: events are not held up by that
	w.mu.Lock()
	defer w.mu.Unlock()
	// The header's revision is read before the watch begins: a client that resumes
	// there cannot miss anything.
	h, err := w.door.headNow(w.ctx)
	if err != nil {
		return err
	}
	rev, reason := w.permitted(r, users, uerr)
	if reason == "" {
		reason = w.choose(r)
	}
	if reason != "" {
		return w.stream.Send(&pb.WatchResponse{Header: h, WatchId: noWatch, Created: true, Canceled: true, CancelReason: reason})
	}
	from, err := w.set.Add(w.ctx, r.WatchId, watchRequest(r))
	if err != nil {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		return w.stream.Send(&pb.WatchResponse{Header: h, WatchId: noWatch, Created: true, Canceled: true, CancelReason: text(grpcError(w.ctx, err))})
	}
	if r.StartRevision == 0 { // a client takes what follows the header for complete
		h = w.door.header(from)
	}
	w.door.metrics.watches.Inc()
	w.watches[r.WatchId] = &watched{key: r.Key, end: r.RangeEnd, rev: rev, fragment: r.Fragment, progress: r.ProgressNotify, quiet: true}
	if w.all != nil { // clients take the answer for this one too
		w.all[r.WatchId] = struct{}{}
		w.set.Progress(r.WatchId)
	}
	return w.stream.Send(&pb.WatchResponse{Header: h, WatchId: r.WatchId, Created: true})
}

// users gives users and roles, as new as the request once auth is on.
func (w *watchStream) users() (*table.Auth, error) {
	if a := w.door.auth(); !a.Enabled {
		return a, nil
	}
	return w.door.authNow(w.ctx)
}

// permitted gives the auth revision that was looked at, or why not. The range is
// judged as it was sent: an open end is an open end.
func (w *watchStream) permitted(r *pb.WatchCreateRequest, a *table.Auth, err error) (rev uint64, reason string) {
	if r.StartRevision < 0 {
		return 0, text(rpctypes.ErrCompacted)
	}
	if err != nil {
		return 0, text(err)
	}
	// A stream lives longer than a token: who asks is settled by its first watch.
	x := w.who.again(a)
	if !w.known || a.Enabled && x.user == "" {
		if x, err = w.door.identify(w.ctx, a); err != nil {
			return 0, text(err)
		}
		w.who, w.known = x, true
	}
	if err = x.read(r.Key, r.RangeEnd); err == nil {
		err = w.door.allow(w.ctx, x.user, auth.Watch, "kv", r.Key, r.RangeEnd)
	}
	if err != nil {
		return 0, text(err)
	}
	return a.Revision, ""
}

// choose checks range and id, and picks an id where none was asked for.
func (w *watchStream) choose(r *pb.WatchCreateRequest) string {
	open := len(r.RangeEnd) == 1 && r.RangeEnd[0] == 0
	if len(r.RangeEnd) > 0 && !open && bytes.Compare(r.Key, r.RangeEnd) >= 0 {
		return reasonEmptyRange
	}
	if r.WatchId != 0 {
		if _, taken := w.watches[r.WatchId]; taken {
			return reasonDuplicate
		}
		return ""
	}
	for {
		_, taken := w.watches[w.nextID]
		r.WatchId = w.nextID
		w.nextID++
		if !taken {
			return ""
		}
	}
}

func watchRequest(r *pb.WatchCreateRequest) *api.WatchRequest {
	out := &api.WatchRequest{Start: r.Key, Prev: r.PrevKv, Now: r.StartRevision == 0, From: uint64(r.StartRevision)}
	switch {
	case len(r.RangeEnd) == 0:
		out.Exact = true
	case len(r.RangeEnd) == 1 && r.RangeEnd[0] == 0: // no bound
	default:
		out.End = r.RangeEnd
	}
	if bytes.Equal(out.Start, []byte{0}) && !out.Exact {
		out.Start = nil
	}
	for _, f := range r.Filters {
		switch f {
		case pb.WatchCreateRequest_NOPUT:
			out.NoPut = true
		case pb.WatchCreateRequest_NODELETE:
			out.NoDelete = true
		}
	}
	return out
}

func (w *watchStream) cancel(id int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.drop(id) {
		return nil
	}
	h, err := w.door.headNow(w.ctx)
	if err != nil {
		return err
	}
	if err := w.stream.Send(&pb.WatchResponse{Header: h, WatchId: id, Canceled: true}); err != nil {
		return err
	}
	return w.answerAll(id, 0)
}

// drop takes a watch out; false: there is none.
func (w *watchStream) drop(id int64) bool {
	if _, ok := w.watches[id]; !ok {
		return false
	}
	delete(w.watches, id)
	w.set.Remove(id)
	w.door.metrics.watches.Dec()
	return true
}

// askAll asks every watch how far it has come; the answer is sent once the last one
// has told, so no event that it covers can come after it.
func (w *watchStream) askAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all != nil {
		w.asked++
		return
	}
	w.startAll()
}

func (w *watchStream) startAll() {
	if len(w.watches) == 0 {
		return
	}
	w.all, w.allRev = make(map[int64]struct{}, len(w.watches)), ^uint64(0)
	for id := range w.watches {
		w.all[id] = struct{}{}
		w.set.Progress(id)
	}
}

// answerAll counts what a watch told; rev 0 takes it out without counting.
func (w *watchStream) answerAll(id int64, rev uint64) error {
	if _, waits := w.all[id]; !waits {
		return nil
	}
	delete(w.all, id)
	if rev > 0 {
		w.allRev = min(w.allRev, rev)
	}
	if len(w.all) > 0 {
		return nil
	}
	rev, w.all = w.allRev, nil
	if rev != ^uint64(0) {
		if err := w.stream.Send(&pb.WatchResponse{Header: w.door.header(rev), WatchId: noWatch}); err != nil {
			return err
		}
	}
	if w.asked > 0 {
		w.asked = 0
		w.startAll()
	}
	return nil
}

// sendAll sends what the watches give until the stream ends.
func (w *watchStream) sendAll() error {
	w.set.OnIdle(func() { grpcserver.Flush(w.stream) })
	for {
		step, err := w.set.Next(w.ctx)
		if err != nil {
			if w.ctx.Err() != nil {
				return context.Cause(w.ctx)
			}
			return err
		}
		if err := w.send(&step); err != nil {
			return err
		}
	}
}

func (w *watchStream) send(step *warehouse.Step) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	one, ok := w.watches[step.ID]
	if !ok {
		return nil
	}
	if step.Err != nil {
		return w.over(step.ID, step.Err)
	}
	if len(step.Batch.Events) == 0 {
		return w.told(step.ID, one, step.Batch.Revision)
	}
	if reason := w.revoked(one); reason != "" {
		return w.over(step.ID, status.Error(status.Code(rpctypes.ErrGRPCPermissionDenied), reason))
	}
	one.quiet = false
	w.door.metrics.events.Add(float64(len(step.Batch.Events)))
	out := &pb.WatchResponse{Header: w.door.header(step.Batch.Revision), WatchId: step.ID, Events: events(step.Batch.Events)}
	if one.fragment {
		return w.sendFragments(out)
	}
	return grpcserver.SendHeld(w.stream, out)
}

// revoked tells whether a watch that was allowed is so no more: then nothing later
// is given away.
func (w *watchStream) revoked(one *watched) (reason string) {
	a := w.door.auth()
	if a.Revision == one.rev && a.Enabled == w.who.on {
		return ""
	}
	x := w.who.again(a)
	if err := x.read(one.key, one.end); err != nil {
		return rpctypes.ErrorDesc(err)
	}
	one.rev, w.who = a.Revision, x
	return ""
}

// over ends a watch that the server cannot go on with.
func (w *watchStream) over(id int64, err error) error {
	if !w.drop(id) {
		return nil
	}
	h, herr := w.door.headNow(w.ctx)
	if herr != nil {
		return herr
	}
	out := &pb.WatchResponse{Header: h, WatchId: id, Canceled: true}
	if rev, ok := api.CompactRevision(err); ok {
		out.CompactRevision = int64(rev)
	} else if errs.Has(err, errs.Compacted) {
		out.CompactRevision = h.Revision
	} else {
		out.CancelReason = text(grpcError(w.ctx, err))
	}
	if serr := w.stream.Send(out); serr != nil {
		return serr
	}
	return w.answerAll(id, 0)
}

// told passes progress on when somebody asked for it.
func (w *watchStream) told(id int64, one *watched, rev uint64) error {
	if one.waiting {
		one.waiting = false
		if err := w.stream.Send(&pb.WatchResponse{Header: w.door.header(rev), WatchId: id}); err != nil {
			return err
		}
	}
	return w.answerAll(id, rev)
}

// tick asks the quiet watches that want it for their progress. The pause varies by a
// tenth, so that streams that began together do not stay together.
func (w *watchStream) tick() {
	d := w.door.cfg.WatchProgressInterval
	t := w.door.clock.NewTicker(d + rand.N(max(d/10, time.Millisecond)))
	defer t.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-t.C():
		}
		w.mu.Lock()
		for id, one := range w.watches {
			if one.progress && one.quiet && !one.waiting {
				one.waiting = true
				w.set.Progress(id)
			}
			one.quiet = true
		}
		w.mu.Unlock()
	}
}

// sendFragments cuts an answer that is larger than a request may be.
func (w *watchStream) sendFragments(out *pb.WatchResponse) error {
	limit := int(w.door.cfg.MaxRequestBytes + grpcOverhead)
	if len(out.Events) < 2 || proto.Size(out) < limit {
		return w.stream.Send(out)
	}
	rest := out.Events
	for len(rest) > 0 {
		n, size := 0, 64 // a header's bytes
		for n < len(rest) {
			size += proto.Size(rest[n]) + 8
			if n > 0 && size >= limit {
				break
			}
			n++
		}
		part := &pb.WatchResponse{Header: out.Header, WatchId: out.WatchId, Events: rest[:n:n], Fragment: n < len(rest)}
		if err := w.stream.Send(part); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// events makes them in one piece.
func events(in []api.Event) []*mvccpb.Event {
	type piece struct {
		event mvccpb.Event
		kv    mvccpb.KeyValue
	}
	block := make([]piece, len(in))
	out := make([]*mvccpb.Event, len(in))
	for i := range in {
		p, e := &block[i], &in[i]
		p.event.Kv = &p.kv
		if e.Kind == api.EventDelete {
			p.event.Type = mvccpb.Event_DELETE
			p.kv.Key, p.kv.ModRevision = e.KV.Key, int64(e.KV.ModRevision)
		} else {
			fillKeyValue(&p.kv, &e.KV)
		}
		if e.Prev != nil {
			p.event.PrevKv = keyValue(e.Prev)
		}
		out[i] = &p.event
	}
	return out
}

// requireLeader ends a stream that asked for it when no leader is known, now or for
// a while later.
func (s *Door) requireLeader(ctx context.Context, cancel context.CancelCauseFunc) error {
	if v, _ := grpcserver.Header(ctx, rpctypes.MetadataRequireLeaderKey); v != rpctypes.MetadataHasLeader {
		return nil
	}
	if id, _ := s.deps.Replica.Leader(); id == "" {
		return rpctypes.ErrGRPCNoLeader
	}
	if cancel == nil {
		return nil
	}
	s.wg.Go(func() {
		t := s.clock.NewTicker(leaderPoll)
		defer t.Stop()
		for missed := 0; missed < leaderPolls; {
			select {
			case <-ctx.Done():
				return
			case <-t.C():
			}
			if id, _ := s.deps.Replica.Leader(); id == "" {
				missed++
			} else {
				missed = 0
			}
		}
		cancel(rpctypes.ErrGRPCNoLeader)
	})
	return nil
}

// A stream that requires a leader ends after three seconds without one.
const (
	leaderPoll  = time.Second
	leaderPolls = 3
)
