package warehouse

import (
	"strconv"
	"strings"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

// MaxLockName is the longest name of a lock or election, in bytes.
const MaxLockName = 512

func checkToken(t *api.Token) error {
	switch t.Kind {
	case api.TokenKey:
		if t.Name == "" {
			return errs.Invalid("token", "", "the name of a lock, an election or a key")
		}
	case api.TokenLock, api.TokenElection:
		if err := checkLockName(t.Name); err != nil {
			return err
		}
	default:
		return errs.Invalid("token", t.Kind, "lock, election or key")
	}
	if t.Token == 0 {
		return errs.Invalid("token", 0, "the token that the lock or election gave, from 1 on")
	}
	return nil
}

func checkLockName(name string) error {
	if name == "" || len(name) > MaxLockName || strings.IndexByte(name, 0) >= 0 {
		return errs.Invalid("name", name[:min(len(name), 64)], "1 to "+strconv.Itoa(MaxLockName)+" bytes, none of them zero")
	}
	return nil
}
