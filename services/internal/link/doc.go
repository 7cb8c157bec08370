// Package link is what the servers of framed protocols do alike on a connection,
// whatever the frames are: it combines the frames of many senders into few system
// calls, keeps goroutines warm for the next request, and gives each request a
// context that costs one allocation and no timer.
//
// It knows no protocol. services/wire and services/grpcserver import it.
package link
