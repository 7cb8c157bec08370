package state

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readAhead asks the system for the whole file, which is about to be read in the
// order of keys: bbolt has told it not to read ahead, and after a start of the
// machine each page would be a disk access of its own.
func readAhead(h *handle) {
	info, err := h.file.Stat()
	if err != nil {
		return
	}
	for at := int64(0); at < info.Size(); at += aheadBytes {
		if unix.Fadvise(int(h.file.Fd()), at, aheadBytes, unix.FADV_WILLNEED) != nil {
			return
		}
	}
}

// aheadBytes is what Linux reads ahead for one request at least; it cuts larger ones.
const aheadBytes = 128 << 10

// trim gives the pages of the memory map back. They stay in the system's cache,
// so reading them again costs a minor fault for each 64 KiB, but what was read
// once does not count as memory of this process for ever.
func trim(h *handle) {
	start := unsafe.Add(unsafe.Pointer(nil), h.mapStart) // not Go memory: mapped by bbolt
	_ = syscall.Madvise(unsafe.Slice((*byte)(start), h.mapBytes), syscall.MADV_DONTNEED)
}

// resident is how many bytes the process holds in memory, and how many of them are
// of mapped files; 0 when the system does not say.
func resident() (all, mapped int64) {
	b, err := os.ReadFile("/proc/self/statm") // size, resident, shared, ... in pages
	if err != nil {
		return 0, 0
	}
	f := bytes.Fields(b)
	if len(f) < 3 {
		return 0, 0
	}
	page := int64(os.Getpagesize())
	all, _ = strconv.ParseInt(string(f[1]), 10, 64)
	mapped, _ = strconv.ParseInt(string(f[2]), 10, 64)
	return all * page, mapped * page
}
