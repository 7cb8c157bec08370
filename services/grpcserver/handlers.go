package grpcserver

import (
	"context"
	"encoding/binary"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// serverStream is a stream as handlers see it.
type serverStream struct{ s *stream }

var _ grpc.ServerStream = serverStream{}

// Context implements grpc.ServerStream.
func (x serverStream) Context() context.Context { return x.s }

// SetHeader implements grpc.ServerStream.
func (x serverStream) SetHeader(md metadata.MD) error { return x.s.setHeader(md) }

// SendHeader implements grpc.ServerStream.
func (x serverStream) SendHeader(md metadata.MD) error { return x.s.sendHeader(md) }

// SetTrailer implements grpc.ServerStream.
func (x serverStream) SetTrailer(md metadata.MD) { x.s.trailers = metadata.Join(x.s.trailers, md) }

// transportStream is what grpc.SetHeader and its like look for in a context.
type transportStream struct{ s *stream }

var _ grpc.ServerTransportStream = transportStream{}

// Method implements grpc.ServerTransportStream.
func (x transportStream) Method() string { return x.s.m.path }

// SetHeader implements grpc.ServerTransportStream.
func (x transportStream) SetHeader(md metadata.MD) error { return x.s.setHeader(md) }

// SendHeader implements grpc.ServerTransportStream.
func (x transportStream) SendHeader(md metadata.MD) error { return x.s.sendHeader(md) }

// SetTrailer implements grpc.ServerTransportStream.
func (x transportStream) SetTrailer(md metadata.MD) error {
	x.s.trailers = metadata.Join(x.s.trailers, md)
	return nil
}

func (s *stream) setHeader(md metadata.MD) error {
	if s.opened {
		return status.Error(codes.Internal, "the headers were sent already")
	}
	for name, values := range md {
		for _, v := range values {
			if !printable(name, v) {
				return status.Errorf(codes.Internal, "header key %q contains value with non-printable ASCII characters", name)
			}
		}
	}
	if len(md) > 0 {
		s.headers = metadata.Join(s.headers, md)
	}
	return nil
}

func (s *stream) sendHeader(md metadata.MD) error {
	if err := s.setHeader(md); err != nil {
		return err
	}
	return s.open()
}

// SendMsg implements grpc.ServerStream; v is a proto.Message or Raw. One goroutine
// at a time sends.
func (x serverStream) SendMsg(v any) error { return x.s.sendMsg(v, false) }

// RecvMsg implements grpc.ServerStream. One goroutine at a time receives.
func (x serverStream) RecvMsg(v any) error {
	compressed, b, err := x.s.next(nil)
	if err != nil {
		return err
	}
	return x.s.receive(compressed, b, v)
}

func (s *stream) receive(compressed byte, b []byte, v any) (err error) {
	if b, err = s.plain(compressed, b); err != nil {
		return err
	}
	return s.c.srv.decode(b, v)
}

func (s *stream) sendMsg(v any, hold bool) error {
	a := answers.Get().(*answer)
	out, err := s.c.srv.encode(append(a.b[:0], 0, 0, 0, 0, 0), v)
	if err == nil {
		binary.BigEndian.PutUint32(out[1:], uint32(len(out)-prefixSize))
		err = s.send(out, hold)
	}
	if cap(out) <= keepAnswer {
		a.b = out
		answers.Put(a)
	}
	return err
}

// open sends the headers that open the answer.
func (s *stream) open() error {
	if s.opened {
		return nil
	}
	if err := s.c.w.Begin(s.Done(), nil, false); err != nil {
		return status.FromContextError(context.Canceled).Err()
	}
	s.opened = true
	s.c.w.Buf = s.appendOpening(s.c.w.Buf)
	s.c.voice()
	s.c.w.End(false)
	return nil
}
