//go:build !linux

package raftnode

import "os"

func syncData(f descriptor) error {
	if s, ok := f.(interface{ Sync() error }); ok {
		return s.Sync()
	}
	return os.ErrInvalid
}
