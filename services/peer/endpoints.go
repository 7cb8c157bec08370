package peer

import "slices"

// NativeAddresses are the native doors of the members as the member table has
// them, in order, for clients that look for other nodes.
func (s *Service) NativeAddresses() []string {
	var out []string
	for _, m := range s.members().Members {
		if m.Native != "" {
			out = append(out, m.Native)
		}
	}
	slices.Sort(out)
	return out
}

// LeaderNative is the leader as this node knows it, and its native door; both may
// be empty.
func (s *Service) LeaderNative() (id, native string) {
	if s.at.Replica == nil {
		return "", ""
	}
	id, _ = s.at.Replica.Leader()
	for _, m := range s.members().Members {
		if m.ID == id {
			native = m.Native
		}
	}
	return id, native
}
