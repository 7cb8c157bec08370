package history

import (
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// regexpOf takes alternatives, each meant as it stands.
func regexpOf(s string) *regexp.Regexp {
	out := ""
	for i, part := range regexp.MustCompile(`\|`).Split(s, -1) {
		if i > 0 {
			out += "|"
		}
		out += regexp.QuoteMeta(part)
	}
	return regexp.MustCompile(out)
}

func TestLeases(t *testing.T) {
	const ttl, late = 10 * time.Second, 5 * time.Second
	for _, c := range []struct {
		name, bad string
		run       func(h *Leases, after func(s float64))
	}{
		{"ends in time", "", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(6)
			h.Look(1).Remaining(1, 4*time.Second)
			h.Begin().Kept(1)
			after(10)
			h.Gone(1, "deleted")
		}},
		{"ends early", "2s early", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(8)
			h.Gone(1, "deleted")
		}},
		{"a keep-alive is forgotten", "4s early", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(4)
			h.Begin().Kept(1)
			after(6)
			h.Gone(1, "deleted")
		}},
		{"a keep-alive without an answer may be forgotten", "", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(4)
			h.Begin().Maybe(1)
			after(6)
			h.Gone(1, "deleted")
		}},
		{"revoked", "", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(1)
			h.Revoking(1)
			h.Gone(1, "deleted")
		}},
		{"kept alive after its end", "kept alive by what began at 11s, and deleted at 10s", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(10)
			h.Gone(1, "deleted")
			after(1)
			h.Begin().Kept(1)
		}},
		{"gone while its keep-alive was under way, which was acknowledged", "after a keep-alive of 9s", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(9)
			k := h.Begin()
			after(2)
			h.Gone(1, "deleted")
			after(1)
			k.Kept(1)
		}},
		{"less left than it has", "3s left at 5s", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(5)
			h.Look(1).Remaining(1, 3*time.Second)
		}},
		{"more left than its TTL", "11s left of a TTL of 10s", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			h.Look(1).Remaining(1, 11*time.Second)
		}},
		{"never ends", "there until 16s, 6s after the end of its time", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(16)
		}},
		{"ends far too late", "there until 18s, 8s after", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(18)
			h.Gone(1, "deleted")
		}},
		{"found to be gone, some time later", "", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(60)
			h.Found(1, "not there")
		}},
		{"found to be gone too early", "1s early", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			after(9)
			h.Found(1, "not there")
		}},
		{"granted twice", "granted twice", func(h *Leases, after func(s float64)) {
			h.Begin().Granted(1, ttl)
			h.Begin().Granted(1, ttl)
		}},
		{"seen and never granted", "never granted", func(h *Leases, after func(s float64)) {
			h.Look(1).Remaining(1, time.Second)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := NewLeases()
				c.run(h, func(s float64) { <-time.After(time.Duration(s * float64(time.Second))) })
				got := h.verdict(late)
				if c.bad == "" {
					require.Empty(t, got)
					return
				}
				require.NotEmpty(t, got)
				require.Contains(t, got[0], c.bad)
			})
		})
	}
}
