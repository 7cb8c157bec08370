package auth_test

import (
	"testing"

	"nekoq/services/auth"
	"nekoq/services/auth/authtest"
	"nekoq/services/errs"
)

func TestPrincipal(t *testing.T) {
	if p := auth.FromContext(t.Context()); p.Actor() != "internal:anonymous" {
		t.Errorf("%+v", p)
	}
	want := auth.Principal{Name: "root", Door: "native", Addr: "127.0.0.1:1"}
	ctx := auth.NewContext(t.Context(), want)
	if got := auth.FromContext(ctx); got != want || got.Actor() != "native:root" {
		t.Errorf("%+v", got)
	}
	if n := testing.AllocsPerRun(100, func() {
		if (auth.AllowAll{}).Allow(ctx, auth.FromContext(ctx), auth.Read, auth.Resource{Service: "s", Kind: "k", Name: "n"}) != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("an ask costs %v allocations", n)
	}
}

func TestResourceString(t *testing.T) {
	for want, r := range map[string]auth.Resource{
		"numgen/generator":      {Service: "numgen", Kind: "generator"},
		"warehouse/kv/app/db":   {Service: "warehouse", Kind: "kv", Name: "app/db"},
		"warehouse/kv/app/..b":  {Service: "warehouse", Kind: "kv", Name: "app/", End: "b"},
		"warehouse/kv/..\x00":   {Service: "warehouse", Kind: "kv", End: "\x00"},
		"warehouse/kv/a..a\x00": {Service: "warehouse", Kind: "kv", Name: "a", End: "a\x00"},
	} {
		if got := r.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestAuthTest(t *testing.T) {
	r := &authtest.Recorder{}
	ask := func(a auth.Authorizer) error {
		return a.Allow(t.Context(), auth.Principal{Name: "x"}, auth.Write, auth.Resource{Service: "s", Kind: "k"})
	}
	if err := ask(r); err != nil {
		t.Error(err)
	}
	if asks := r.Take(); len(asks) != 1 || asks[0].Action != auth.Write {
		t.Errorf("%+v", asks)
	}
	if len(r.Take()) != 0 {
		t.Error("Take does not empty")
	}
	if err := ask(authtest.DenyAll()); !errs.Has(err, errs.Forbidden) {
		t.Errorf("%v", err)
	}
}
