package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/configs"
	"nekoq/services/app"
	"nekoq/services/auth"
	"nekoq/services/auth/authtest"
	"nekoq/services/httpapi"
	"nekoq/services/httpapi/httpapitest"
)

var update = flag.Bool("update", false, "rewrite docs/openapi.json")

func inProcess(t *testing.T, authz auth.Authorizer) *app.App {
	t.Helper()
	cfg := configs.Default()
	cfg.Node.DataDir = ""
	a, err := app.New(cfg, app.Deps{Log: testLog{t}, InProcess: true, Auth: authz})
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		require.NoError(t, a.Stop(ctx))
	})
	return a
}

// docs/openapi.json is the document that is served.
func TestOpenAPIDocumentIsGolden(t *testing.T) {
	a := inProcess(t, nil)
	doc, err := a.HTTP().Document()
	require.NoError(t, err)
	var pretty bytes.Buffer
	require.NoError(t, json.Indent(&pretty, doc, "", " "))
	pretty.WriteByte('\n')
	const path = "../../docs/openapi.json"
	if *update {
		require.NoError(t, os.WriteFile(path, pretty.Bytes(), 0o644))
	}
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(have, pretty.Bytes()), "docs/openapi.json is not what is served any more: make fix-golden")
}

// Every route is in the document and every documented route is served.
func TestEveryRouteIsDocumented(t *testing.T) {
	httpapitest.CheckDocument(t, inProcess(t, nil).HTTP())
}

// Every route that is not public asks the authorizer before it acts.
func TestEveryRouteAsksFirst(t *testing.T) {
	httpapitest.CheckAsks(t, func(deny *authtest.Recorder) *httpapi.Server { return inProcess(t, deny).HTTP() },
		map[string]string{
			"POST /v1/warehouse/txn":      `{"then":[{"put":{"key":"a","text":"b"}}]}`,
			"POST /v1/warehouse/rollback": `{"key":"a","revision":1}`,
		},
		"GET /healthz", "GET /readyz", "GET /openapi.json", "GET /docs", "GET /docs/{file}")
}
