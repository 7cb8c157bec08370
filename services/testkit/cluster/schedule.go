package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// Fault is something that happens to a cluster while clients use it.
type Fault int

// The faults. Client is the node that Schedule.Client names: the one that a client is
// connected to.
const (
	KillLeader Fault = iota
	KillFollower
	PartitionLeader
	PartitionFollower
	PartitionClient
	MuteLeader   // is heard by nobody, and hears
	DeafenLeader // hears nobody, and is heard
	SlowLeaderDisk
	SlowFollowerDisk
	SlowLinks
	RestartAll // all nodes at once, without a word
	faults     // their number
)

func (f Fault) String() string {
	return [...]string{
		"leader killed", "follower killed", "leader partitioned", "follower partitioned", "client's node partitioned",
		"leader muted", "leader deafened", "slow disk of the leader", "slow disk of a follower", "slow links of the leader",
		"all restarted at once",
	}[f]
}

// Every is all faults once.
func Every() []Fault {
	out := make([]Fault, faults)
	for i := range out {
		out[i] = Fault(i)
	}
	return out
}

// Schedule is a run of faults, one after the other, each healed before the next.
type Schedule struct {
	// Seed decides the order, the nodes and the lengths: one seed, one schedule.
	Seed uint64
	// Faults are taken in random order, and again while the run has time. Nil: Every.
	Faults []Fault
	// Client is the index of the member that clients of PartitionClient use.
	Client int
	// Least and Most bound how long a fault lasts. 0: 300 ms and 1,500 ms, which is
	// either side of an election.
	Least, Most time.Duration
	// For is how long the run goes on; every fault of Faults comes at least once.
	For time.Duration
	// Progress waits until clients have got further. It is called after each fault was
	// healed, so that none hides behind the next.
	Progress func(f Fault)
}

// SoakTime is NEKOQ_SOAK, the time that faults go on beyond each of them once; 0
// when it is not set.
func SoakTime(tb testing.TB) time.Duration {
	tb.Helper()
	text := os.Getenv("NEKOQ_SOAK")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		tb.Fatalf("NEKOQ_SOAK: %v", err)
	}
	return d
}

// Run carries a schedule out on the test's goroutine and leaves the cluster healed,
// with all nodes up and a leader.
func (c *Cluster) Run(ctx context.Context, s Schedule) {
	c.tb.Helper()
	if s.Faults == nil {
		s.Faults = Every()
	}
	if s.Most == 0 {
		s.Least, s.Most = 300*time.Millisecond, 1500*time.Millisecond
	}
	rnd := rand.New(rand.NewPCG(s.Seed, 0))
	began := time.Now()
	for round := 0; round == 0 || time.Since(began) < s.For; round++ {
		for _, i := range rnd.Perm(len(s.Faults)) {
			if round > 0 && time.Since(began) >= s.For || ctx.Err() != nil {
				break
			}
			f := s.Faults[i]
			lasts := s.Least + time.Duration(rnd.Int64N(int64(s.Most-s.Least)+1))
			pick := rnd.Uint64()
			what := c.inflict(f, pick, s.Client)
			c.tb.Logf("%6.2fs %s (%s) for %s", time.Since(began).Seconds(), f, what, lasts.Round(time.Millisecond))
			pass(ctx, lasts)
			c.restore()
			if s.Progress != nil {
				s.Progress(f)
			}
		}
	}
}

// inflict does a fault and says to whom.
func (c *Cluster) inflict(f Fault, pick uint64, client int) string {
	l := c.WaitLeader()
	others := c.Others(l)
	follower := others[pick%uint64(len(others))]
	switch f {
	case KillLeader:
		l.Kill()
	case KillFollower:
		follower.Kill()
		return follower.ID
	case PartitionLeader:
		c.Isolate(l)
	case PartitionFollower:
		c.Isolate(follower)
		return follower.ID
	case PartitionClient:
		c.Cut(c.Members[client])
		return c.Members[client].ID
	case MuteLeader:
		c.Mute(l)
	case DeafenLeader:
		c.Deafen(l)
	case SlowLeaderDisk:
		l.SlowDisk(slowDisk)
	case SlowFollowerDisk:
		follower.SlowDisk(slowDisk)
		return follower.ID
	case SlowLinks:
		c.Slow(l, slowLink)
	case RestartAll:
		for _, m := range c.Members {
			m.Kill()
		}
		return "all"
	default:
		panic(fmt.Sprintf("cluster: there is no fault %d", f))
	}
	return l.ID
}

// A slow disk takes longer than a heartbeat to sync and less than an election.
const (
	slowDisk = 100 * time.Millisecond
	slowLink = 20 * time.Millisecond
)

// restore takes every fault away and waits for a leader.
func (c *Cluster) restore() {
	c.Heal()
	for _, m := range c.Members {
		if !m.Up() {
			m.Start()
		}
	}
	c.WaitLeader()
}

// pass lets time go by in which clients run against a fault; it synchronises nothing.
func pass(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
