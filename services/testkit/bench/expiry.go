package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	expiryWorkers = 256
	expiryTrial   = 100 // of so many leases one is granted before, to see how long all will take
	expiryFormat  = "| %-5s | %8s | %8s | %8s | %8s | %-27s | %-27s | %9s | %9s |\n"

	// putsEvery is how often a put begins beside the expiry, whatever those before
	// it wait for.
	putsEvery = 5 * time.Millisecond
	// putsBefore is how long puts go on before the first lease ends.
	putsBefore = 3 * time.Second
	// expiryPatience is how late the last key may be gone. etcd ends 1,000 leases a
	// second at most.
	expiryPatience = 10 * time.Minute
)

// expiry measures how late leases end that all end in the same second, and what other
// writes notice of it.
func (s *settings) expiry(ctx context.Context) error {
	for _, nodes := range s.nodes {
		fmt.Printf("\n## %d leases with a key each that end in the same second, %d node(s); etcd's Go client on both sides; grants, puts and the ends of leases synced on a majority before they are answered or seen\n\n", s.leases, nodes)
		fmt.Printf(expiryFormat, "side", "earliest", "p50", "p99", "last", "puts before p50/p99/max", "puts beside p50/p99/max", "server µs", "client µs")
		fmt.Println("|---|---|---|---|---|---|---|---|---|")
		for _, name := range []string{"nekoq", "etcd"} {
			if s.only != "" && s.only != name {
				continue
			}
			if err := s.expiryOf(ctx, name, nodes); err != nil {
				return fmt.Errorf("%d nodes, %s: %w", nodes, name, err)
			}
		}
	}
	fmt.Println("\nLateness: from the moment at which a lease's grant was sent plus its TTL, until a watcher of all keys has the delete; a key that goes earlier fails the run. µs: processor time for each lease, from the first end to the last, puts and the watcher included.")
	return nil
}

func (s *settings) expiryOf(ctx context.Context, name string, nodes int) error {
	var door *doorSide
	if name == "nekoq" {
		neko, err := s.cluster(ctx, fmt.Sprintf("expiry%d", nodes), nodes)
		if err != nil {
			return err
		}
		defer neko.close()
		var doors []string
		for _, n := range neko.nodes {
			doors = append(doors, n.Etcd)
		}
		if door, err = dialDoor(name, doors, s.etcdConn, neko.cpu); err != nil {
			return err
		}
		defer door.close()
	} else {
		etcd, err := startEtcd(ctx, s.etcd, s.etcdConn, nodes)
		if err != nil {
			return err
		}
		defer etcd.close()
		door = &doorSide{name: name, clients: etcd.clients, cpu: etcd.cpu}
	}
	m := &massExpiry{x: door, ends: make([]time.Time, s.leases), late: make([]time.Duration, s.leases)}
	return m.run(ctx)
}

// massExpiry is one run of one side.
type massExpiry struct {
	x    *doorSide
	due  time.Time // the first lease ends then, and the last a second later
	ends []time.Time
	late []time.Duration // by lease
	seen int

	mu            sync.Mutex
	before, after []time.Duration // latencies of the puts that began before due, and of the others
	putErr        error
}

const massPrefix = "mass/"

