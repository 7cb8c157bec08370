package configs

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// settings are the two modes, each with what it demands and with every service
// on, or off.
func settings() map[string][]string {
	cluster := []string{"mode=cluster", "insecure=true", "node.id=n1", "cluster.join=127.0.0.1:9321"}
	off := []string{"services.numgen=false", "services.warehouse=false"}
	return map[string][]string{
		"localswitch": {}, "localswitch, services off": off,
		"cluster": cluster, "cluster, services off": append(slices.Clone(cluster), off...),
	}
}

// odd are values that a key of the type may well refuse.
func odd(f *field) []string {
	switch f.typ.Kind() {
	case reflect.String, reflect.Slice:
		return []string{"?", "127.0.0.1", "127.0.0.1:70000", "127.0.0.1:http", "0.0.0.0"}
	case reflect.Bool:
		return nil
	}
	if f.typ == durationType {
		return []string{"-1s", "0s", "1ns", "1500ms", "2h", "2500000h"}
	}
	return []string{"-1", "0", "1", "4096", strconv.Itoa(math.MaxInt)}
}

// refusals are the mistakes that value of key makes beside set.
func refusals(set []string, key, value string) []string {
	_, err := Load(Source{Set: append(slices.Clone(set), key+"="+value)})
	list, _ := errors.AsType[Problems](err)
	var out []string
	for _, p := range list {
		out = append(out, p.Key+": "+p.Err.Message)
	}
	return out
}

// A value is as good or bad in one mode as in the other, and whether the service
// that uses it is on or off.
func TestLimitsHoldInEitherModeAndOfServicesThatAreOff(t *testing.T) {
	// These say how the modes differ.
	own := []string{"mode", "insecure", "node.data_dir"}
	refused := 0
	for key, f := range fieldsByKey {
		if slices.Contains(own, key) {
			continue
		}
		for _, value := range odd(f) {
			want := refusals(nil, key, value)
			refused += len(want)
			for name, set := range settings() {
				require.Equal(t, want, refusals(set, key, value), "%s=%s, %s", key, value, name)
			}
		}
	}
	require.Greater(t, refused, 300)
}

// What is refused is named with its value and its limit, and no number may be
// below 0.
func TestRefusalsNameKeyValueAndLimit(t *testing.T) {
	for key, f := range fieldsByKey {
		number := f.typ == durationType || f.typ.Kind() == reflect.Int || f.typ.Kind() == reflect.Int64 || f.typ.Kind() == reflect.Float64
		if !number {
			continue
		}
		value := "-1"
		if f.typ == durationType {
			value = "-1s"
		}
		_, err := Load(Source{Set: []string{key + "=" + value}})
		list, _ := errors.AsType[Problems](err)
		at := slices.IndexFunc(list, func(p Problem) bool { return p.Key == key })
		require.GreaterOrEqual(t, at, 0, "%s=%s is taken", key, value)
		p := list[at]
		require.Equal(t, "--set", p.Origin)
		require.Len(t, p.Err.Details, 1, key)
		d := p.Err.Details[0]
		require.Equal(t, key, d.Field)
		require.Equal(t, value, d.Value, key)
		require.NotEmpty(t, d.Limit, key)
		require.True(t, strings.HasPrefix(p.Err.Message, key+`: "`+value+`"`), p.Err.Message)
		require.Contains(t, p.Err.Message, d.Limit)
	}
}

// A value that does not go with another one names that one and what it is.
func TestLimitsThatOtherKeysSet(t *testing.T) {
	for set, want := range map[string]string{
		"cluster.heartbeat_timeout=1s":      `cluster.election_timeout: "450ms" is not valid: want at least heartbeat_timeout = 1s`,
		"cluster.leader_lease_timeout=1s":   `cluster.leader_lease_timeout: "1s" is not valid: want at most heartbeat_timeout = 450ms`,
		"numgen.segment_max_step=10":        `numgen.segment_min_step: "1000" is not valid: want 1 to segment_max_step = 10`,
		"state.max_lag_bytes=5000":          `state.max_lag_bytes: "5000" is not valid: want flush_bytes = 33554432 to 17179869184 bytes`,
		"http.max_page_size=10":             `http.default_page_size: "100" is not valid: want at most max_page_size = 10`,
		"warehouse.max_list_limit=10":       `warehouse.default_list_limit: "100" is not valid: want 1 to 10 (max_list_limit) keys`,
		"cluster.entry_wait=5s":             `cluster.entry_wait: "5s" is not valid: want 0s to 1s`,
		"localswitch.max_pending_bytes=100": `localswitch.max_pending_bytes: "100" is not valid: want 1048576 to 1099511627776`,
		"node.id=N 1":                       `node.id: "N 1" is not valid: want 1 to 63 of a-z, 0-9, "-", "_" and ".", beginning with a letter or digit`,
		"http.listen=127.0.0.1:70000":       `http.listen: "127.0.0.1:70000" is not valid: want host:port with a port from 0 (any free one) to 65535`,
	} {
		require.Equal(t, []string{want}, problems(t, Source{Set: []string{set}}), set)
	}
}
