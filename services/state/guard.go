package state

import (
	"fmt"

	"nekoq/services/command"
	"nekoq/services/errs"
)

// HandleGuard declares k as the kind of a command.Guard: holds judges its condition,
// refusing with an *errs.Error, and the command under it is carried out only then.
func (r *Registry) HandleGuard(k command.Kind, name string, since uint32, holds func(tx *Tx, condition []byte) error) {
	r.Handle(k, name, since, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		condition, kind, payload, err := command.Guarded(cmd.Payload)
		if err != nil {
			return nil, err
		}
		h := r.kinds[kind]
		if h == nil || h.guard {
			return nil, fmt.Errorf("state: %s guards the kind %#x, which it cannot", name, uint16(kind))
		}
		if v := tx.ClusterVersion(); v < h.since {
			return nil, errs.New(errs.VersionTooOld, "%s needs cluster version %d; the cluster is at %d", h.name, h.since, v)
		}
		if err := holds(tx, condition); err != nil {
			return nil, err
		}
		inner := *cmd
		inner.Kind, inner.Payload = kind, payload
		return h.apply(tx, &inner)
	})
	r.kinds[k].guard = true
}
