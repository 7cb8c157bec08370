package peer

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
)

func TestPeersList(t *testing.T) {
	got, bad := ParsePeers([]string{"n2=127.0.0.1:9312", " n1 = host:9311 "})
	require.Empty(t, bad)
	require.Equal(t, []Peer{{"n1", "host:9311"}, {"n2", "127.0.0.1:9312"}}, got)

	for name, tc := range map[string]struct {
		list []string
		want []string
	}{
		"no id":             {[]string{"127.0.0.1:9311"}, []string{"peers[0]", "id=host:port"}},
		"bad id":            {[]string{"N1=127.0.0.1:9311"}, []string{"peers[0]", "N1", "a-z"}},
		"no port":           {[]string{"n1=127.0.0.1"}, []string{"peers[0]", "host:port"}},
		"port 0":            {[]string{"n1=127.0.0.1:0"}, []string{"peers[0]", "1 to 65535"}},
		"unspecified host":  {[]string{"n1=0.0.0.0:9311"}, []string{"peers[0]", "other nodes can reach"}},
		"duplicate id":      {[]string{"n1=a:1", "n1=b:1"}, []string{"peers[1]", `"n1" is in peers[0] too`}},
		"duplicate address": {[]string{"n1=a:1", "n2=a:1"}, []string{"peers[1]", `"a:1" is in peers[0] too`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, bad := ParsePeers(tc.list)
			require.Len(t, bad, 1)
			for _, w := range tc.want {
				require.ErrorContains(t, bad[0], w)
			}
		})
	}
}

func TestValidateNamesEveryField(t *testing.T) {
	require.Empty(t, DefaultConfig().ValidateFor("n1"))
	c := DefaultConfig()
	c.Listen, c.Advertise, c.Join = "nowhere", ":9311", []string{"a:1", "b"}
	c.DialTimeout, c.DeadAfter, c.CatchUpEntries, c.MaxConnections, c.HashInterval = 0, time.Second, 0, 1, -1
	text := errors.Join(c.Validate()...).Error()
	for _, field := range []string{"listen", "advertise", "join[1]", "dial_timeout", "dead_after", "catch_up_entries", "max_peer_connections", "hash_interval"} {
		require.Contains(t, text, field)
	}
	c = DefaultConfig()
	c.Peers = []string{"n2=a:1"}
	bad := c.ValidateFor("n1")
	require.Len(t, bad, 1)
	require.ErrorContains(t, bad[0], "n1=host:port")
	require.Equal(t, errs.InvalidArgument, errs.CodeOf(bad[0]))
}

func TestEveryFieldIsDocumented(t *testing.T) {
	typ := reflect.TypeFor[Config]()
	for i := range typ.NumField() {
		f := typ.Field(i)
		require.NotEmpty(t, f.Tag.Get("koanf"), f.Name)
		require.NotEmpty(t, f.Tag.Get("doc"), f.Name)
		require.Equal(t, strings.Contains(f.Name, "Token"), f.Tag.Get("secret") == "true", f.Name)
	}
}

func TestListeningEverywhereNeedsAnAddressForOthers(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:9311", ":9311", "[::]:9311"} {
		c := DefaultConfig()
		c.Listen, c.Join = listen, []string{"a:1"}
		bad := c.ValidateFor("n1")
		require.Len(t, bad, 1)
		require.ErrorContains(t, bad[0], "advertise")
		c.Advertise = "10.0.0.1:9311"
		require.Empty(t, c.ValidateFor("n1"))
		c.Advertise, c.Peers = "", []string{"n1=10.0.0.1:9311"}
		require.Empty(t, c.ValidateFor("n1"))
	}
}
