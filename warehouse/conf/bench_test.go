package conf_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nekoq/client"
	"nekoq/services/localswitch"
	"nekoq/warehouse/conf"
	"nekoq/warehouse/conf/api"
)

// cpu is the processor time that this process has used, server and clients alike.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// crowd is how many listen.
const crowd = 10_000

// publishing publishes once per iteration and waits until everybody has it: got gets
// one value for each notification.
func publishing(b *testing.B, sw *localswitch.Switch, listeners int, got <-chan struct{}) {
	ctx := b.Context()
	c := sw.Client().Conf()
	n := 0
	b.ResetTimer()
	began := cpu()
	for b.Loop() {
		n++
		_, err := c.Publish(ctx, client.ConfPublish{Direct: true, WriteRequest: client.ConfWrite{Address: at("default/app/k.yaml"), Bytes: fmt.Appendf(nil, "port: %d\nname: a service with some settings\n", n)}})
		if err != nil {
			b.Fatal(err)
		}
		for range listeners {
			<-got
		}
	}
	b.ReportMetric(float64((cpu()-began).Nanoseconds())/1000/float64(n)/float64(listeners), "cpu-us/notification")
	b.ReportMetric(float64(listeners)*float64(n)/b.Elapsed().Seconds(), "notifications/s")
}

func crowded(b *testing.B) (*localswitch.Switch, string) {
	b.Helper()
	sw := localswitch.ForTest(b)
	_, err := sw.Client().Conf().Publish(b.Context(), client.ConfPublish{Direct: true, WriteRequest: client.ConfWrite{Address: at("default/app/k.yaml"), Bytes: []byte("port: 0\n")}})
	if err != nil {
		b.Fatal(err)
	}
	e, err := sw.Client().Conf().GetAll(b.Context(), client.ConfQuery{Group: "app"})
	if err != nil {
		b.Fatal(err)
	}
	return sw, e.Hash
}

// polls is how many long-poll over TCP: server and clients are one process here, and
// 20,000 open files are what a process commonly may have.
const polls = 9_900

// One publish to 10,000 listeners: inside the server, through one Go client, and by
// long polls over as many TCP connections.
func BenchmarkListeners(b *testing.B) {
	b.Run("service", func(b *testing.B) {
		sw, hash := crowded(b)
		got := make(chan struct{}, crowd)
		ctx, cancel := context.WithCancel(b.Context())
		var wg sync.WaitGroup
		for i := range crowd {
			l, err := sw.App().Conf().Listen(ctx, api.EffectiveRequest{Group: "app", Client: fmt.Sprint("c", i), Hash: hash}, conf.Peer{})
			if err != nil {
				b.Fatal(err)
			}
			wg.Go(func() {
				defer l.Close()
				for {
					if _, err := l.Next(ctx); err != nil {
						return
					}
					got <- struct{}{}
				}
			})
		}
		publishing(b, sw, crowd, got)
		cancel()
		wg.Wait()
	})
	b.Run("client", func(b *testing.B) {
		sw, _ := crowded(b)
		got := make(chan struct{}, crowd)
		ctx, cancel := context.WithCancel(b.Context())
		var clients []*client.Client // a connection has at most 8,192 streams
		for range 4 {
			c, err := client.New(client.Config{
				Endpoints: []string{"in-process"}, Dialer: func(ctx context.Context, _ string) (net.Conn, error) { return sw.App().Dial(ctx) },
			})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			clients = append(clients, c)
		}
		var all []*client.ConfListener
		for i := range crowd {
			l, err := clients[i%len(clients)].Conf().Subscribe(ctx, client.ConfSubscription{
				Group: "app", Client: fmt.Sprint("c", i), Wait: time.Minute, OnChange: func(_, _ *client.ConfSet) { got <- struct{}{} },
			})
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, l)
		}
		publishing(b, sw, crowd, got)
		cancel()
		for _, l := range all {
			l.Close()
		}
	})
	b.Run("long-poll", func(b *testing.B) {
		sw, hash := crowded(b)
		srv := httptest.NewServer(sw.Handler())
		defer srv.Close()
		got := make(chan struct{}, polls)
		ctx, cancel := context.WithCancel(b.Context())
		var wg, up sync.WaitGroup
		up.Add(polls)
		web := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: polls, DialContext: (&net.Dialer{Timeout: time.Minute}).DialContext}}
		for i := range polls {
			wg.Go(func() {
				poll(ctx, web, fmt.Sprintf("%s/v1/warehouse/config/effective/app?client=c%d&wait=5m&hash=", srv.URL, i), hash, up.Done, got)
			})
		}
		up.Wait()
		for { // all of them wait
			l, err := sw.App().Conf().Listeners(ctx, api.ListenersRequest{})
			if err != nil {
				b.Fatal(err)
			}
			if len(l.Listeners) == polls {
				break
			}
			<-time.After(50 * time.Millisecond)
		}
		publishing(b, sw, polls, got)
		cancel()
		wg.Wait()
		web.CloseIdleConnections()
	})
}

// poll is a client that long-polls.
func poll(ctx context.Context, web *http.Client, url, hash string, started func(), got chan<- struct{}) {
	for first := true; ; first = false {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+hash, nil)
		if first {
			started()
		}
		res, err := web.Do(req)
		if err != nil {
			return
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil {
			return
		}
		if !strings.Contains(string(b), `"changed":true`) {
			continue
		}
		_, rest, _ := strings.Cut(string(b), `"hash":"`)
		hash, _, _ = strings.Cut(rest, `"`)
		got <- struct{}{}
	}
}

// Reads of what a client gets of a group of 20 keys, in an area three deep.
func BenchmarkEffective(b *testing.B) {
	sw := localswitch.ForTest(b)
	f := &fixture{sw: sw, conf: sw.Client().Conf(), ctx: b.Context()}
	for _, a := range [][2]string{{"eu", "default"}, {"north", "eu"}} {
		if _, err := sw.Client().Areas().Create(f.ctx, a[0], a[1], ""); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 20 {
		if _, err := f.tryPublish(fmt.Sprintf("%s/app/k%d", []string{"default", "eu", "north"}[i%3], i), strings.Repeat("v", 200)); err != nil {
			b.Fatal(err)
		}
	}
	e, err := f.conf.GetAll(f.ctx, client.ConfQuery{Area: "north", Group: "app"})
	if err != nil {
		b.Fatal(err)
	}
	svc := sw.App().Conf()
	for name, q := range map[string]client.ConfQuery{
		"values": {Area: "north", Group: "app"}, "unchanged": {Area: "north", Group: "app", Hash: e.Hash}, "one": {Area: "north", Group: "app", Key: "k1"},
	} {
		b.Run("service/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := svc.Effective(f.ctx, q); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("client/"+name, func(b *testing.B) {
			b.SetParallelism(32)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := f.conf.GetAll(f.ctx, q); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
