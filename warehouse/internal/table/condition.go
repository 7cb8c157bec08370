package table

import "nekoq/warehouse/api"

// CheckRevision compares the demanded mod revision with the present one (0: the
// key does not exist).
func CheckRevision(want, have uint64) error {
	if want == AnyRevision || want == have {
		return nil
	}
	return api.Mismatch(want, have)
}
