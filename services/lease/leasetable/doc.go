// Package leasetable is the replicated part of leases: the tables, the
// appliers, and the functions with which other services' appliers grant, renew,
// attach, detach and revoke inside their own commands.
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
// expiry waits in line.
//
// # Rules
//
// Everything here is called from an applier, by the one goroutine that applies,
// except the read functions, which take any state.Reader. It obeys the rules of
// determinism of internal/table packages. Appliers of any service may import it.
package leasetable
