package client

import (
	"context"
	"encoding/json"
	"time"

	"nekoq/services/errs"
	"nekoq/services/wire"
)

// followEvery is how often a client in use asks who leads. Until it knows of a
// new leader, the node that it talks to passes its requests on.
const followEvery = time.Second

// followed is whether a client keeps to the leader of a cluster.
func (c *Config) followed() bool { return !c.AnyNode && !c.Spread && !c.FailFast }

// follow moves the client to the leader: its requests then take one hop less. It
// connects first and moves then, so no request waits for it, and a leader that
// this client cannot reach is left alone. It ends with the client.
func (p *pool) follow() {
	t := time.NewTicker(followEvery)
	defer t.Stop()
	info := p.info()
	for {
		p.moveTo(&info)
		for again := true; again; again = !p.used.Swap(false) { // a client that rests asks nothing
			select {
			case <-t.C:
			case <-p.c.ctx.Done():
				return
			}
		}
		answer, err := p.ask()
		if errs.Has(err, errs.Unimplemented) {
			return // an older server
		}
		if err == nil {
			info = answer
			p.learn(info)
		}
	}
}

// ask gives what the server in use says of itself now.
func (p *pool) ask() (info wire.ServerInfo, err error) {
	ctx, cancel := context.WithTimeout(p.c.ctx, p.c.cfg.DialTimeout)
	defer cancel()
	eps := *p.eps.Load()
	conn := eps[int(p.current.Load())%len(eps)].connected()
	if conn == nil {
		return info, errs.New(errs.Unavailable, "there is no connection at present")
	}
	answer, err := conn.Do(ctx, wire.Request{Method: wire.MethodHello})
	if err == nil {
		err = json.Unmarshal(answer, &info)
	}
	return info, err
}

// moveTo makes the leader's endpoint the preferred one, once it is connected.
func (p *pool) moveTo(info *wire.ServerInfo) {
	if info.Leader == "" || info.Leader == info.NodeID {
		return
	}
	ctx, cancel := context.WithTimeout(p.c.ctx, p.c.cfg.DialTimeout)
	defer cancel()
	for i, ep := range *p.eps.Load() {
		conn := ep.connected()
		switch {
		case conn != nil && conn.ServerInfo().NodeID != info.Leader:
			continue
		case conn == nil && (ep.addr != info.LeaderEndpoint || !ep.ready()):
			continue
		case conn == nil:
			var err error
			at, _ := ctx.Deadline()
			if _, conn, err = ep.get(ctx, at); err != nil || conn.ServerInfo().NodeID != info.Leader {
				continue
			}
		}
		p.current.Store(uint32(i))
		return
	}
}

// connected gives a connection that is there already, nil for none.
func (ep *endpoint) connected() *wire.Conn {
	for _, s := range ep.slots {
		if c := s.conn.Load(); c != nil && !c.Draining() && c.Err() == nil {
			return c
		}
	}
	return nil
}
