package conf_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nekoq/client"
	"nekoq/services/errs"
	"nekoq/services/localswitch"
)

// A client keeps working with the server stopped: it keeps what it has, starts from
// its cache file, and goes on when a server is back.
func TestClientOffline(t *testing.T) {
	dir := t.TempDir()
	data, cache := filepath.Join(dir, "data"), filepath.Join(dir, "cache", "app.json")
	up := func() *localswitch.Switch {
		sw, err := localswitch.Start(t.Context(), localswitch.Options{DataDir: data})
		if err != nil {
			t.Fatal(err)
		}
		return sw
	}
	sw := up()
	f := on(t, sw)
	f.publish("default/app/a.yaml", "port: 80\nhost: a")
	cur := make(chan *localswitch.Switch, 1)
	cur <- sw
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		s := <-cur
		cur <- s
		if s == nil {
			return nil, errs.New(errs.Unavailable, "nobody listens")
		}
		return s.App().Dial(ctx)
	}
	newClient := func() *client.Client {
		c, err := client.New(client.Config{Endpoints: []string{"test:1"}, Dialer: dial, BackoffMax: 20 * time.Millisecond})
		f.ok(err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	changes := make(chan *client.ConfSet, 10)
	sub := client.ConfSubscription{Group: "app", CacheFile: cache, Wait: 10 * time.Second, OnChange: func(_, now *client.ConfSet) { changes <- now }}
	l, err := newClient().Conf().Subscribe(f.ctx, sub)
	f.ok(err)
	defer l.Close()
	bound := make(chan settings, 10)
	b, err := client.BindConf(l, "a.yaml", func(s *settings) { bound <- *s })
	f.ok(err)
	if *b.Load() != (settings{80, "a"}) || l.Current().Cached {
		t.Fatalf("%+v", b.Load())
	}
	f.publish("default/app/a.yaml", "port: 81\nhost: b")
	if now := <-changes; now.Text("a.yaml", "") != "port: 81\nhost: b" {
		t.Fatal(now)
	}
	if s := <-bound; s != (settings{81, "b"}) {
		t.Fatal(s)
	}
	f.publish("default/app/a.yaml", "port: high")
	<-changes
	if b.Err() == nil || b.Load().Port != 81 {
		t.Fatal("a content that does not fit took the place of one that did", b.Err())
	}

	<-cur
	cur <- nil
	stopped(t, sw)
	if l.Current().Text("a.yaml", "") != "port: high" {
		t.Fatal("the running client lost what it had")
	}
	f.eventually("the running client tells that no server answers", func() bool { return l.Err() != nil })
	sub.Wait = 50 * time.Millisecond
	late, err := newClient().Conf().Subscribe(f.ctx, sub)
	f.ok(err)
	defer late.Close()
	if err := late.Err(); err == nil || !strings.Contains(err.Error(), "nobody listens") {
		t.Fatal("a client that goes on with its file does not tell why: ", err)
	}
	if !late.Current().Cached || late.Current().Text("a.yaml", "") != "port: high" {
		t.Fatalf("%+v", late.Current())
	}
	other := sub
	other.Group = "other"
	_, err = newClient().Conf().Subscribe(f.ctx, other)
	f.refused(err, errs.Corrupt, "another group")
	other.CacheFile = ""
	if _, err = newClient().Conf().Subscribe(f.ctx, other); err == nil {
		t.Fatal("no server, no cache, and no error")
	}
	f.ok(os.WriteFile(filepath.Join(dir, "bad"), []byte("{"), 0o600))
	sub.CacheFile = filepath.Join(dir, "bad")
	_, err = newClient().Conf().Subscribe(f.ctx, sub)
	f.refused(err, errs.Corrupt, "damaged")

	sw = up()
	defer stopped(t, sw)
	<-cur
	cur <- sw
	f.conf = sw.Client().Conf()
	f.eventually("servers confirm what both have", func() bool { return !late.Current().Cached && late.Err() == nil && l.Err() == nil })
	f.publish("default/app/a.yaml", "port: 82")
	f.eventually("both clients have the newest", func() bool {
		return l.Current().Text("a.yaml", "") == "port: 82" && late.Current().Text("a.yaml", "") == "port: 82" && b.Load().Port == 82
	})
	if late.Current().Cached || b.Err() != nil {
		t.Fatal("still cached", b.Err())
	}
	left, err := filepath.Glob(filepath.Join(dir, "cache", "*.new"))
	if err != nil || len(left) > 0 {
		t.Fatal("files are left behind", left, err)
	}
}
