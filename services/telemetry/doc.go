// Package telemetry sets up what a process says about itself: slog in text or
// JSON with a level that can change at run time, a Prometheus registry, and
// OpenTelemetry tracing that costs nothing while it is off.
//
// It owns the log's output, the registry and the exporter; it knows nothing of
// the services. Everything here is safe for concurrent use after New. Every
// package above floor 0 may import it, but most only take a *slog.Logger and a
// prometheus.Registerer in their Deps.
package telemetry
