package peer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"nekoq/services/peer/api"
)

// A leader without disk space refuses writes for the whole cluster, though another
// voter may have plenty. Every node says in its answers to pings how much it has, and
// a leader that runs out of it hands leadership to the voter with the most room.

// roomPause is how long a leader waits after a handover that did not come about.
const roomPause = 5 * time.Second

// voter is what a leader without room knows of another voter.
type voter struct {
	id     string
	alive  bool
	report *api.Report // nil when it has said nothing yet
}

// roomiest chooses who should lead in place of a node without room: of the voters
// that live, have room and have caught up, the one with the most free bytes. mine is
// the applied index of this node, lag how many entries behind it counts as caught up.
// Without one it says what is the matter with each. It is pure.
func roomiest(voters []voter, mine, lag uint64) (id string, why []string) {
	var most int64 = -1
	for _, v := range voters {
		switch no := v.unfit(mine, lag); {
		case no != "":
			why = append(why, v.id+" "+no)
		case v.report.Disk.FreeBytes > most:
			id, most = v.id, v.report.Disk.FreeBytes
		}
	}
	return id, why
}

// unfit says why a voter can not take over, "" when it can. It must have a quarter
// more than the reserve, so that leadership does not come back at once.
func (v voter) unfit(mine, lag uint64) string {
	switch {
	case !v.alive || v.report == nil:
		return "does not answer"
	case v.report.Disk == nil:
		return "does not tell its free space"
	case v.report.Disk.Full:
		return "has no disk space either"
	case v.report.Disk.ReserveBytes > 0 && v.report.Disk.FreeBytes < v.report.Disk.ReserveBytes/4*5:
		return fmt.Sprintf("has hardly more than its reserve (%d of %d bytes)", v.report.Disk.FreeBytes, v.report.Disk.ReserveBytes)
	case v.report.AppliedIndex+lag < mine:
		return fmt.Sprintf("lags by %d entries", mine-v.report.AppliedIndex)
	}
	return ""
}

// disk is this node's own room, nil when nobody measures it.
func (s *Service) disk() *api.Disk {
	if s.at.Disk == nil {
		return nil
	}
	free, reserve, full := s.at.Disk()
	d := &api.Disk{FreeBytes: free, ReserveBytes: reserve, Full: full != nil}
	if full == nil {
		return d
	}
	d.Reason = full.Error()
	if p := s.noRoom.Load(); p != nil {
		d.Reason += *p
	}
	return d
}

// watchRoom runs on the leader. A node that has been without room for a whole
// interval hands leadership over; by then every voter has said how much it has.
func (s *Service) watchRoom(ctx context.Context) {
	defer s.noRoom.Store(nil)
	var since time.Time // without room, zero while there is
	for s.pause(ctx, s.cfg.PingInterval/2) {
		d, now := s.disk(), s.clock.Now()
		if d == nil || !d.Full {
			since = time.Time{}
			s.noRoom.Store(nil)
			continue
		}
		if since.IsZero() {
			since = now
		}
		if now.Sub(since) < s.cfg.PingInterval {
			continue
		}
		if !s.giveRoom(ctx, d) {
			s.pause(ctx, min(roomPause, 5*s.cfg.PingInterval))
		}
	}
}

// giveRoom hands leadership to a voter with room, or says that there is none.
func (s *Service) giveRoom(ctx context.Context, d *api.Disk) bool {
	var voters []voter
	for _, srv := range s.at.Raft.Servers() {
		if srv.Voter && srv.ID != s.nodeID {
			voters = append(voters, voter{srv.ID, s.alive(srv.ID), s.health.get(srv.ID).report})
		}
	}
	mine, _ := s.at.Store.Applied()
	id, why := roomiest(voters, mine, uint64(s.cfg.CatchUpEntries))
	if id == "" {
		note := "; no other voter can take over: " + strings.Join(why, ", ")
		if len(voters) == 0 {
			note = "; there is no other voter"
		}
		s.noRoom.Store(&note)
		s.metrics.handover("nobody")
		if s.health.once("no room", s.clock.Now()) { // the numbers in the note change all the time
			s.log.Error("this leader has no disk space and refuses writes"+note, "free_bytes", d.FreeBytes, "reserve_bytes", d.ReserveBytes)
		}
		return false
	}
	s.log.Warn("this leader has no disk space and hands leadership over", "to", id, "free_bytes", d.FreeBytes, "reserve_bytes", d.ReserveBytes)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	if err := s.at.Raft.TransferLeadership(ctx, id); err != nil {
		s.metrics.handover("failed")
		s.log.Warn("leadership could not be handed over; it is tried again", "to", id, "error", err)
		return false
	}
	s.metrics.handover("done")
	return true
}
