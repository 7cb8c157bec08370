package state

import "time"

// mappedLimit is how much of mapped files may stay in memory before the state
// file's part is given back: some 30 MiB of it are the program itself.
const mappedLimit = 96 << 20

// TrimMemory gives mapped pages of the state file back to the system's cache when
// many are held. Commits do so themselves; an owner calls it from time to time
// for the sake of reads.
func (m *Machine) TrimMemory() {
	if g := m.acquire(); g != nil {
		m.trimMapped(g.base.h)
		g.release()
	}
}

func (m *Machine) trimMapped(h *handle) {
	if residentMapped() > mappedLimit {
		trim(h)
	}
}

// trimEvery is how often a commit looks: in that time it reads some thousand
// pages, and the system maps 64 KiB around each.
const trimEvery = 10 * time.Millisecond

// trimDuring trims while a commit reads all over a large file, until the
// function that it gives is called.
func (m *Machine) trimDuring(h *handle) (end func()) {
	if info, err := h.file.Stat(); err != nil || info.Size() < mappedLimit {
		return func() {}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		t := time.NewTicker(trimEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				m.trimMapped(h)
			case <-stop:
				m.trimMapped(h)
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}
