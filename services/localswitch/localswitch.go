// Package localswitch starts a whole NekoQ inside the calling process: every
// service on, no port opened, no peer, no file kept. It is how programs test
// against NekoQ:
//
//	sw := localswitch.ForTest(t)
//	_, err := sw.Client().KV().Put(ctx, "greeting", []byte("hello"))
//
// A Switch is safe for concurrent use. Tests and development tools import it.
package localswitch

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"nekoq/client"
	"nekoq/configs"
	"nekoq/services/app"
	"nekoq/services/clock"
)

// stopTimeout bounds the stop of a Switch that ForTest made.
const stopTimeout = 30 * time.Second

// Options of Start. The zero value is a temporary LocalSwitch that logs nothing.
type Options struct {
	// DataDir keeps the data, every write synced; "" keeps nothing.
	DataDir string
	// Log takes the log lines; nil drops them.
	Log io.Writer
	// Clock replaces the machine's clock.
	Clock clock.Clock
	// Change adjusts the configuration before it is checked.
	Change func(*configs.Config)
}

// Switch is a running LocalSwitch.
type Switch struct {
	app    *app.App
	client *client.Client
}

// Start runs a LocalSwitch and returns when it serves.
func Start(ctx context.Context, o Options) (*Switch, error) {
	cfg := configs.Default()
	cfg.Node.ID = configs.DefaultNodeID
	cfg.Node.DataDir = o.DataDir
	if o.Change != nil {
		o.Change(&cfg)
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	a, err := app.New(cfg, app.Deps{Log: o.Log, Clock: o.Clock, InProcess: true})
	if err != nil {
		return nil, err
	}
	if err := a.Start(ctx); err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{
		Endpoints: []string{"in-process"},
		Dialer:    func(ctx context.Context, _ string) (net.Conn, error) { return a.Dial(ctx) },
	})
	if err != nil {
		_ = a.Stop(ctx)
		return nil, err
	}
	return &Switch{app: a, client: c}, nil
}

// Client talks to the Switch over an in-process connection. It ends with the Switch.
func (s *Switch) Client() *client.Client { return s.client }

// Handler is the HTTP door.
func (s *Switch) Handler() http.Handler { return s.app.Handler() }

// HTTPClient sends every request to the HTTP door, whatever host its URL names.
// Answers are complete before they are handed out, so it does not fit streams.
func (s *Switch) HTTPClient() *http.Client {
	return &http.Client{Transport: inProcess{s.app.Handler()}}
}

// App is the node, for tests that look inside.
func (s *Switch) App() *app.App { return s.app }

// Stop drains and stops everything.
func (s *Switch) Stop(ctx context.Context) error {
	err := s.client.Close()
	if e := s.app.Stop(ctx); e != nil {
		err = e
	}
	return err
}

type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	t.handler.ServeHTTP(w, r)
	res := w.Result()
	res.Request = r
	return res, nil
}

// TB is the part of testing.TB that ForTest needs.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
	Context() context.Context
}

// ForTest starts a Switch that stops at the end of the test.
func ForTest(t TB) *Switch {
	t.Helper()
	s, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatalf("localswitch: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("localswitch: stop: %v", err)
		}
	})
	return s
}
