package raftnode

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncData syncs what is needed to read the file's data again: not its times.
func syncData(f descriptor) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
