package api

// What an UpkeepRequest does.
const (
	UpkeepRevert   = "revert"    // Key, End (a span), From: the revision
	UpkeepDiff     = "diff"      // Key, End, From, To, Limit
	UpkeepSetQuota = "set_quota" // Quota
	UpkeepQuotas   = "quotas"
	UpkeepSetLimit = "set_limit" // Limits
	UpkeepDefrag   = "defrag"
	UpkeepSpace    = "space"
	UpkeepLeases   = "leases" // From: after this id, Limit: 0 for all, the one that ends first first
)

// MaxLeasePage is the largest Limit of UpkeepLeases.
const MaxLeasePage = 10_000

// UpkeepRequest is the JSON message of MethodUpkeep.
type UpkeepRequest struct {
	Do     string `json:"do"`
	Key    []byte `json:"key,omitempty"`
	End    []byte `json:"end,omitempty"`
	From   uint64 `json:"from,omitempty"`
	To     uint64 `json:"to,omitempty"`
	Limit  int    `json:"limit,omitempty"`
	Limits uint64 `json:"limit_bytes,omitempty"`
	Quota  Quota  `json:"quota"`
}

// UpkeepResult answers it.
type UpkeepResult struct {
	Revision    uint64       `json:"revision,omitempty"`
	Put         uint64       `json:"put,omitempty"`
	Deleted     uint64       `json:"deleted,omitempty"`
	More        bool         `json:"more,omitempty"`
	Differences []Difference `json:"differences,omitempty"`
	Quotas      []Quota      `json:"quotas,omitempty"`
	Alarms      []string     `json:"alarms,omitempty"`
	Space       Space        `json:"space"`
	Leases      []uint64     `json:"leases,omitempty"`
}

// Quota is the quota of a prefix and its use. A zero limit is none.
type Quota struct {
	Prefix     []byte
	MaxBytes   uint64
	MaxKeys    uint64
	MaxWatches uint64 // open on one server
	WriteRate  uint64 // puts a second
	Bytes      uint64 // used
	Keys       uint64
	Watches    uint64 // open on the server that answered
}

// Difference is a key that differs between two revisions; nil: it was not there.
type Difference struct {
	Key      []byte
	From, To *KV
}

// Space tells how large the store is, in bytes.
type Space struct {
	File  int64 // state file of the server that answered
	InUse int64 // of it
	Used  int64 // keys, values and history, which count toward Limit
	Limit int64
}
