package api

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"

	"nekoq/services/errs"
)

// Rule picks clients. All members that are given must fit; a rule without any fits
// nobody.
type Rule struct {
	IPs     []string            `json:"ips,omitempty" doc:"Client addresses or ranges, such as 10.1.2.3, 10.0.0.0/8 or 10.0.0.1-10.0.0.9; one must fit."`
	Labels  map[string][]string `json:"labels,omitempty" doc:"Labels; for each, one of the values must be the client's."`
	Percent float64             `json:"percent,omitempty" doc:"This share of the clients, 0.01 to 100, picked by a stable hash of their names."`
}

// Check refuses a rule that could not be read later.
func (r *Rule) Check(field string) error {
	if len(r.IPs) == 0 && len(r.Labels) == 0 && r.Percent == 0 {
		return errs.Invalid(field, "", "at least one of ips, labels and percent")
	}
	if !(r.Percent == 0 || r.Percent >= 0.01 && r.Percent <= 100) {
		return errs.Invalid(field+".percent", r.Percent, "0.01 to 100")
	}
	for _, s := range r.IPs {
		if _, ok := parseRange(s); !ok {
			return errs.Invalid(field+".ips", s, "an address, a prefix such as 10.0.0.0/8, or a range such as 10.0.0.1-10.0.0.9")
		}
	}
	n := len(r.IPs)
	for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
		if name == "" || len(name) > MaxGroup || len(r.Labels[name]) == 0 {
			return errs.Invalid(field+".labels", name, "names of 1 to 128 bytes, each with at least one value")
		}
		for _, v := range r.Labels[name] {
			if len(v) > MaxKey {
				return errs.Invalid(field+".labels."+name, v, "values of up to 256 bytes")
			}
		}
		n += len(r.Labels[name])
	}
	if n > MaxRuleEntries {
		return errs.Invalid(field, n, "at most "+strconv.Itoa(MaxRuleEntries)+" addresses and values")
	}
	return nil
}

// Client is who asks, as rules see it.
type Client struct {
	Name   string
	IP     netip.Addr // the zero Addr when it is not known, which fits no range
	Labels map[string]string
}

// Fits tells whether the rule picks c. salt parts the shares of different rules:
// a client's place in one says nothing of its place in another, and a larger share
// of the same salt holds the smaller one.
func (r *Rule) Fits(c *Client, salt string) bool {
	if len(r.IPs) == 0 && len(r.Labels) == 0 && r.Percent == 0 {
		return false
	}
	if len(r.IPs) > 0 && !slices.ContainsFunc(r.IPs, func(s string) bool {
		x, ok := parseRange(s)
		return ok && x.contains(c.IP)
	}) {
		return false
	}
	for name, values := range r.Labels {
		v, ok := c.Labels[name]
		if !ok || !slices.Contains(values, v) {
			return false
		}
	}
	return r.Percent == 0 || place(c, salt) < r.Percent*100
}

// place is where a client stands among ten thousand.
func place(c *Client, salt string) float64 {
	name := c.Name
	if name == "" {
		name = c.IP.String()
	}
	return float64(xxh3.HashString(salt+"\x00"+name) % 10_000)
}

type ipRange struct{ from, to netip.Addr }

func parseRange(s string) (r ipRange, ok bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		return ipRange{p.Masked().Addr(), last(p)}, true
	}
	low, high, two := strings.Cut(s, "-")
	from, err := netip.ParseAddr(strings.TrimSpace(low))
	if err != nil || from.Zone() != "" {
		return r, false
	}
	from = from.Unmap() // as the addresses of clients are
	if !two {
		return ipRange{from, from}, true
	}
	to, err := netip.ParseAddr(strings.TrimSpace(high))
	to = to.Unmap()
	return ipRange{from, to}, err == nil && to.Zone() == "" && from.Is4() == to.Is4() && !to.Less(from)
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (r ipRange) contains(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsValid() && a.Is4() == r.from.Is4() && !a.Less(r.from) && !r.to.Less(a)
}
