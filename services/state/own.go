package state

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
)

// MaxClusterVersion is the newest cluster version that this program knows.
const MaxClusterVersion uint32 = 1

var keyClusterVersion = []byte("cluster_version")

// registerOwn declares the tables and commands that every state has.
func registerOwn(r *Registry) {
	r.Table(tableSessions, "sessions")
	r.Table(tableSystem, "system")
	r.Handle(KindOpenSession, "session.open", 1, openSession)
	r.Handle(KindExpireSessions, "session.expire", 1, expireSessions)
	r.Handle(KindCloseSession, "session.close", 1, closeSession)
	r.Handle(KindClusterVersion, "cluster.version", 1, setClusterVersion)
}

// OpenSession makes a new client session. The result's Data is its id, 8 bytes
// big-endian (SessionID reads it). Retried with no answer it may leave a second
// session behind, which expires.
func OpenSession() command.Command { return command.Command{Kind: KindOpenSession} }

// SessionID reads the result of OpenSession.
func SessionID(data []byte) (uint64, error) {
	if len(data) != 8 {
		return 0, errs.New(errs.Internal, "a session id of %d bytes", len(data))
	}
	return binary.BigEndian.Uint64(data), nil
}

// ExpireSessions removes every session last used before cutoff. The leader
// proposes it now and then.
func ExpireSessions(cutoff time.Time) command.Command {
	return command.Command{
		Kind:    KindExpireSessions,
		Payload: binary.BigEndian.AppendUint64(nil, uint64(cutoff.UnixNano())),
	}
}

// CloseSession removes a session; an unknown one is no change.
func CloseSession(id uint64) command.Command {
	return command.Command{Kind: KindCloseSession, Payload: sessionKey(id)}
}

// SetClusterVersion raises the replicated cluster version, which switches on
// the kinds that need it. A node whose MaxClusterVersion is lower stops, so the
// proposer first makes sure that every member knows v.
func SetClusterVersion(v uint32) command.Command {
	return command.Command{Kind: KindClusterVersion, Payload: binary.BigEndian.AppendUint32(nil, v)}
}

func openSession(tx *Tx, cmd *command.Command) ([]byte, error) {
	t := &tx.m.sessions
	if len(t.byID) >= MaxSessions {
		return nil, errs.New(errs.Exhausted, "there are %d client sessions; the limit is %d", len(t.byID), MaxSessions)
	}
	s := &session{id: tx.Next(), lastUse: tx.Time(), acked: 1}
	t.byID[s.id] = s
	t.touch(s)
	tx.wrote = true
	key := sessionKey(s.id)
	tx.m.chainChange(tableSessions, key, []byte{})
	return key, nil
}

func expireSessions(tx *Tx, cmd *command.Command) ([]byte, error) {
	if len(cmd.Payload) != 8 {
		return nil, errs.Invalid("cutoff", len(cmd.Payload), "8 bytes")
	}
	cutoff := int64(binary.BigEndian.Uint64(cmd.Payload))
	byID := tx.m.sessions.byID
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		if byID[id].lastUse < cutoff {
			tx.removeSession(id)
		}
	}
	return nil, nil
}

func closeSession(tx *Tx, cmd *command.Command) ([]byte, error) {
	if len(cmd.Payload) != 8 {
		return nil, errs.Invalid("session", len(cmd.Payload), "8 bytes")
	}
	id := binary.BigEndian.Uint64(cmd.Payload)
	if tx.m.sessions.byID[id] != nil {
		tx.removeSession(id)
	}
	return nil, nil
}

// removeSession forgets a session and its row. It does not move the revision:
// no reader can see sessions.
func (tx *Tx) removeSession(id uint64) {
	delete(tx.m.sessions.byID, id)
	key := sessionKey(id)
	slot := tx.m.reg.slot(tableSessions)
	if _, ok := tx.get(slot, key); ok {
		tx.active.put(slot, key, nil)
	}
	tx.m.chainChange(tableSessions, key, nil)
}

func setClusterVersion(tx *Tx, cmd *command.Command) ([]byte, error) {
	if len(cmd.Payload) != 4 {
		return nil, errs.Invalid("cluster_version", len(cmd.Payload), "4 bytes")
	}
	v := binary.BigEndian.Uint32(cmd.Payload)
	if v == tx.m.version {
		return nil, nil
	}
	if v < tx.m.version {
		return nil, errs.New(errs.FailedPrecond, "the cluster version is %d and never goes back to %d", tx.m.version, v)
	}
	if v > MaxClusterVersion {
		// Not a refusal: programs of different versions would answer differently.
		return nil, fmt.Errorf("the cluster moved to version %d and this program knows versions up to %d; install the newer program", v, MaxClusterVersion)
	}
	tx.Put(tableSystem, keyClusterVersion, cmd.Payload)
	tx.m.version = v
	return nil, nil
}

// clusterVersion reads the replicated version; a new state is at version 1.
func clusterVersion(r Reader) uint32 {
	if v, ok := r.Get(tableSystem, keyClusterVersion); ok && len(v) == 4 {
		return binary.BigEndian.Uint32(v)
	}
	return firstVersion
}
