package warehouse

import (
	"encoding/base64"
	"encoding/binary"

	"github.com/zeebo/xxh3"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

// A page token is a version byte, a hash over query and cursor, the revision, and
// the last key of the page. The hash guards against mistakes, not forgers: a token
// opens nothing that its query doesn't.
const tokenVersion = 1

func sealToken(r *api.ListRequest, rev uint64, last []byte) string {
	b := make([]byte, 0, 17+len(last))
	b = append(b, tokenVersion)
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, rev)
	b = append(b, last...)
	binary.BigEndian.PutUint64(b[1:], queryHash(r, b[9:]))
	return base64.RawURLEncoding.EncodeToString(b)
}

// openToken gives the key to go on at and the revision to read at.
func openToken(r *api.ListRequest) (start []byte, rev uint64, err error) {
	b, derr := base64.RawURLEncoding.DecodeString(r.PageToken)
	if derr != nil || len(b) < 18 || b[0] != tokenVersion || binary.BigEndian.Uint64(b[1:]) != queryHash(r, b[9:]) {
		return nil, 0, errs.New(errs.BadPageToken, "page_token: it is damaged or belongs to another query; start without one").
			With(errs.Detail{Field: "page_token", Value: r.PageToken[:min(len(r.PageToken), 64)], Limit: "the next_page_token of the same query"})
	}
	return append(b[17:], 0), binary.BigEndian.Uint64(b[9:]), nil
}

// queryHash covers what makes a list the same list; limit, consistency and count
// may change between pages.
func queryHash(r *api.ListRequest, cursor []byte) uint64 {
	q := make([]byte, 0, len(r.Start)+len(r.End)+32)
	q = binary.AppendUvarint(q, r.Revision)
	q = append(binary.AppendUvarint(q, uint64(len(r.Start))), r.Start...)
	q = append(binary.AppendUvarint(q, uint64(len(r.End))), r.End...)
	if r.KeysOnly {
		q = append(q, 1)
	}
	return xxh3.HashSeed(cursor, xxh3.Hash(q))
}
