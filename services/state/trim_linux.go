package state

import (
	"syscall"
	"unsafe"
)

// trim gives the pages of the memory map back. They stay in the system's cache,
// so reading them again costs a minor fault each, but a scan of the whole file
// does not count as memory of this process for ever.
func trim(h *handle) {
	start := unsafe.Add(unsafe.Pointer(nil), h.mapStart) // not Go memory: mapped by bbolt
	_ = syscall.Madvise(unsafe.Slice((*byte)(start), h.mapBytes), syscall.MADV_DONTNEED)
}
