package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const healthTimeout = 5 * time.Second

// serveHealth answers as etcd's /health: serializable asks this node alone, and
// exclude=NOSPACE leaves that alarm out.
func (s *Door) serveHealth(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	q := r.URL.Query()
	reason := s.unhealthy(r.Context(), q.Get("serializable") == "true", q["exclude"])
	code, health := http.StatusOK, "true"
	if reason != "" {
		code, health = http.StatusServiceUnavailable, "false"
	}
	s.metrics.health(reason == "")
	answer(w, code, struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{health, reason})
}

func onlyGet(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}

func (s *Door) unhealthy(ctx context.Context, local bool, exclude []string) string {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	alarms, err := s.alarms(ctx)
	if err != nil {
		return "RANGE ERROR:" + err.Error()
	}
	for _, a := range alarms {
		if !slices.Contains(exclude, a.Alarm.String()) {
			return "ALARM " + a.Alarm.String()
		}
	}
	if id, _ := s.deps.Replica.Leader(); id == "" && !local {
		return "RAFT NO LEADER"
	}
	if _, err := s.store.Head(ctx, local); err != nil {
		return "RANGE ERROR:" + err.Error()
	}
	return ""
}

// check is one of the checks behind /livez and /readyz.
type check struct {
	name string
	ask  func(s *Door, ctx context.Context) error
}

var (
	serializableRead = check{"serializable_read", func(s *Door, ctx context.Context) error {
		_, err := s.store.Head(ctx, true)
		return err
	}}
	linearizableRead = check{"linearizable_read", func(s *Door, ctx context.Context) error {
		_, err := s.store.Head(ctx, false)
		return err
	}}
	dataCorruption = check{"data_corruption", func(s *Door, ctx context.Context) error {
		alarms, err := s.alarms(ctx)
		if err == nil && slices.ContainsFunc(alarms, func(a *pb.AlarmMember) bool { return a.Alarm == pb.AlarmType_CORRUPT }) {
			err = errors.New("alarm activated: CORRUPT")
		}
		return err
	}}
	nonLearner = check{"non_learner", func(s *Door, _ context.Context) error {
		if s.learner() {
			return errors.New("not supported for learner")
		}
		return nil
	}}
)

// probes adds a path that runs checks, and one below it for each of them. exclude
// leaves checks out, verbose shows them all; those that fail are always shown.
func (s *Door) probes(mux *http.ServeMux, path string, checks ...check) {
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { s.probe(w, r, checks) })
	for _, c := range checks {
		mux.HandleFunc(path+"/"+c.name, func(w http.ResponseWriter, r *http.Request) { s.probe(w, r, []check{c}) })
	}
}

func (s *Door) probe(w http.ResponseWriter, r *http.Request, checks []check) {
	if !onlyGet(w, r) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	q := r.URL.Query()
	var report strings.Builder
	failed := false
	for _, c := range checks {
		if slices.Contains(q["exclude"], c.name) {
			fmt.Fprintf(&report, "[+]%s excluded: ok\n", c.name)
			continue
		}
		if err := c.ask(s, ctx); err != nil {
			fmt.Fprintf(&report, "[-]%s failed: %s\n", c.name, grpcError(ctx, err))
			failed = true
			continue
		}
		fmt.Fprintf(&report, "[+]%s ok\n", c.name)
	}
	s.metrics.health(!failed)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if failed {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprint(w, report.String())
		return
	}
	if q.Has("verbose") {
		_, _ = fmt.Fprint(w, report.String())
	}
	_, _ = fmt.Fprint(w, "ok\n")
}
