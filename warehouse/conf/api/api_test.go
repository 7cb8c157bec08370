package api

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"nekoq/services/errs"
)

func TestReferences(t *testing.T) {
	for text, want := range map[string]string{
		"${g/k}":              "${g/k}",
		"a ${g/k@eu.north} b": "${g/k@eu.north}",
		"${k@g}":              "${g/k}",
		"${k@g:eu}":           "${g/k@eu}",
		"${_k@g}":             "${g/_k}",
		"${HOME}":             "",
		"${a b/c}":            "",
		"${g/k@}":             "",
		"${g/../k}":           "",
		"${/k}":               "",
		"${g/}":               "",
		"${ ${g/k}":           "${g/k}",
		"${g/k":               "",
		"$${g/k}":             "escaped ${g/k}",
		"${}":                 "",
	} {
		got := ""
		if r, ok := NextReference([]byte(text), 0); ok {
			got = r.Text()
			if r.Escaped {
				got = "escaped " + got
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// A reference that is found is written in its bytes, and the next one lies after it.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"${g/k}", "$${g/k}${k@g:a}", "${${g/k}}", "$${", "${g/k@a}x$", "$$${a/b}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for from := 0; ; {
			r, ok := NextReference(b, from)
			if !ok {
				return
			}
			if r.Start < 0 || r.End <= r.Start || r.End > len(b) || r.End <= from {
				t.Fatalf("%+v in %d bytes from %d", r, len(b), from)
			}
			again, ok := NextReference([]byte(r.Text()), 0)
			if !ok || again.Group != r.Group || again.Key != r.Key || again.Area != r.Area {
				t.Fatalf("%+v is written %s, which reads %+v", r, r.Text(), again)
			}
			if !bytes.HasSuffix(b[r.Start:r.End], []byte("}")) || !bytes.HasPrefix(b[r.Start:], []byte("$")) {
				t.Fatalf("%q", b[r.Start:r.End])
			}
			from = r.End
		}
	})
}

func TestRules(t *testing.T) {
	for _, bad := range []Rule{
		{},
		{IPs: []string{"10.0.0.0/33"}},
		{IPs: []string{"10.0.0.9-10.0.0.1"}},
		{IPs: []string{"10.0.0.1-::1"}},
		{IPs: []string{""}},
		{Labels: map[string][]string{"a": nil}},
		{Labels: map[string][]string{"": {"a"}}},
		{Percent: -1},
		{Percent: 0.001},
		{Percent: 100.1},
		{IPs: make([]string, 300)},
	} {
		if err := bad.Check("rule"); !errs.Has(err, errs.InvalidArgument) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, r := range []string{"::ffff:10.1.2.3", "::ffff:10.0.0.0/104", "::ffff:10.0.0.1-10.9.9.9", "::/0", "10.0.0.0/8"} {
		rule := Rule{IPs: []string{r}}
		if err := rule.Check("rule"); err != nil {
			t.Error(r, err)
		}
		if got := rule.Fits(&Client{IP: netip.MustParseAddr("10.1.2.3")}, ""); got != (r != "::/0") {
			t.Errorf("10.1.2.3 in %s: %v", r, got)
		}
	}
	nobody := Rule{}
	if nobody.Fits(&Client{Name: "c"}, "") {
		t.Error("an empty rule fits")
	}
	if r := (Rule{IPs: []string{"0.0.0.0/0", "::/0"}}); r.Fits(&Client{Name: "c"}, "") {
		t.Error("an unknown address fits a range")
	}
}

// The ranges of a prefix are those of netip, and a client that a share holds stays
// in every larger one.
func TestRuleProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")
		other := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "other")
		bits := rapid.IntRange(0, 32).Draw(t, "bits")
		a, _ := netip.AddrFromSlice(raw)
		o, _ := netip.AddrFromSlice(other)
		p := netip.PrefixFrom(a, bits)
		r := Rule{IPs: []string{p.String()}}
		if got := r.Fits(&Client{IP: o}, ""); got != p.Contains(o) {
			t.Fatalf("%s in %s: %v", o, p, got)
		}
		if mapped := netip.AddrFrom16(o.As16()); r.Fits(&Client{IP: mapped}, "") != p.Contains(o) {
			t.Fatalf("%s in %s", mapped, p)
		}
		c := Client{Name: rapid.String().Draw(t, "name") + "x"}
		low := rapid.Float64Range(0.01, 100).Draw(t, "low")
		high := rapid.Float64Range(low, 100).Draw(t, "high")
		small, large, full := Rule{Percent: low}, Rule{Percent: high}, Rule{Percent: 100}
		if small.Fits(&c, "salt") && !large.Fits(&c, "salt") {
			t.Fatalf("%q is in %g %% and not in %g %%", c.Name, low, high)
		}
		if !full.Fits(&c, "salt") {
			t.Fatalf("%q is not in 100 %%", c.Name)
		}
	})
	n := 0
	r := Rule{Percent: 10}
	for i := range 10_000 {
		if r.Fits(&Client{Name: fmt.Sprint("c", i)}, "salt") {
			n++
		}
	}
	if n < 900 || n > 1100 {
		t.Errorf("10 %% are %d of 10000", n)
	}
}
