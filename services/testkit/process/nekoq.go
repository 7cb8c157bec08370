package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

// Nekoq is one node run from the built binary. Its addresses and folder stay the
// same over restarts.
type Nekoq struct {
	ID                               string
	HTTP, Native, Cluster, Dir, Etcd string
	bin                              string
	args                             []string
	starts                           int
	*Process
}

// Options of a NekoQ cluster of processes.
type Options struct {
	Bin   string   // the built binary
	Dir   string   // holds a folder a node and the logs
	Nodes int      // 1, 3 or 5; with 0 one LocalSwitch
	Set   []string // more --set key=value for every node
}

// NewNekoq prepares the nodes without starting them. Ports are free loopback ports.
func NewNekoq(o Options) ([]*Nekoq, error) {
	n := max(o.Nodes, 1)
	addrs, err := FreePorts(4 * n)
	if err != nil {
		return nil, err
	}
	var nodes []*Nekoq
	var peers []string
	for i := range n {
		id := fmt.Sprintf("n%d", i+1)
		nodes = append(nodes, &Nekoq{
			ID: id, bin: o.Bin, Dir: filepath.Join(o.Dir, id),
			HTTP: addrs[4*i], Native: addrs[4*i+1], Cluster: addrs[4*i+2], Etcd: addrs[4*i+3],
		})
		peers = append(peers, fmt.Sprintf("%q", id+"="+addrs[4*i+2]))
	}
	for _, node := range nodes {
		node.args = []string{
			"serve", "--data-dir", node.Dir, "--node-id", node.ID,
			"--set", "http.listen=" + node.HTTP, "--set", "native.listen=" + node.Native,
			"--set", "warehouse.etcd.listen=" + node.Etcd,
		}
		if o.Nodes > 0 {
			node.args = append(
				node.args, "--mode", "cluster", "--insecure",
				"--set", "cluster.listen="+node.Cluster,
				"--set", "cluster.peers=["+strings.Join(peers, ",")+"]",
			)
		}
		for _, s := range o.Set {
			node.args = append(node.args, "--set", s)
		}
	}
	return nodes, nil
}

// JoinNekoq prepares one more node that joins through the members given.
func JoinNekoq(o Options, id string, members []*Nekoq) (*Nekoq, error) {
	addrs, err := FreePorts(4)
	if err != nil {
		return nil, err
	}
	node := &Nekoq{ID: id, bin: o.Bin, Dir: filepath.Join(o.Dir, id), HTTP: addrs[0], Native: addrs[1], Cluster: addrs[2], Etcd: addrs[3]}
	var join []string
	for _, m := range members {
		join = append(join, fmt.Sprintf("%q", m.Cluster))
	}
	node.args = []string{
		"serve", "--data-dir", node.Dir, "--node-id", id, "--mode", "cluster", "--insecure",
		"--set", "http.listen=" + node.HTTP, "--set", "native.listen=" + node.Native, "--set", "warehouse.etcd.listen=" + node.Etcd,
		"--set", "cluster.listen=" + node.Cluster, "--set", "cluster.join=[" + strings.Join(join, ",") + "]",
	}
	for _, s := range o.Set {
		node.args = append(node.args, "--set", s)
	}
	return node, nil
}

// Start runs the node, with further arguments if any.
func (n *Nekoq) Start(more ...string) error {
	n.starts++
	p, err := Start(filepath.Dir(n.Dir), fmt.Sprintf("%s.%d", n.ID, n.starts), nil, n.bin, append(append([]string{}, n.args...), more...)...)
	if err == nil {
		n.Process = p
	}
	return err
}

// Ready waits until /readyz answers 200, and fails at once if the process ends.
func (n *Nekoq) Ready(ctx context.Context, d time.Duration) error {
	return n.answers(ctx, d, "/readyz", "ready")
}

// Alive is Ready for a node that may have no reason to be: it waits for /healthz.
func (n *Nekoq) Alive(ctx context.Context, d time.Duration) error {
	return n.answers(ctx, d, "/healthz", "alive")
}

func (n *Nekoq) answers(ctx context.Context, d time.Duration, path, state string) error {
	var ended error
	err := Until(ctx, d, func(ctx context.Context) error {
		select {
		case <-n.Done():
			ended = fmt.Errorf("%s ended with code %d:\n%s", n.ID, n.ExitCode(), n.Logs())
			return nil
		default:
		}
		_, err := n.Get(ctx, path)
		return err
	})
	if ended != nil {
		return ended
	}
	if err != nil {
		return fmt.Errorf("%s is not %s: %w\n%s", n.ID, state, err, n.Logs())
	}
	return nil
}

// Get asks the node's HTTP door and wants 200.
func (n *Nekoq) Get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status + ": " + strings.TrimSpace(string(b)))
	}
	return b, err
}

// Endpoints are the native doors.
func Endpoints(nodes []*Nekoq) []string {
	var e []string
	for _, n := range nodes {
		e = append(e, n.Native)
	}
	return e
}
