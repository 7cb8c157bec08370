package state

import "time"

// A state machine whose file is read all over holds ever more mapped pages of it:
// the system maps 64 KiB around each page that is read. They are given back when the
// whole process holds much, and since mapping them again costs processor time, single
// rows are read past the map from then on.
const (
	// trimEvery is how often the machine looks while its file is read. In that time
	// two processors can map some 50 MiB.
	trimEvery = 5 * time.Millisecond
	// idleMapped is how much of mapped files an idle process may keep: some 30 MiB
	// of it are the program itself.
	idleMapped = 96 << 20
	// commitExtra is what a commit may hold beyond the limit, and twice that how far
	// below it pages are given back before one: a commit of scattered rows maps 200 MiB.
	commitExtra = 64 << 20
	// Below idleMapped pages are given back once in trimRest at most: beside a large
	// heap there is little to gain, and a commit would map the same pages again and again.
	trimRest = 100 * time.Millisecond
	// trimRows is after how many rows a commit looks itself, since the loop may come
	// late on a busy machine: that many scattered rows map 16 MiB.
	trimRows = 256
	// sparingFor is how long after a trim single rows are read past the map.
	sparingFor = 2 * time.Second
)

// touch says that the file is about to be read.
func (m *Machine) touch() { signal(m.touched) }

// trimLoop gives mapped pages back for as long as somebody reads: commits, appliers
// and views all bring pages in, and nothing else would take them out. An idle
// machine does nothing.
func (m *Machine) trimLoop() {
	// Not a timer with a channel of times: its sender would read the local time zone
	// after Close, and the replay harness sets that between machines.
	rested := make(chan struct{}, 1)
	pause := time.AfterFunc(time.Hour, func() { signal(rested) })
	pause.Stop()
	var trimmed time.Time
	defer pause.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-m.touched:
		}
		if m.trimPaced() {
			trimmed = time.Now()
		} else if !trimmed.IsZero() && time.Since(trimmed) > sparingFor {
			m.spare(false)
			trimmed = time.Time{}
		}
		pause.Reset(trimEvery)
		select {
		case <-m.stop:
			return
		case <-rested:
		}
		if m.reading.Load() > 0 || m.openViews.Load() > 0 {
			m.touch() // begun before, and still at it
		}
	}
}

// trimPaced gives mapped pages back when there are many, or some and it is long ago.
func (m *Machine) trimPaced() bool {
	all, mapped := resident()
	if all <= m.trimLimit() || mapped <= idleMapped/2 {
		return false
	}
	if mapped < idleMapped && time.Since(m.opened)-time.Duration(m.trimmed.Load()) < trimRest {
		return false
	}
	m.trimNow(true)
	return true
}

// trimLimit is the resident memory from which pages are given back now. A commit
// touches each page twice, when it puts rows and when it writes them, so it may hold more.
func (m *Machine) trimLimit() int64 {
	if m.reading.Load() > 0 {
		return m.cfg.TrimBytes + commitExtra
	}
	return m.cfg.TrimBytes
}

// trimBefore makes room for what a commit is going to map.
func (m *Machine) trimBefore() {
	all, mapped := resident()
	if all > max(m.cfg.TrimBytes-2*commitExtra, commitExtra) && mapped > idleMapped/2 {
		m.trimNow(true)
	}
}

// TrimMemory gives mapped pages of the state file back when more are held than an
// idle process should keep. The owner calls it when there is little to do.
func (m *Machine) TrimMemory() {
	if _, mapped := resident(); mapped > idleMapped {
		m.trimNow(false)
	}
}

// trimNow gives mapped pages back, and with sparing reads past the map from then on.
func (m *Machine) trimNow(sparing bool) {
	m.trimmed.Store(int64(time.Since(m.opened)))
	if g := m.acquire(); g != nil {
		if sparing {
			g.base.h.sparing.Store(true)
		}
		trim(g.base.h)
		g.release()
	}
}

// spare sets whether single rows are read past the map.
func (m *Machine) spare(on bool) {
	if g := m.acquire(); g != nil {
		if h := g.base.h; h.sparing.Load() != on {
			h.sparing.Store(on)
		}
		g.release()
	}
}
