package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
)

// httpConns is a load generator for HTTP that costs next to nothing itself: one
// keep-alive connection a client, the request prepared, the answer parsed just
// far enough. With net/http on this side the client would hide the server.
type httpConns struct {
	addrs []string
	conns []*rawConn
}

type rawConn struct {
	c net.Conn
	r *bufio.Reader
}

func newHTTPConns(addrs []string, clients int) (*httpConns, error) {
	h := &httpConns{addrs: addrs}
	for i := range clients {
		c, err := net.Dial("tcp", addrs[i%len(addrs)])
		if err != nil {
			h.close()
			return nil, err
		}
		h.conns = append(h.conns, &rawConn{c: c, r: bufio.NewReaderSize(c, 8<<10)})
	}
	return h, nil
}

func (h *httpConns) close() {
	for _, c := range h.conns {
		_ = c.c.Close()
	}
}

func (h *httpConns) do(worker int, request []byte) error {
	c := h.conns[worker]
	_ = c.c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.c.Write(request); err != nil {
		return err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 || line[9] != '2' {
		return fmt.Errorf("answer %q", bytes.TrimSpace(line))
	}
	length, chunked := -1, false
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil {
				return err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	if chunked {
		return c.chunks()
	}
	if length < 0 {
		return fmt.Errorf("answer without a length")
	}
	_, err = c.r.Discard(length)
	return err
}

func (c *rawConn) chunks() error {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64)
		if err != nil {
			return err
		}
		if _, err := c.r.Discard(int(n) + 2); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

func getRequest(path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: bench\r\n\r\n")
}

func putRequest(path string, body []byte) []byte {
	return append(fmt.Appendf(nil, "PUT %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", path, len(body)), body...)
}

// serveGin is the other side of the REST figures: a gin engine without
// middleware whose one handler writes a value of the given size from memory.
// The process runs it when asked by the environment.
func serveGin(addr string) error {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	value := bytes.Repeat([]byte("v"), 256)
	e.GET("/kv/:key", func(c *gin.Context) { c.Data(http.StatusOK, "application/octet-stream", value) })
	id := []byte("01a2b3c4d5e6f708090a0b0c0d0e0f10")
	e.GET("/id/:name/:n", func(c *gin.Context) { c.Data(http.StatusOK, "text/plain; charset=utf-8", id) })
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	go func() { // end with the parent
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	return http.Serve(ln, e)
}

// ready waits until GET path answers 200.
func httpReady(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, res.Status, b)
	}
	return nil
}
