package state

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// trim gives the pages of the memory map back. They stay in the system's cache,
// so reading them again costs a minor fault for each 64 KiB, but what was read
// once does not count as memory of this process for ever.
func trim(h *handle) {
	start := unsafe.Add(unsafe.Pointer(nil), h.mapStart) // not Go memory: mapped by bbolt
	_ = syscall.Madvise(unsafe.Slice((*byte)(start), h.mapBytes), syscall.MADV_DONTNEED)
}

// residentMapped is how many bytes of mapped files the process holds in memory,
// 0 when the system does not say.
func residentMapped() int64 {
	b, err := os.ReadFile("/proc/self/statm") // size, resident, shared, ... in pages
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	if len(f) < 3 {
		return 0
	}
	pages, _ := strconv.ParseInt(string(f[2]), 10, 64)
	return pages * int64(os.Getpagesize())
}
