package rest

import (
	"context"
	"encoding/binary"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/httpapi"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
	"nekoq/warehouse/form"
)

// more adds the routes of transactions, leases, locks, elections and upkeep.
func (d *door) more() {
	lease := func(a auth.Action) httpapi.Access { return httpapi.On(a, "warehouse", "lease") }
	doc := func(id, method, path, summary, description string) huma.Operation {
		return huma.Operation{OperationID: "warehouse-" + id, Method: method, Path: "/v1/warehouse/" + path, Tags: []string{tag}, Summary: summary, Description: description}
	}
	httpapi.Register(d.srv, doc("txn", http.MethodPost, "txn", "Carry out a transaction",
		"When all conditions hold, the operations of then, else those of else, all at one revision. A key may be written once. One without writes is a read. "+
			`Such as {"if":[{"key":"app/owner","target":"create_revision","number":0}],"then":[{"put":{"key":"app/owner","text":"me","ttl":"30s"}}],"else":[{"range":{"key":"app/owner"}}]}: `+
			"app/owner becomes me if it is not there, else it is read."),
		httpapi.Inside(), d.txn)

	created := doc("lease-grant", http.MethodPost, "leases", "Grant a lease", "Keys, locks and elections hang on it and go when it ends.")
	created.DefaultStatus = http.StatusCreated
	httpapi.Register(d.srv, created, lease(auth.Write), d.grant)
	httpapi.Register(d.srv, doc("lease-list", http.MethodGet, "leases", "List leases", "A page of their ids, without those that belong to single keys."), lease(auth.Read), d.leases)
	httpapi.Register(d.srv, doc("lease-get", http.MethodGet, "leases/{id}", "Time that a lease has left", ""), lease(auth.Read), d.lease)
	httpapi.Register(d.srv, doc("lease-keepalive", http.MethodPost, "leases/{id}/keepalive", "Keep a lease alive", "It has its whole TTL again."), lease(auth.Write), d.keep)
	httpapi.Register(d.srv, doc("lease-revoke", http.MethodDelete, "leases/{id}", "Revoke a lease", "Its keys are deleted, as one revision."), lease(auth.Write), d.revoke)

	for _, k := range []struct {
		kind       api.TokenKind
		one, many  string
		get, claim string
	}{
		{api.TokenLock, "lock", "locks", "Look at a lock", "Take a lock"},
		{api.TokenElection, "election", "elections", "Who leads", "Stand for an election"},
	} {
		l := &claims{srv: d.srv, svc: d.svc, kind: k.kind}
		on := func(a auth.Action) httpapi.Access { return httpapi.OnParam(a, "warehouse", k.one, "name") }
		httpapi.Register(d.srv, doc(k.one+"-get", http.MethodGet, k.many+"/{name}", k.get,
			"The holder, its fencing token and who waits. With wait it answers when the holder is another than that of token, or at the end of the wait."), on(auth.Read), l.look)
		httpapi.Register(d.srv, doc(k.one+"-acquire", http.MethodPut, k.many+"/{name}", k.claim,
			"Answers with the holder: held tells whether that is the caller. The token is a fencing token: it grows with every holder. "+
				"The claim lives as long as its lease, which the caller keeps alive. Asking again with the same lease changes nothing."), on(auth.Write), l.claim)
		httpapi.Register(d.srv, doc(k.one+"-release", http.MethodDelete, k.many+"/{name}", "Give up a claim",
			"Of the lease, and if given under the token only; else not_leader."), on(auth.Write), l.release)
	}
	d.upkeep(doc)
}

// Lease is a lease in an answer.
type Lease struct {
	ID        string   `json:"id"`
	TTL       string   `json:"ttl" doc:"As granted."`
	Remaining string   `json:"remaining"`
	Token     uint64   `json:"token" doc:"Store revision of the grant: a fencing token."`
	Revision  uint64   `json:"revision" doc:"Key revision."`
	Keys      []string `json:"keys,omitempty"`
}

type leaseOut struct{ Body Lease }

func leaseAnswer(l warehouse.Leased, err error) (*leaseOut, error) {
	if err != nil {
		return nil, err
	}
	out := &leaseOut{Body: Lease{
		ID: strconv.FormatUint(l.ID, 10), TTL: l.TTL.String(), Remaining: l.Remaining.String(), Token: l.Token, Revision: l.Revision,
	}}
	for _, k := range l.Keys {
		out.Body.Keys = append(out.Body.Keys, string(k))
	}
	return out, nil
}

