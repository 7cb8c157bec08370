package app

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"nekoq/services/errs"
	"nekoq/services/wire"
	"nekoq/services/wire/wiremetrics"
)

// nativeDoor is the door of the Go client: a port, in-process connections, or both.
type nativeDoor struct {
	addrSet string
	server  *wire.Server
	failed  chan error
	ln      atomic.Pointer[net.Listener]

	mu      sync.Mutex
	stopped bool
	wg      sync.WaitGroup
}

func (a *App) newNativeDoor() *nativeDoor {
	d := &nativeDoor{addrSet: a.cfg.Native.Listen, failed: make(chan error, 1)}
	if a.deps.InProcess {
		d.addrSet = ""
	}
	m := wiremetrics.New(a.tele.Registry, "native")
	d.server = wire.NewServer(a.mux, wire.ServerOptions{
		Door: "native", Limits: a.cfg.Native.Limits, Hello: a.hello, After: m.After, Logger: a.log,
	})
	m.Connections(d.server.Conns)
	return d
}

// hello is what a client learns of the node when it connects.
func (a *App) hello() wire.ServerInfo {
	info := wire.ServerInfo{NodeID: a.cfg.Node.ID, Version: Version}
	if a.peers != nil {
		info.ClusterID = a.peers.ClusterID()
		info.Endpoints = a.peers.NativeAddresses()
		info.Leader, info.LeaderEndpoint = a.peers.LeaderNative()
	}
	return info
}

func (d *nativeDoor) start(context.Context) error {
	if d.addrSet == "" {
		return nil
	}
	ln, err := net.Listen("tcp", d.addrSet)
	if err != nil {
		why := "the address cannot be used"
		if errors.Is(err, syscall.EADDRINUSE) {
			why = "another process listens there already"
		}
		return errs.New(errs.Unavailable, "native.listen = %q: %s; set native.listen to a free address, such as --set native.listen=127.0.0.1:0", d.addrSet, why).Wrap(err)
	}
	d.ln.Store(&ln)
	d.wg.Go(func() {
		if err := d.server.Serve(ln); err != nil {
			d.failed <- err
		}
	})
	return nil
}

func (d *nativeDoor) addr() net.Addr {
	if ln := d.ln.Load(); ln != nil {
		return (*ln).Addr()
	}
	return nil
}

// dial opens a connection without a port.
func (d *nativeDoor) dial() (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return nil, errs.New(errs.ShuttingDown, "this node is stopping")
	}
	client, server := wire.Pipe()
	d.wg.Go(func() { d.server.ServeConn(server) })
	return client, nil
}

func (d *nativeDoor) drain(ctx context.Context) error {
	d.mu.Lock()
	d.stopped = true
	d.mu.Unlock()
	return d.server.Shutdown(ctx)
}

func (d *nativeDoor) stop(context.Context) error {
	d.wg.Wait()
	return nil
}
