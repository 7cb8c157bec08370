package system

import (
	"context"
	"fmt"
	"time"

	"nekoq/services/clock"
	"nekoq/services/errs"
	"nekoq/services/peer/api"
	"nekoq/services/state"
)

// Alone is the membership of a LocalSwitch: one node that is always the leader.
type Alone struct {
	ID, HTTP, Native, Software string
	Clock                      clock.Clock
	Machine                    *state.Machine
}

// Status describes the one node.
func (a *Alone) Status(context.Context) (api.Cluster, error) {
	index, term := a.Machine.Applied()
	view := a.Machine.View()
	version := view.ClusterVersion()
	view.Release()
	now := a.Clock.Now()
	return api.Cluster{
		ClusterID: "localswitch", SeenFrom: a.ID, LeaderID: a.ID, Term: max(term, 1), Version: version,
		Quorum: api.Quorum{Voters: 1, Needed: 1, Alive: 1, State: "healthy"},
		Nodes: []api.Node{{
			ID: a.ID, HTTPAddress: a.HTTP, NativeAddress: a.Native, Role: "voter", Leader: true, Alive: true,
			LastSeen: &now, AppliedIndex: index, State: api.HashEqual, Version: state.MaxClusterVersion, Software: a.Software, Ready: true,
		}},
	}, nil
}

// Members gives the one node.
func (a *Alone) Members() []api.Member { return []api.Member{{ID: a.ID, Role: "voter"}} }

// CompareHashes gives the one node's hashes.
func (a *Alone) CompareHashes(ctx context.Context, r api.HashRequest) (api.HashReport, error) {
	h, err := a.Machine.Hash(ctx, r.Content)
	if err != nil {
		return api.HashReport{}, err
	}
	node := api.NodeHash{ID: a.ID, Verdict: api.HashEqual, Index: h.Index, Chain: fmt.Sprintf("%016x", h.Chain)}
	if r.Content {
		node.Content = fmt.Sprintf("%016x", h.Content)
	}
	return api.HashReport{At: a.Clock.Now().UTC().Truncate(time.Millisecond), LeaderID: a.ID, Index: h.Index, Equal: true, Nodes: []api.NodeHash{node}}, nil
}

func (a *Alone) refuse(verb string) error {
	return errs.New(errs.FailedPrecond, "%s: a LocalSwitch is one node without peers; run mode = \"cluster\" to have members", verb)
}

// Remove, Promote and Transfer are refused.
func (a *Alone) Remove(context.Context, api.RemoveRequest) (api.Done, error) {
	return api.Done{}, a.refuse("remove")
}

func (a *Alone) Promote(context.Context, api.PromoteRequest) (api.Done, error) {
	return api.Done{}, a.refuse("promote")
}

func (a *Alone) Transfer(context.Context, api.TransferRequest) (api.Done, error) {
	return api.Done{}, a.refuse("transfer")
}