func duration(field, v string, missing time.Duration) (time.Duration, error) {
	if v == "" {
		return missing, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0, errs.Invalid(field, v, "a duration such as 30s")
	}
	return d, nil
}

type grantIn struct {
	Body struct {
		ID  string `json:"id,omitempty" doc:"Of 1 to 9223372036854775807; without it the server chooses."`
		TTL string `json:"ttl" doc:"1s to 9000000000s." example:"30s"`
	}
}

func (d *door) grant(ctx context.Context, in *grantIn) (*leaseOut, error) {
	id, err := form.Lease("id", in.Body.ID)
	if err != nil {
		return nil, err
	}
	ttl, err := duration("ttl", in.Body.TTL, 0)
	if err != nil {
		return nil, err
	}
	return leaseAnswer(d.svc.GrantLease(ctx, id, ttl))
}

type leaseIn struct {
	ID   string `path:"id" doc:"Id of the lease."`
	Keys bool   `query:"keys" doc:"With the keys that hang on it."`
}

type leaseIDIn struct {
	ID string `path:"id" doc:"Id of the lease."`
}

func (d *door) lease(ctx context.Context, in *leaseIn) (*leaseOut, error) {
	id, err := form.Lease("id", in.ID)
	if err != nil {
		return nil, err
	}
	return leaseAnswer(d.svc.LeaseTTL(ctx, id, in.Keys))
}

func (d *door) keep(ctx context.Context, in *leaseIDIn) (*leaseOut, error) {
	id, err := form.Lease("id", in.ID)
	if err != nil {
		return nil, err
	}
	return leaseAnswer(d.svc.KeepLease(ctx, id))
}

type revisionOut struct {
	Body struct {
		Revision uint64 `json:"revision" doc:"Key revision."`
	}
}

func revisionAnswer(rev uint64, err error) (*revisionOut, error) {
	if err != nil {
		return nil, err
	}
	out := &revisionOut{}
	out.Body.Revision = rev
	return out, nil
}

func (d *door) revoke(ctx context.Context, in *leaseIDIn) (*revisionOut, error) {
	id, err := form.Lease("id", in.ID)
	if err != nil {
		return nil, err
	}
	return revisionAnswer(d.svc.RevokeLease(ctx, id))
}

type leasesIn struct{ httpapi.PageQuery }

type leasesOut struct {
	Body struct {
		Leases        []string `json:"leases" doc:"Ids, in the order of the numbers."`
		Revision      uint64   `json:"revision" doc:"Key revision."`
		NextPageToken string   `json:"next_page_token,omitempty" doc:"Token of the next page; none on the last."`
	}
}

func (d *door) leases(ctx context.Context, in *leasesIn) (*leasesOut, error) {
	page, err := d.srv.PageOf(in.PageQuery, "warehouse-leases")
	if err != nil {
		return nil, err
	}
	after, _ := binary.Uvarint(page.Cursor)
	ids, more, rev, err := d.svc.LeasePage(ctx, after, page.Limit)
	if err != nil {
		return nil, err
	}
	out := &leasesOut{}
	out.Body.Revision, out.Body.Leases = rev, make([]string, 0, len(ids))
	for _, id := range ids {
		out.Body.Leases = append(out.Body.Leases, strconv.FormatUint(id, 10))
	}
	if more {
		out.Body.NextPageToken = page.Next(binary.AppendUvarint(nil, ids[len(ids)-1]))
	}
	return out, nil
}

// claims are the routes of locks, or of elections.
type claims struct {
	srv  *httpapi.Server
	svc  *warehouse.Service
	kind api.TokenKind
}

// Claim is the state of a lock or election.
type Claim struct {
	Held     bool       `json:"held" doc:"Whether the caller holds it."`
	Holder   string     `json:"holder" doc:"Who holds it; empty when nobody does."`
	Token    uint64     `json:"token" doc:"Fencing token of the holder; 0 when nobody holds it."`
	Since    *time.Time `json:"since,omitempty"`
	Lease    string     `json:"lease,omitempty" doc:"Of the caller's claim, to be kept alive; none when the claim was given up with the lease that the server had granted. When only looked at, of the holder."`
	OwnToken uint64     `json:"own_token,omitempty" doc:"The token of the caller's claim, held or in line."`
	Waiting  []string   `json:"waiting"`
	Revision uint64     `json:"revision" doc:"Key revision."`
}

