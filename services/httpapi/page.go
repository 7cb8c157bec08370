package httpapi

import (
	"encoding/base64"
	"encoding/binary"

	"github.com/danielgtaylor/huma/v2"
	"github.com/zeebo/xxh3"

	"nekoq/services/errs"
)

// PageQuery is embedded in the input of a typed list route.
type PageQuery struct {
	Limit     int    `query:"limit" doc:"Most entries in this page; the default is http.default_page_size, the largest http.max_page_size."`
	PageToken string `query:"page_token" doc:"The next_page_token of the page before, for the same query."`
}

// PageParams documents limit and page_token of a raw list route.
func PageParams() []*huma.Param {
	return []*huma.Param{
		{Name: "limit", In: "query", Description: "Most entries in this page; the default is http.default_page_size, the largest http.max_page_size.", Schema: &huma.Schema{Type: "integer"}},
		{Name: "page_token", In: "query", Description: "The next_page_token of the page before, for the same query.", Schema: &huma.Schema{Type: "string"}},
	}
}

// Page is one page of a list.
type Page struct {
	Limit  int
	Cursor []byte // where to go on; nil for the first page
	scope  uint64
}

// PageOf checks limit and token. scope is everything else that makes the query:
// the route and its filters. A token of another scope is bad_page_token.
func (s *Server) PageOf(q PageQuery, scope ...string) (Page, error) {
	p := Page{Limit: q.Limit, scope: scopeHash(scope)}
	if q.Limit < 0 || q.Limit > s.cfg.MaxPageSize {
		return p, errs.Invalid("limit", q.Limit, "1 to http.max_page_size = "+itoa(int64(s.cfg.MaxPageSize)))
	}
	if q.Limit == 0 {
		p.Limit = s.cfg.DefaultPageSize
	}
	if q.PageToken == "" {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(q.PageToken)
	if err != nil || len(raw) < tokenHeader || raw[0] != tokenVersion ||
		binary.BigEndian.Uint64(raw[1:tokenHeader]) != cursorHash(p.scope, raw[tokenHeader:]) {
		return p, errs.New(errs.BadPageToken, "page_token: %q is damaged or belongs to another query; start without one", shorten(q.PageToken)).
			With(errs.Detail{Field: "page_token", Value: q.PageToken, Limit: "the next_page_token of the same query", Help: "leave page_token out to start again"})
	}
	p.Cursor = raw[tokenHeader:]
	return p, nil
}

// Next gives the token of the page that goes on at cursor.
func (p Page) Next(cursor []byte) string {
	raw := make([]byte, tokenHeader, tokenHeader+len(cursor))
	raw[0] = tokenVersion
	binary.BigEndian.PutUint64(raw[1:], cursorHash(p.scope, cursor))
	return base64.RawURLEncoding.EncodeToString(append(raw, cursor...))
}

// A token is one byte of version, eight of hash, and the cursor. The hash
// guards against mistakes, not against forgers: a token opens nothing that its
// query doesn't.
const (
	tokenVersion = 1
	tokenHeader  = 1 + 8
)

func scopeHash(scope []string) uint64 {
	var b []byte
	for _, s := range scope {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return xxh3.Hash(b)
}

func cursorHash(scope uint64, cursor []byte) uint64 { return xxh3.HashSeed(cursor, scope) }
