package httpapi

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"nekoq/services/errs"
)

func TestPage(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	rapid.Check(t, func(t *rapid.T) {
		cursor := rapid.SliceOf(rapid.Byte()).Draw(t, "cursor")
		scope := rapid.SliceOf(rapid.String()).Draw(t, "scope")
		p, err := s.PageOf(PageQuery{}, scope...)
		if err != nil || p.Limit != 100 || p.Cursor != nil {
			t.Fatalf("%+v %v", p, err)
		}
		token := p.Next(cursor)
		p, err = s.PageOf(PageQuery{Limit: 1000, PageToken: token}, scope...)
		if err != nil || !bytes.Equal(p.Cursor, cursor) || p.Cursor == nil || p.Limit != 1000 {
			t.Fatalf("%+v %v", p, err)
		}
		if _, err := s.PageOf(PageQuery{PageToken: token}, append(scope, "more")...); !errs.Has(err, errs.BadPageToken) {
			t.Fatalf("another query: %v", err)
		}
		raw, _ := base64.RawURLEncoding.DecodeString(token)
		raw[rapid.IntRange(0, len(raw)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := s.PageOf(PageQuery{PageToken: base64.RawURLEncoding.EncodeToString(raw)}, scope...); !errs.Has(err, errs.BadPageToken) {
			t.Fatalf("damaged: %v", err)
		}
	})
	for _, token := range []string{"x", "AAAA", "%%%", strings.Repeat("A", 1000)} {
		if _, err := s.PageOf(PageQuery{PageToken: token}); !errs.Has(err, errs.BadPageToken) {
			t.Errorf("%q: %v", token, err)
		}
	}
	for _, limit := range []int{-1, 1001} {
		_, err := s.PageOf(PageQuery{Limit: limit})
		if e := errs.From(err); e == nil || e.Code != errs.InvalidArgument || e.Details[0].Field != "limit" || !strings.Contains(e.Message, "http.max_page_size = 1000") {
			t.Errorf("%d: %v", limit, err)
		}
	}
	// Scope parts don't run together.
	a, _ := s.PageOf(PageQuery{}, "ab", "c")
	if _, err := s.PageOf(PageQuery{PageToken: a.Next(nil)}, "a", "bc"); !errs.Has(err, errs.BadPageToken) {
		t.Error("ab,c and a,bc are the same scope")
	}
}

func TestNearest(t *testing.T) {
	known := []string{"limit", "page_token", "prefix", "raw"}
	for name, want := range map[string]string{
		"limt": "limit", "Limit": "limit", "pagetoken": "page_token", "perfix": "prefix", "rwa": "raw", "war": "", "zebra": "", "": "", "prefixes": "prefix",
	} {
		if got := nearest(name, known); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
