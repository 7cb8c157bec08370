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
