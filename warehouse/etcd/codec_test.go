package etcd

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"
)

// draw fills a message with random values, some of them absent.
func draw(t *rapid.T, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if rapid.IntRange(0, 2).Draw(t, "absent") == 0 {
			continue
		}
		switch {
		case f.IsList():
			list := m.Mutable(f).List()
			for range rapid.IntRange(0, 3).Draw(t, "length") {
				e := list.NewElement()
				if f.Message() != nil && depth > 0 {
					draw(t, e.Message(), depth-1)
				}
				list.Append(e)
			}
		case f.Message() != nil:
			if depth > 0 {
				draw(t, m.Mutable(f).Message(), depth-1)
			}
		default:
			m.Set(f, drawScalar(t, f))
		}
	}
}

func drawScalar(t *rapid.T, f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32Range(-3, 5).Draw(t, "enum")))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes"))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.StringN(0, 20, 60).Draw(t, "string"))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "uint64"))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	}
	panic("a field of kind " + f.Kind().String())
}

// Requests that were encoded by the general code read the same by hand.
func TestDecodeFastIsTheGeneralCode(t *testing.T) {
	for _, empty := range []proto.Message{
		&pb.PutRequest{}, &pb.RangeRequest{}, &pb.DeleteRangeRequest{}, &pb.LeaseKeepAliveRequest{}, &pb.TxnRequest{},
	} {
		t.Run(string(empty.ProtoReflect().Descriptor().Name()), func(t *testing.T) {
			known := 0
			rapid.Check(t, func(t *rapid.T) {
				want := empty.ProtoReflect().New().Interface()
				draw(t, want.ProtoReflect(), 3)
				b, err := proto.Marshal(want)
				require.NoError(t, err)
				got := empty.ProtoReflect().New().Interface()
				if !decodeFast(b, got) {
					_, txn := want.(*pb.TxnRequest)
					require.True(t, txn, "only transactions may be left to the general code")
					return
				}
				known++
				require.True(t, proto.Equal(want, got), "%v read as %v", want, got)
			})
			require.Positive(t, known)
		})
	}
}

// Whatever bytes come, the hand-written code takes nothing that the general code
// refuses, and reads it alike.
func TestDecodeFastOfAnyBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom([]proto.Message{&pb.PutRequest{}, &pb.RangeRequest{}, &pb.TxnRequest{}}).Draw(t, "message")
		src := m.ProtoReflect().New().Interface()
		draw(t, src.ProtoReflect(), 2)
		b, err := proto.Marshal(src)
		require.NoError(t, err)
		if len(b) > 0 {
			for range rapid.IntRange(0, 3).Draw(t, "damages") {
				b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
			}
			b = b[:rapid.IntRange(0, len(b)).Draw(t, "cut")]
		}
		got, want := m.ProtoReflect().New().Interface(), m.ProtoReflect().New().Interface()
		if !decodeFast(b, got) {
			return
		}
		require.NoError(t, proto.Unmarshal(b, want))
		require.True(t, proto.Equal(want, got), "%v read as %v", want, got)
	})
}

// Answers read back as what they were.
func TestEncodeFastIsTheGeneralCode(t *testing.T) {
	for _, empty := range []proto.Message{
		&pb.PutResponse{}, &pb.RangeResponse{}, &pb.RangeStreamResponse{}, &pb.DeleteRangeResponse{}, &pb.LeaseKeepAliveResponse{}, &pb.TxnResponse{}, &pb.WatchResponse{},
	} {
		t.Run(string(empty.ProtoReflect().Descriptor().Name()), func(t *testing.T) {
			known := 0
			rapid.Check(t, func(t *rapid.T) {
				want := empty.ProtoReflect().New().Interface()
				draw(t, want.ProtoReflect(), 5)
				if w, ok := want.(*pb.WatchResponse); ok && rapid.Bool().Draw(t, "events only") {
					w.Created, w.Canceled, w.CompactRevision, w.CancelReason = false, false, 0, ""
				}
				before := []byte("before")
				b, ok := encodeFast(before, want)
				if !ok {
					require.Equal(t, "before", string(b), "what is left to the general code is left whole")
					return
				}
				known++
				require.Equal(t, "before", string(b[:6]))
				got := empty.ProtoReflect().New().Interface()
				require.NoError(t, proto.Unmarshal(b[6:], got))
				require.True(t, proto.Equal(want, got), "%v came as %v", want, got)
			})
			require.Positive(t, known)
		})
	}
}

// A message grows over the one byte that was left for its length.
func TestLongParts(t *testing.T) {
	for _, size := range []int{0, 100, 127, 128, 16_383, 16_384, 3 << 20} {
		want := &pb.WatchResponse{Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte("k"), Value: make([]byte, size)}}}}
		b, ok := encodeFast(nil, want)
		require.True(t, ok)
		got := &pb.WatchResponse{}
		require.NoError(t, proto.Unmarshal(b, got))
		require.True(t, proto.Equal(want, got))
	}
}

func TestUnknownFieldsAreLeftToTheGeneralCode(t *testing.T) {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	require.False(t, decodeFast(b, &pb.PutRequest{}))
	require.False(t, decodeFast(protowire.AppendFixed32(protowire.AppendTag(nil, 1, protowire.Fixed32Type), 1), &pb.PutRequest{}))
}

func BenchmarkDecodePut(b *testing.B) {
	msg, err := proto.Marshal(&pb.PutRequest{Key: []byte("registry/pods/default/some-pod-0001"), Value: make([]byte, 256), Lease: 7})
	require.NoError(b, err)
	b.Run("by hand", func(b *testing.B) {
		for b.Loop() {
			if !decodeFast(msg, &pb.PutRequest{}) {
				b.Fatal("not decoded")
			}
		}
	})
	b.Run("general", func(b *testing.B) {
		for b.Loop() {
			if err := proto.Unmarshal(msg, &pb.PutRequest{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
