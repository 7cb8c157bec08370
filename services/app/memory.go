package app

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// memoryLook is how often the process looks at its own memory.
	memoryLook = 2 * time.Second
	// quietBytes is what a process allocates at most in memoryLook when it has
	// nothing to do: heartbeats, scrapes, hash comparisons.
	quietBytes = 8 << 20
	// slackBytes is garbage and free heap worth giving back.
	slackBytes = 32 << 20
)

// returnMemory gives memory back to the system when a load has ended: mapped pages
// of the state file and the heap that it needed. Go's collector does not run while
// nothing is allocated, so without this a node keeps the size of its last load for
// minutes.
func (a *App) returnMemory() {
	ticker := a.clock.NewTicker(memoryLook)
	defer ticker.Stop()
	sample := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/gc/heap/live:bytes"},
	}
	var before uint64
	for {
		select {
		case <-a.ended:
			return
		case <-ticker.C():
		}
		metrics.Read(sample)
		allocated := sample[0].Value.Uint64()
		held := sample[1].Value.Uint64() + sample[2].Value.Uint64() + sample[3].Value.Uint64()
		if allocated-before < quietBytes {
			a.machine.TrimMemory()
		}
		if live := sample[4].Value.Uint64(); allocated-before < quietBytes && held > live+slackBytes {
			runtime.GC() // pools let go of what they hold in the second collection
			debug.FreeOSMemory()
		}
		before = allocated
	}
}
