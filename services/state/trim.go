package state

import "time"

// A state machine whose file is read all over holds ever more mapped pages of it:
// the system maps 64 KiB around each page that is read. They are given back when the
// whole process holds much, since mapping them again costs processor time: a put of
// a key in no order costs half as much again when hardly any may stay.
const (
	// trimEvery is how often the machine looks while its file is read. In that time
	// two processors can map some 50 MiB.
	trimEvery = 5 * time.Millisecond
	// idleMapped is how much of mapped files an idle process may keep: some 30 MiB
	// of it are the program itself.
	idleMapped = 96 << 20
)

// touch says that the file is about to be read.
func (m *Machine) touch() { signal(m.touched) }

// trimLoop gives mapped pages back for as long as somebody reads: commits, appliers
// and views all bring pages in, and nothing else would take them out. An idle
// machine does nothing. The loading of a file, which reads all of it once, is not
// trimmed before its end: that would double the time.
func (m *Machine) trimLoop() {
	pause := time.NewTimer(time.Hour)
	pause.Stop()
	defer pause.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-m.touched:
		}
		if all, mapped := resident(); all > m.cfg.TrimBytes && mapped > idleMapped/2 {
			m.trimNow()
		}
		pause.Reset(trimEvery)
		select {
		case <-m.stop:
			return
		case <-pause.C:
		}
		if m.reading.Load() > 0 || m.openViews.Load() > 0 {
			m.touch() // begun before, and still at it
		}
	}
}

// TrimMemory gives mapped pages of the state file back when more are held than an
// idle process should keep. The owner calls it when there is little to do.
func (m *Machine) TrimMemory() {
	if _, mapped := resident(); mapped > idleMapped {
		m.trimNow()
	}
}

func (m *Machine) trimNow() {
	if g := m.acquire(); g != nil {
		trim(g.base.h)
		g.release()
	}
}
