// Package leasetable is the replicated part of leases: the tables, the
// appliers, and the functions with which other services' appliers grant, renew,
// attach, detach and revoke inside their own commands.
//
// # Layout
//
// A lease is one row, and one key that hangs on it stands in that row; further keys have
// a row each, as have long ones. When which lease ends is an index in memory. So a lease
// with one key, which most are, costs one row when it begins and one when it ends.
//
// # The lease clock
//
// Deadlines are in milliseconds of the lease clock, a row of the state. Only the
// leader's loop (package lease) advances it, by the monotonic time it measured
// since its last step; the wall clock never enters. A step is at most MaxStep,
// names the number of the step before it, and is refused when another came
// first, so the intervals that two leaders measured never overlap. A new leader
// goes on from the row: no lease gets its full time back, and none loses time
// that nobody measured.
//
// A command sees the row, which is behind the true time by the part of a step
// that is being measured and by the step in flight. A deadline is therefore
// now + Slack + TTL with Slack = 2 x MaxStep. So a lease never ends early. It ends
// late by at most Slack + one tick + the time without a leader + the time its
// expiry waits in line, and Headroom where it was renewed.
//
// # Keep-alives that write nothing
//
// A renewal that takes a write sets the deadline to now + Slack + TTL + Headroom, and
// one takes a write when less than half of that headroom is left. A lease whose
// deadline is at or after now + Slack + TTL is covered: what a keep-alive promises is
// true already. It is therefore answered from a view, on any node, and never becomes a
// command. What is promised is the row's deadline, which every node has: a new leader
// keeps it, and an expiry, which is decided against the same row by the same clock,
// ends the lease at that deadline and not before.
//
// From a linearizable view that is right because the view is the state at some moment
// between the request and its answer; the true clock is then before the view's
// now + Slack, so a covered lease lives for more than its TTL from that moment on.
//
// A recent view (package replica) may be RecentBound older than the request, so the
// lease must have that much time beside: it then lives for its TTL from the request
// on. What such a view may miss is a revocation that ended less than RecentBound
// before, on a leader that does not know yet that it has been replaced. The next
// keep-alive tells of that one; who must not act on a lease that was revoked demands
// the fencing token, here as with any lease.
//
// All of this measures time by monotonic clocks of running nodes. One that stands still
// with its machine, as a paused virtual machine may, counts as a node that was cut off
// and has not noticed: for half a second of its own time a leader may go on so.
//
// A stale view would not do. Its clock may stand still on a node that was cut off, so
// that a lease looks covered there when it has ended. It may say that a lease is not
// covered, though: that costs a command which may turn out to change nothing.
//
// # Rules
//
// Everything here is called from an applier, by the one goroutine that applies,
// except the read functions, which take any state.Reader. It obeys the rules of
// determinism of internal/table packages. Appliers of any service may import it.
package leasetable
