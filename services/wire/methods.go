package wire

// The system methods of the native door. Each product service numbers its own
// from the range that Method names.
const (
	// MethodSessionOpen opens a client session. Empty request; the answer is the
	// session as 8 bytes, big endian, never 0.
	MethodSessionOpen Method = 0x0001
	// MethodPing answers its request unchanged.
	MethodPing Method = 0x0002
	// The management calls speak JSON (see JSON).
	MethodClusterStatus  Method = 0x0003
	MethodServices       Method = 0x0004
	MethodMemberAdd      Method = 0x0005
	MethodMemberRemove   Method = 0x0006
	MethodMemberPromote  Method = 0x0007
	MethodLeaderTransfer Method = 0x0008
)

// More system methods, JSON too.
const (
	// MethodNode is what one node says of itself.
	MethodNode          Method = 0x0009
	MethodCompareHashes Method = 0x000a
	// MethodHello is ServerInfo as it is now: clients ask who leads.
	MethodHello Method = 0x000b
)
