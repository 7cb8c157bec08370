package wire

import "testing"

// The keeper may tick once more after a connection has closed.
func TestTrimAfterAllWorkersWereReleased(t *testing.T) {
	sc := &servConn{}
	for range 3 {
		sc.pool.idle = append(sc.pool.idle, &worker{next: make(chan *call, 1)})
	}
	sc.trim()
	sc.pool.release(len(sc.pool.idle))
	sc.trim()
	if len(sc.pool.idle) != 0 {
		t.Fatal("workers are left")
	}
}
