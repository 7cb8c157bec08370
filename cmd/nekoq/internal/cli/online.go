package cli

import (
	"context"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nekoq/client"
	ids "nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/services/errs"
	"nekoq/services/peer/api"
	keys "nekoq/warehouse/api"
)

// Backend is what the online commands need of the Go client.
type Backend interface {
	IDs
	Keys
	Places
	Configuration
	Cluster
	Close() error
}

// IDs is numgen.
type IDs interface {
	NextIDs(ctx context.Context, name string, n int) ([]string, error)
	CreateGenerator(ctx context.Context, r ids.CreateRequest) (ids.Generator, error)
	Generator(ctx context.Context, name string) (ids.Generator, error)
	Generators(ctx context.Context, r ids.ListRequest) (ids.GeneratorList, error)
	UpdateGenerator(ctx context.Context, r ids.UpdateRequest) (ids.Generator, error)
	DeleteGenerator(ctx context.Context, name string) error
	DecodeID(ctx context.Context, r ids.DecodeRequest) (idgen.Decoded, error)
	Workers(ctx context.Context, r ids.WorkersRequest) (ids.WorkerList, error)
}

// Keys is warehouse.
type Keys interface {
	Put(ctx context.Context, r keys.PutRequest, held ...client.KVOption) (keys.WriteResult, error)
	Get(ctx context.Context, r keys.GetRequest) (keys.GetResult, error)
	Delete(ctx context.Context, r keys.DeleteRequest, held ...client.KVOption) (keys.WriteResult, error)
	List(ctx context.Context, r keys.ListRequest) (keys.ListResult, error)
	History(ctx context.Context, r keys.HistoryRequest) (keys.HistoryResult, error)
	// Watch calls fn with the changes as they come, until ctx ends or fn fails.
	Watch(ctx context.Context, r keys.WatchRequest, fn func([]keys.Event) error) error
	Compact(ctx context.Context, revision uint64) (uint64, error)
	KeyStatus(ctx context.Context, stale bool) (keys.Status, error)
}

// Cluster is the system calls.
type Cluster interface {
	Node(ctx context.Context) (client.Node, error)
	Services(ctx context.Context) (client.Services, error)
	ClusterStatus(ctx context.Context) (api.Cluster, error)
	RemoveMember(ctx context.Context, id string, force bool) (api.Done, error)
	PromoteMember(ctx context.Context, id string) (api.Done, error)
	TransferLeadership(ctx context.Context, to string) (api.Done, error)
	CompareHashes(ctx context.Context, content bool) (api.HashReport, error)
}

// defaultEndpoint is where a LocalSwitch without configuration listens.
const defaultEndpoint = "127.0.0.1:9313"

const endpointForm = "host:port, such as " + defaultEndpoint + " (NEKOQ_ENDPOINTS sets it too)"

func (a *app) onlineFlags(cmd *cobra.Command) {
	timeout, err := time.ParseDuration(a.getenv("NEKOQ_TIMEOUT", "5s"))
	if err != nil {
		timeout = -1 // refused when a command runs
	}
	flags := cmd.PersistentFlags()
	flags.StringSliceVar(&a.endpoints, "endpoints", strings.Split(a.getenv("NEKOQ_ENDPOINTS", defaultEndpoint), ","),
		"native doors (host:port) to try, comma separated; NEKOQ_ENDPOINTS names them too")
	flags.DurationVar(&a.timeout, "timeout", timeout, "longest wait for an answer; NEKOQ_TIMEOUT sets it too")
}

// checkOnline looks at the flags of an online command; others have none.
func (a *app) checkOnline(cmd *cobra.Command) error {
	if cmd.Flag("endpoints") == nil {
		a.offline = true
		return nil
	}
	if a.timeout <= 0 {
		return errs.Invalid("--timeout", a.timeout, "a duration above 0, such as 5s (NEKOQ_TIMEOUT sets it too)")
	}
	if len(a.endpoints) == 0 {
		return errs.Invalid("--endpoints", "", endpointForm)
	}
	for i, e := range a.endpoints {
		e = strings.TrimSpace(e)
		if host, port, err := net.SplitHostPort(e); err != nil || host == "" || port == "" {
			return errs.Invalid("--endpoints", e, endpointForm)
		}
		a.endpoints[i] = e
	}
	return nil
}

// online runs fn with a connection and the deadline of --timeout.
func (a *app) online(cmd *cobra.Command, fn func(ctx context.Context, b Backend) error) error {
	return a.connected(func(b Backend) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		defer cancel()
		return fn(ctx, b)
	})
}

// connected is online without a deadline, for what waits by intent.
func (a *app) connected(fn func(b Backend) error) error { return a.over(a.Connect, fn) }

// patiently is connected for what goes on over the loss of servers.
func (a *app) patiently(fn func(b Backend) error) error { return a.over(a.Patient, fn) }

func (a *app) over(connect func(endpoints []string, timeout time.Duration) (Backend, error), fn func(b Backend) error) (err error) {
	b, err := connect(a.endpoints, a.timeout)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := b.Close(); err == nil {
			err = cerr
		}
	}()
	return fn(b)
}
