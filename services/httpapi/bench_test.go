package httpapi

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
)

// The hot reads answer through Raw. What the door adds to a bare gin handler is
// the difference between these benchmarks.

func benchAnswer(c *gin.Context) { c.Data(200, "application/json", benchBody) }

var benchBody = []byte(`{"key":"app/db","value":"aGVsbG8gd29ybGQ=","revision":12345}`)

func benchEngines(b testing.TB) map[string]http.Handler {
	gin.SetMode(gin.ReleaseMode)
	bare := gin.New()
	bare.GET("/v1/kv/:key", benchAnswer)
	out := map[string]http.Handler{"bare": bare}
	for _, level := range []string{AccessLogErrors, AccessLogAll} {
		cfg := testConfig()
		cfg.AccessLog = level
		s := newServer(b, cfg, Deps{Metrics: prometheus.NewRegistry(), AccessLog: slog.New(slog.NewTextHandler(discard{}, nil))})
		op := rawOp("kv", "GET", "/v1/kv/{key}", &huma.Param{Name: "stale", In: "query"})
		Raw(s, op, OnParam("read", "warehouse", "kv", "key"), benchAnswer)
		out["door, log "+level] = s.Handler()
	}
	return out
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

var benchOrder = []string{"bare", "door, log " + AccessLogErrors, "door, log " + AccessLogAll}

// nullWriter is a response writer that costs nothing.
type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

func BenchmarkInProcess(b *testing.B) {
	engines := benchEngines(b)
	for _, name := range benchOrder {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			req := httptest.NewRequest("GET", "/v1/kv/app?stale=true", nil)
			req.Header = http.Header{"User-Agent": {"bench"}, "Accept": {"*/*"}}
			w := &nullWriter{http.Header{}}
			for b.Loop() {
				clear(w.h)
				engines[name].ServeHTTP(w, req)
			}
		})
	}
}

func BenchmarkLoopback(b *testing.B) {
	engines := benchEngines(b)
	for _, name := range benchOrder {
		b.Run(name, func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			srv := &http.Server{Handler: engines[name]}
			go func() { _ = srv.Serve(l) }()
			defer func() { _ = srv.Close() }()
			request := []byte("GET /v1/kv/app?stale=true HTTP/1.1\r\nHost: a\r\nUser-Agent: bench\r\n\r\n")
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				conn, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					b.Error(err)
					return
				}
				defer func() { _ = conn.Close() }()
				buf := make([]byte, 4096)
				for pb.Next() {
					if _, err := conn.Write(request); err != nil {
						b.Error(err)
						return
					}
					if _, err := conn.Read(buf); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