type claimOut struct{ Body Claim }

func claimAnswer(c api.Claim, err error) (*claimOut, error) {
	if err != nil {
		return nil, err
	}
	out := &claimOut{Body: Claim{
		Held: c.Held, Holder: c.Holder, Token: c.Token, Lease: form.LeaseText(c.Lease), OwnToken: c.Own, Waiting: append([]string{}, c.Waiting...), Revision: c.Revision,
	}}
	if c.Token != 0 {
		at := time.Unix(0, c.Since).UTC()
		out.Body.Since = &at
	}
	return out, nil
}

type claimIn struct {
	Name string `path:"name" doc:"Name of the lock or election."`
	Body struct {
		Holder string `json:"holder" doc:"Who asks: shown to the others." example:"host1:4711"`
		Lease  string `json:"lease,omitempty" doc:"Lease of the claim; without it the server grants one of ttl."`
		TTL    string `json:"ttl,omitempty" doc:"1s to 24h; 10s without one. Not with lease." example:"30s"`
		Wait   string `json:"wait,omitempty" doc:"How long to wait in line, up to 1h; without it the answer comes at once." example:"10s"`
		Stay   bool   `json:"stay,omitempty" doc:"Keep the place in line when it is not held in time."`
	}
}

func (l *claims) claim(ctx context.Context, in *claimIn) (*claimOut, error) {
	r := api.ClaimRequest{Kind: l.kind, Name: in.Name, Holder: in.Body.Holder, Stay: in.Body.Stay}
	var err error
	if r.Lease, err = form.Lease("lease", in.Body.Lease); err != nil {
		return nil, err
	}
	if r.TTL, err = duration("ttl", in.Body.TTL, 0); err == nil && in.Body.TTL != "" && r.TTL == 0 { // 0 stands for none
		err = errs.Invalid("ttl", in.Body.TTL, "1s to 24h")
	}
	if err != nil {
		return nil, err
	}
	if r.Wait, err = duration("wait", in.Body.Wait, 0); err != nil {
		return nil, err
	}
	return claimAnswer(l.svc.Claim(ctx, &r))
}

type lookIn struct {
	Name        string `path:"name"`
	Wait        string `query:"wait" doc:"Wait up to this long, such as 30s (at most http.max_wait), for another holder than that of token."`
	Token       uint64 `query:"token" doc:"With wait: the token that the caller has seen; 0 for nobody."`
	Consistency string `query:"consistency" enum:"linearizable,stale" doc:"stale is answered by this node at once."`
}

func (l *claims) look(ctx context.Context, in *lookIn) (*claimOut, error) {
	r := api.LookRequest{Kind: l.kind, Name: in.Name, Stale: in.Consistency == "stale"}
	wait, err := (&httpapi.WaitQuery{Wait: in.Wait}).Duration(l.srv)
	if err != nil {
		return nil, err
	}
	if wait == 0 {
		return claimAnswer(l.svc.Look(ctx, &r))
	}
	o, err := l.svc.Observe(ctx, &r)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	var c api.Claim
	_, err = httpapi.LongPoll(ctx, wait, func(ctx context.Context) error {
		for {
			next, err := o.Next(ctx)
			if err != nil {
				return err
			}
			if c = next; c.Token != in.Token {
				return nil
			}
		}
	})
	return claimAnswer(c, err)
}

type releaseIn struct {
	Name   string `path:"name"`
	Lease  string `query:"lease" required:"true" doc:"Lease of the claim."`
	Token  uint64 `query:"token" doc:"Only a claim under this token."`
	Revoke bool   `query:"revoke" doc:"Also end the lease."`
}

func (l *claims) release(ctx context.Context, in *releaseIn) (*revisionOut, error) {
	id, err := form.Lease("lease", in.Lease)
	if err != nil {
		return nil, err
	}
	h, err := l.svc.Release(ctx, &api.ReleaseRequest{Kind: l.kind, Name: in.Name, Lease: id, Token: in.Token, Revoke: in.Revoke})
	return revisionAnswer(h.Revision, err)
}
