// Command nekoq is the server and its command line in one binary. It owns
// nothing but the wiring: the words are in internal/cli, the node in services/app.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"

	"google.golang.org/grpc/grpclog"

	"nekoq/cmd/nekoq/internal/cli"
	"nekoq/configs"
	"nekoq/services/app"
)

func main() {
	// The JSON gateway's library tells standard error of every client that goes away. What
	// matters is in the answers, and in our own log.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	env := cli.Standard()
	env.Version = app.Version
	env.Connect, env.Patient = cli.Dial, cli.DialPatient
	env.Serve = serve
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(cli.Main(ctx, os.Args[1:], env))
}

func serve(ctx context.Context, cfg configs.Config) error {
	node, err := app.New(cfg, app.Deps{})
	if err != nil {
		return err
	}
	return node.Run(ctx)
}
