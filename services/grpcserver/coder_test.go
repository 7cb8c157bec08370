package grpcserver

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// peerTable is what a strict client knows of the table that our coder fills: it takes
// a smaller size only if the next block begins with it.
type peerTable struct {
	t      *testing.T
	dec    *hpack.Decoder
	allows uint32
	owed   bool   // the coder owes a size
	size   uint32 // the last one it gave
}

func (p *peerTable) allow(c *coder, n uint32) {
	p.owed = p.owed || n < p.size
	p.allows = n
	p.dec.SetAllowedMaxDynamicTableSize(n)
	c.allow(n)
}

func (p *peerTable) decode(b []byte) []hpack.HeaderField {
	p.t.Helper()
	var block []byte
	for len(b) > 0 { // the frames
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if typ := http2.FrameType(b[3]); typ == http2.FrameHeaders || typ == http2.FrameContinuation {
			block = append(block, b[frameHead:frameHead+n]...)
			if http2.Flags(b[4])&http2.FlagHeadersEndHeaders == 0 {
				require.Equal(p.t, maxFrame, n)
			}
		}
		b = b[frameHead+n:]
	}
	if block[0]&0xe0 == hpSize {
		p.owed = false
		p.size = uint32(block[0] & 31)
		if p.size == 31 {
			for i, shift := 1, 0; ; i, shift = i+1, shift+7 {
				p.size += uint32(block[i]&127) << shift
				if block[i] < 128 {
					break
				}
			}
		}
		require.LessOrEqual(p.t, p.size, p.allows)
	}
	require.False(p.t, p.owed, "the new size of the table was not confirmed")
	fields, err := p.dec.DecodeFull(block)
	require.NoError(p.t, err)
	return fields
}

// All that a connection may write, in any order that can happen, and tables of any
// size, is read as it was meant.
func TestHeadersOfAnswersAreReadAsTheyWereMeant(t *testing.T) {
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		srv := New(Options{})
		c := &conn{srv: srv}
		p := &peerTable{t: t, dec: hpack.NewDecoder(headerTable, nil), allows: headerTable, size: headerTable}
		text := func() string { return strings.Repeat(string(rune('a'+rnd.IntN(26))), rnd.IntN(300)) }
		md := func() metadata.MD {
			switch rnd.IntN(4) {
			case 0:
				return metadata.Pairs("a", text(), "b-bin", text(), "a", text())
			case 1:
				return metadata.Pairs("long", strings.Repeat("z", rnd.IntN(50000)))
			}
			return nil
		}
		open := []*stream{}
		for range 400 {
			switch rnd.IntN(6) {
			case 0:
				if rnd.IntN(20) == 0 {
					sizes := []uint32{0, 1, 50, uint32(tableNeeded) - 1, uint32(tableNeeded), 200, 1000, 4095, 4096, 1 << 20}
					p.allow(&c.coder, sizes[rnd.IntN(len(sizes))])
				}
			case 1, 2:
				s := &stream{c: c, id: 1, ended: true, headers: md(), opened: true}
				f := p.decode(s.appendOpening(nil))
				require.Equal(t, ":status=200 content-type=application/grpc", joined(f[:2]))
				require.Len(t, f, 2+count(s.headers))
				open = append(open, s)
			case 3, 4:
				if len(open) == 0 {
					continue
				}
				i := rnd.IntN(len(open))
				s := open[i]
				open = append(open[:i], open[i+1:]...)
				s.trailers = md()
				if rnd.IntN(3) > 0 {
					f := p.decode(s.appendEnding(nil))
					require.Equal(t, "grpc-status=0", joined(f[:1]))
					require.Len(t, f, 1+count(s.trailers))
					continue
				}
				f := p.decode(c.appendStatus(nil, s, status.New(codes.Aborted, "no")))
				require.Equal(t, "grpc-status=10 grpc-message=no", joined(f[:2]))
				require.Len(t, f, 2+count(s.trailers))
			case 5:
				s := &stream{c: c, id: 1, ended: true, trailers: md()}
				f := p.decode(c.appendStatus(nil, s, status.New(codes.NotFound, "")))
				require.Equal(t, ":status=200 content-type=application/grpc grpc-status=5 grpc-message=", joined(f[:4]))
				require.Len(t, f, 4+count(s.trailers))
			}
		}
	}
}

func count(md metadata.MD) (n int) {
	for _, v := range md {
		n += len(v)
	}
	return n
}

func joined(fields []hpack.HeaderField) string {
	out := []string{}
	for _, f := range fields {
		out = append(out, fmt.Sprint(f.Name, "=", f.Value))
	}
	return strings.Join(out, " ")
}

// A client with a small table, or none, gets answers it can read.
func TestSmallHeaderTables(t *testing.T) {
	for _, size := range []uint32{0, 1, 103, 104, 4095} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			r := rawPair(t, &echo{}, Options{})
			r.call(3)
			require.NoError(t, r.fr.WriteSettings(
				http2.Setting{ID: http2.SettingHeaderTableSize, Val: size}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 8192}))
			require.True(t, r.until(http2.FrameSettings).(*http2.SettingsFrame).IsAck())
			r.dec.SetAllowedMaxDynamicTableSize(size)
			for id := uint32(5); id < 25; id += 4 {
				r.call(id)
				r.headers(id+2, true, r.request("/none"))
				require.Equal(t, "12", r.status(id+2))
			}
		})
	}
}

func TestPercent(t *testing.T) {
	require.Equal(t, "plain ~", percent("plain ~"))
	require.Equal(t, "%25%0A%C3%A4%7F", percent("%\nä\x7f"))
}
