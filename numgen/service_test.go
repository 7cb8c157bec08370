package numgen_test

import (
	"testing"

	"go.uber.org/goleak"

	"nekoq/numgen/numgentest"
	"nekoq/services/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSuiteLocal(t *testing.T) {
	numgentest.Suite(t, func(t *testing.T) []numgentest.Node {
		return []numgentest.Node{numgentest.Local(t, clock.System())}
	})
}

// Three nodes that share one state: everything but the network.
func TestSuiteThreeNodesOneState(t *testing.T) {
	numgentest.Suite(t, func(t *testing.T) []numgentest.Node {
		n := numgentest.Local(t, clock.System())
		var out []numgentest.Node
		for _, id := range []string{"n1", "n2", "n3"} {
			out = append(out, numgentest.Node{Replica: numgentest.Named{Replica: n.Replica, ID: id}, Events: n.Events})
		}
		return out
	})
}