func (m *massExpiry) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := m.grantAll(ctx); err != nil {
		return err
	}
	watched := m.x.of(1).Watch(clientv3.WithRequireLeader(ctx), massPrefix, clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithCreatedNotify())
	if r, ok := <-watched; !ok || r.Err() != nil || !r.Created {
		return fmt.Errorf("no watch: %w", r.Err())
	}
	there, err := m.x.of(2).Get(ctx, massPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	if lost := len(m.ends) - int(there.Count); lost != 0 {
		return fmt.Errorf("%d of %d keys were gone %v before the first lease ended", lost, len(m.ends), time.Until(m.due))
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	pause(ctx, time.Until(m.due)-putsBefore)
	go func() { defer close(ended); m.putBeside(ctx, stop) }()
	cpu := make(chan [2]time.Duration, 1)
	go func() {
		pause(ctx, time.Until(m.due))
		cpu <- [2]time.Duration{m.x.cpu(), ownCPU()}
	}()
	err = m.watch(ctx, watched)
	if err != nil {
		cancel()
	}
	began := <-cpu
	server, client := m.x.cpu()-began[0], ownCPU()-began[1]
	close(stop)
	<-ended
	if err = errors.Join(err, m.putErr); err != nil {
		return err
	}
	m.print(server, client)
	return nil
}

// grantAll grants the leases so that all of them end within the second after m.due, and
// puts a key on each. What a few take before tells how much time there is to be.
func (m *massExpiry) grantAll(ctx context.Context) error {
	began, trial := time.Now(), max(len(m.ends)/expiryTrial, 1)
	err := fillWith(ctx, expiryWorkers, 0, trial, func(ctx context.Context, i int) error {
		_, err := m.grant(ctx, i, "trial/", time.Hour)
		return err
	})
	if err != nil {
		return err
	}
	n := len(m.ends)
	m.due = time.Now().Add(5*time.Second + 2*time.Since(began)*time.Duration(n)/time.Duration(trial))
	return fillWith(ctx, expiryWorkers, 0, n, func(ctx context.Context, i int) (err error) {
		m.ends[i], err = m.grant(ctx, i, massPrefix, time.Until(m.due))
		return err
	})
}

// grant makes a lease of at least ttl with a key on it, and gives the earliest moment
// at which it may end.
func (m *massExpiry) grant(ctx context.Context, i int, prefix string, ttl time.Duration) (end time.Time, err error) {
	if ttl < 3*time.Second {
		return end, errors.New("granting took longer than a trial before promised; nothing else may use the machine")
	}
	sent := time.Now()
	l, err := m.x.of(i).Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return end, err
	}
	_, err = m.x.of(i).Put(ctx, fmt.Sprintf("%s%08d", prefix, i), "value", clientv3.WithLease(l.ID))
	return sent.Add(time.Duration(l.TTL) * time.Second), err
}

// watch notes when each key goes, until all are gone.
func (m *massExpiry) watch(ctx context.Context, watched clientv3.WatchChan) error {
	patience := time.NewTimer(time.Until(m.due) + expiryPatience)
	defer patience.Stop()
	gone := make([]bool, len(m.ends))
	for m.seen < len(m.ends) {
		var r clientv3.WatchResponse
		select {
		case r = <-watched:
		case <-patience.C:
			return fmt.Errorf("%d of %d keys are still there %v after the first lease was due", len(m.ends)-m.seen, len(m.ends), expiryPatience)
		}
		now := time.Now()
		if ctx.Err() != nil || r.Err() != nil || len(r.Events) == 0 && !r.IsProgressNotify() {
			return fmt.Errorf("the watch ended after %d of %d deletes: %w", m.seen, len(m.ends), errors.Join(ctx.Err(), r.Err()))
		}
		for _, e := range r.Events {
			i, err := strconv.Atoi(strings.TrimPrefix(string(e.Kv.Key), massPrefix))
			if err != nil || i >= len(gone) || gone[i] {
				return fmt.Errorf("delete of %q, which was not there", e.Kv.Key)
			}
			if now.Before(m.ends[i]) {
				return fmt.Errorf("key %q was gone %v before its lease ended", e.Kv.Key, m.ends[i].Sub(now))
			}
			gone[i], m.late[i] = true, now.Sub(m.ends[i])
			m.seen++
		}
	}
	return nil
}

// putBeside begins a put every putsEvery until stop is closed, and returns when all
// are answered.
func (m *massExpiry) putBeside(ctx context.Context, stop <-chan struct{}) {
	var wg sync.WaitGroup
	defer wg.Wait()
	pace := time.NewTicker(putsEvery)
	defer pace.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		wg.Go(func() {
			began := time.Now()
			_, err := m.x.of(i).Put(ctx, key(0, i), "value")
			took := time.Since(began)
			m.mu.Lock()
			defer m.mu.Unlock()
			switch {
			case err != nil && m.putErr == nil:
				m.putErr = fmt.Errorf("a put beside: %w", err)
			case began.Before(m.due):
				m.before = append(m.before, took)
			default:
				m.after = append(m.after, took)
			}
		})
	}
}

func (m *massExpiry) print(server, client time.Duration) {
	slices.Sort(m.late)
	n := len(m.late)
	r := run{ops: n}
	late := func(i int) string { return fmt.Sprintf("%.2f s", m.late[i].Seconds()) }
	fmt.Printf(expiryFormat, m.x.name, late(0), late(n/2), late(n*99/100), late(n-1), spreadOf(m.before), spreadOf(m.after),
		fmt.Sprintf("%.1f", r.each(server)), fmt.Sprintf("%.1f", r.each(client)))
}

// spreadOf gives the median, the 99th percentile and the greatest.
func spreadOf(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	slices.Sort(d)
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1e3) }
	return fmt.Sprintf("%s / %s / %s ms", ms(d[len(d)/2]), ms(d[len(d)*99/100]), ms(d[len(d)-1]))
}
