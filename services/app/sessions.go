package app

import (
	"context"
	"time"

	"nekoq/services/state"
)

// sessionSweep is how often the leader looks for idle client sessions.
const sessionSweep = time.Minute

// expireSessions runs on the leader: it removes the client sessions that nobody
// has used for native.session_ttl. A client whose session is gone opens a new
// one; only a retry that is older than the session can then not be told apart.
func (a *App) expireSessions(ctx context.Context, _ uint64) {
	ticker := a.clock.NewTicker(sessionSweep)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		if a.machine.Sessions() == 0 {
			continue
		}
		if _, err := a.replica.Propose(ctx, state.ExpireSessions(a.clock.Now().Add(-a.cfg.Native.SessionTTL))); err != nil && ctx.Err() == nil {
			a.log.Warn("idle client sessions could not be expired; trying again later", "error", err, "pause", sessionSweep)
		}
	}
}
