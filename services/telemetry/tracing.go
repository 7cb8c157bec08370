package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"nekoq/services/errs"
)

// Tracing makes spans. A nil *Tracing is off.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	carry    propagation.TraceContext
}

// Enabled tells whether spans are made; callers keep nothing of it on their hot
// path when it says no.
func (t *Tracing) Enabled() bool { return t != nil && t.provider != nil }

// Request starts a server span, the child of the caller's when the request
// carries a W3C traceparent. end takes the HTTP status.
func (t *Tracing) Request(ctx context.Context, r *http.Request, route string) (context.Context, func(status int)) {
	ctx = t.carry.Extract(ctx, propagation.HeaderCarrier(r.Header))
	ctx, span := t.tracer.Start(ctx, r.Method+" "+route, trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("http.request.method", r.Method), attribute.String("http.route", route),
			attribute.String("url.path", r.URL.Path), attribute.String("client.address", r.RemoteAddr)))
	return ctx, func(status int) {
		span.SetAttributes(attribute.Int("http.response.status_code", status))
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, http.StatusText(status))
		}
		span.End()
	}
}

// Start begins a span inside of a request or a background job. When tracing is
// off it gives back ctx and a function that does nothing.
func (t *Tracing) Start(ctx context.Context, name string, attrs ...attribute.KeyValue) (context.Context, func(error)) {
	if !t.Enabled() {
		return ctx, func(error) {}
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithAttributes(attrs...))
	return ctx, func(err error) {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

func newTracing(ctx context.Context, cfg Config, info Info, log *slog.Logger) (*Tracing, error) {
	if cfg.TraceEndpoint == "" {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(tracesURL(cfg.TraceEndpoint)), otlptracehttp.WithTimeout(cfg.TraceTimeout))
	if err != nil {
		return nil, errs.Invalid("trace_endpoint", cfg.TraceEndpoint, "an OTLP/HTTP address that can be used").Wrap(err)
	}
	// The SDK reports a collector that cannot be reached through this one global
	// hook; without it the text would go to stderr past the log.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("tracing", slog.Any("err", err)) }))
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.TraceSampleRatio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "nekoq"), attribute.String("service.version", info.Version),
			attribute.String("service.instance.id", info.NodeID))),
	)
	return &Tracing{provider: provider, tracer: provider.Tracer("nekoq")}, nil
}

// tracesURL adds OTLP's default path to an address that has none; the exporter
// would post to the root.
func tracesURL(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil || (u.Path != "" && u.Path != "/") {
		return endpoint
	}
	return u.JoinPath("v1", "traces").String()
}

func (t *Tracing) shutdown(ctx context.Context) error {
	if !t.Enabled() {
		return nil
	}
	return t.provider.Shutdown(ctx)
}
