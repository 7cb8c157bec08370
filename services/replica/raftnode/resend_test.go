package raftnode

import (
	"errors"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// Entries that a follower could not write are sent again, the same ones, until it has
// written them or the leader's term is over; a follower with another log is answered
// to at once.
func TestEntriesThatCouldNotBeWrittenAreSentAgain(t *testing.T) {
	end := func() (*transport, string) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		return newTransport(tcpPeers{Listener: ln}, ln.Addr().String(), DefaultConfig(), &hclogger{log: quiet()}), ln.Addr().String()
	}
	a, _ := end()
	b, addr := end()
	defer func() { require.NoError(t, errors.Join(a.Close(), b.Close())) }()
	full := raft.AppendEntriesResponse{Term: 9, LastLog: 4}
	for name, c := range map[string]struct {
		answers []raft.AppendEntriesResponse
		tries   int // that the leader's term lasts for
		success bool
	}{
		"space returns":       {[]raft.AppendEntriesResponse{full, full, full, {Term: 9, Success: true}}, 10, true},
		"the term is over":    {[]raft.AppendEntriesResponse{full, full}, 1, false},
		"another log":         {[]raft.AppendEntriesResponse{{Term: 9, LastLog: 2, NoRetryBackoff: true}}, 10, false},
		"a newer term":        {[]raft.AppendEntriesResponse{{Term: 10}}, 10, false},
		"not even after long": {slices.Repeat([]raft.AppendEntriesResponse{full}, patientStores+1), 1000, false},
		"stored right away":   {[]raft.AppendEntriesResponse{{Term: 9, Success: true}}, 10, true},
	} {
		t.Run(name, func(t *testing.T) {
			tries := c.tries
			a.again = func(term uint64) bool {
				require.Equal(t, uint64(9), term)
				tries--
				return tries >= 0
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				for i := range c.answers {
					rpc := <-b.Consumer()
					if got := rpc.Command.(*raft.AppendEntriesRequest); len(got.Entries) != 3 || got.Entries[0].Index != 5 {
						t.Errorf("message %d: %d entries", i, len(got.Entries))
					}
					rpc.Respond(&c.answers[i], nil)
				}
			})
			req := &raft.AppendEntriesRequest{
				Term: 9, PrevLogEntry: 4, PrevLogTerm: 9, Entries: entries(5, 7, 9),
				RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("a")},
			}
			var resp raft.AppendEntriesResponse
			require.NoError(t, a.AppendEntries("b", raft.ServerAddress(addr), req, &resp))
			require.Equal(t, c.success, resp.Success)
			wg.Wait()
		})
	}
}
