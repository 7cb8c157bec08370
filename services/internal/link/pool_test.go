package link

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A connection's keeper may tick once more after the connection has closed.
func TestTrimAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		served := 0
		p := &Pool[int]{Mu: &mu, Serve: func(n int) { mu.Lock(); served += n; mu.Unlock() }}
		for range 3 {
			mu.Lock()
			w := p.Take()
			mu.Unlock()
			p.Start(w, 1)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		require.NotEmpty(t, p.idle)
		p.Trim()
		p.End()
		p.Trim()
		require.Empty(t, p.idle)
		require.Equal(t, 3, served)
	})
}

func TestWorkersAreTakenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		p := &Pool[chan struct{}]{Mu: &mu, Serve: func(c chan struct{}) { <-c }}
		take := func() *Worker[chan struct{}] {
			mu.Lock()
			defer mu.Unlock()
			return p.Take()
		}
		first, second := make(chan struct{}), make(chan struct{})
		p.Start(take(), first)
		w := take()
		require.Nil(t, w, "the only worker is busy")
		p.Start(w, second)
		close(first)
		synctest.Wait()
		w = take()
		require.NotNil(t, w, "the first one is idle again")
		p.Start(w, first)
		mu.Lock()
		p.End()
		mu.Unlock()
		close(second)
		p.Wait()
	})
}
