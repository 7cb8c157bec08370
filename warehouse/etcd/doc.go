// Package etcd is the etcd v3 door: etcd's gRPC services and their JSON gateway on
// one port, over warehouse.
//
// It owns the translation between etcd's requests and warehouse's, etcd's error
// texts and codes, watch streams, the users, roles and permissions of this door
// (replicated, in tables of its own), the client addresses of the members, and the
// numbers of those that were added from outside.
// What a request does is decided by warehouse. docs/etcd.md says field by field
// what is the same as in etcd and what differs.
//
// A Door is safe for concurrent use. Each watch stream has two goroutines, whatever
// the number of its watches; the connection splitter has none of its own beyond the
// accept loop and a goroutine that ends with a connection's first bytes. The
// composition and tests import it.
package etcd
