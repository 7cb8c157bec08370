// Package api is what travels between the doors of the configuration centre and
// their callers, as JSON. Server and Go client share it.
//
// It owns the rules of names, gray rules and references, and holds no state. The
// domain, its doors and the client import it; it imports only floors 0 to 2 and
// the words of areas.
package api

import (
	"time"

	"nekoq/services/errs"
	"nekoq/services/wire"
	areas "nekoq/warehouse/areas/api"
)

// The methods of the native door. All speak JSON; those marked stream answer with
// any number of messages.
const (
	MethodItems       wire.Method = 0x0260 // ItemsRequest → ItemList
	MethodItem        wire.Method = 0x0261 // ItemRequest → ItemContent
	MethodDraft       wire.Method = 0x0262 // WriteRequest → Item
	MethodDiscard     wire.Method = 0x0263 // ItemRequest → Item
	MethodPublish     wire.Method = 0x0264 // PublishRequest → Item
	MethodUnschedule  wire.Method = 0x0265 // ItemRequest → Item
	MethodRollback    wire.Method = 0x0266 // RollbackRequest → Item
	MethodDelete      wire.Method = 0x0267 // ItemRequest → Item
	MethodSettings    wire.Method = 0x0268 // SettingsRequest → Item
	MethodGray        wire.Method = 0x0269 // GrayRequest → Item
	MethodGrayDrop    wire.Method = 0x026a // GrayRequest → Item
	MethodGrayPromote wire.Method = 0x026b // GrayRequest → Item
	MethodHistory     wire.Method = 0x026c // HistoryRequest → HistoryList
	MethodDiff        wire.Method = 0x026d // DiffRequest → Diff
	MethodClone       wire.Method = 0x026e // CloneRequest → Outcome
	MethodCompare     wire.Method = 0x026f // CompareRequest → Comparison
	MethodImport      wire.Method = 0x0270 // ImportRequest → Outcome
	MethodExport      wire.Method = 0x0271 // ExportRequest → stream of Archived
	MethodEffective   wire.Method = 0x0272 // EffectiveRequest → Effective
	MethodListen      wire.Method = 0x0273 // EffectiveRequest → stream of Effective
	MethodListeners   wire.Method = 0x0274 // ListenersRequest → ListenerList
	MethodGroupPut    wire.Method = 0x0275 // Group → Group
	MethodGroupDelete wire.Method = 0x0276 // NameRequest → Done
	MethodGroups      wire.Method = 0x0277 // ListRequest → GroupList
	MethodScopePut    wire.Method = 0x0278 // Scope → Scope
	MethodScopeDelete wire.Method = 0x0279 // NameRequest → Done
	MethodScopes      wire.Method = 0x027a // ListRequest → ScopeList
)

// Limits that are the same on every node.
const (
	MaxGroup       = 128       // bytes of a group's name
	MaxKey         = 256       // bytes of a key
	MaxGray        = 10        // gray releases of one item
	MaxContent     = 10 << 20  // bytes of one content; conf.max_content_bytes may be less
	MaxSchema      = 256 << 10 // bytes of a JSON Schema
	MaxText        = 256       // bytes of a comment or description
	MaxQuotes      = 32        // groups that one group quotes
	MaxScopes      = 1000      // scopes
	MaxRefDepth    = 8         // references within references
	MaxRuleEntries = 256       // addresses, or values of all labels, of one rule
)

// The content types.
const (
	Text       = "text"
	JSON       = "json"
	YAML       = "yaml"
	TOML       = "toml"
	Properties = "properties"
)

// Types lists the content types.
func Types() []string { return []string{Text, JSON, YAML, TOML, Properties} }

// GlobalGroup is the group whose keys every group has, below its own and those
// that it quotes.
const GlobalGroup = "global"

func checkName(field, name string, most int, rule string) error {
	ok := name != "" && len(name) <= most && name != "." && name != ".."
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.'
	}
	if !ok {
		return errs.Invalid(field, name, rule)
	}
	return nil
}

// CheckGroup refuses what is not the name of a group.
func CheckGroup(field, name string) error {
	return checkName(field, name, MaxGroup, "1 to 128 bytes of letters, digits, _, - and ., other than . and ..")
}

// CheckKey refuses what is not a key.
func CheckKey(field, name string) error {
	return checkName(field, name, MaxKey, "1 to 256 bytes of letters, digits, _, - and ., other than . and ..")
}

// Hidden tells whether clients do not see a key: it is for references only.
func Hidden(key string) bool { return key != "" && key[0] == '_' }

// Address names an item.
type Address struct {
	Area  string `json:"area" doc:"Area."`
	Group string `json:"group" doc:"Group, such as the name of an application."`
	Key   string `json:"key" doc:"Key; one that begins with _ is not given to clients."`
}

// Check refuses an address that cannot be one.
func (a Address) Check() error {
	if err := areas.CheckName("area", a.Area); err != nil {
		return err
	}
	if err := CheckGroup("group", a.Group); err != nil {
		return err
	}
	return CheckKey("key", a.Key)
}

// Path is the address as one name, area/group/key.
func (a Address) Path() string { return a.Area + "/" + a.Group + "/" + a.Key }

// Content describes bytes that are stored elsewhere.
type Content struct {
	Type string `json:"type" doc:"Content type: text, json, yaml, toml or properties."`
	Size int    `json:"size" doc:"Bytes."`
	Hash string `json:"hash" doc:"SHA-256 over type and bytes, in hex."`
	Refs bool   `json:"references,omitempty" doc:"It holds references to other items."`
}

// Stamp says who, when, through which door.
type Stamp struct {
	Revision uint64    `json:"revision" doc:"Store revision."`
	Time     time.Time `json:"time" doc:"When, RFC 3339."`
	Actor    string    `json:"actor" doc:"Who, as door:name."`
	Comment  string    `json:"comment,omitempty" doc:"Why."`
}

// The ways in which a release came about.
const (
	ByPublish  = "publish"
	BySchedule = "schedule"
	ByRollback = "rollback"
	ByPromote  = "promote"
	ByImport   = "import"
	ByClone    = "clone"
	ByDelete   = "delete"
)

// Release is one published version of an item.
type Release struct {
	Number uint64 `json:"number" doc:"Counts the releases of the item from 1."`
	Content
	Stamp
	By       string `json:"by" enum:"publish,schedule,rollback,promote,import,clone,delete" doc:"How it came about."`
	From     uint64 `json:"from,omitempty" doc:"rollback: the release whose content came back."`
	Gray     string `json:"gray,omitempty" doc:"promote: the gray release that it was."`
	Imported bool   `json:"imported,omitempty" doc:"It came with an import: who, when and why are what the archive says."`
}

// Draft is a content that nobody sees before it is published.
type Draft struct {
	Content
	Stamp
	Base uint64 `json:"base" doc:"The release on which the draft was begun; 0 for none."`
}

// Scheduled is a content that is published at a time.
type Scheduled struct {
	Content
	Stamp
	At time.Time `json:"at" doc:"When it is published."`
}

// Gray is a content for those clients only that its rule picks.
type Gray struct {
	Name     string `json:"name" doc:"Name, unique for the item."`
	Priority int    `json:"priority" doc:"The greater is asked first; equal ones in the order of names."`
	Rule     Rule   `json:"rule" doc:"Who gets it."`
	Content
	Stamp
}

// Item is one configuration item without its bytes.
type Item struct {
	Address
	Description string     `json:"description,omitempty" doc:"Free text."`
	ReadOnly    bool       `json:"read_only,omitempty" doc:"Contents cannot be changed until this is taken back."`
	Schema      *Content   `json:"schema,omitempty" doc:"JSON Schema that contents must fit."`
	Deleted     bool       `json:"deleted,omitempty" doc:"It was deleted; its history can be read, and a rollback brings it back."`
	Revision    uint64     `json:"revision" doc:"Store revision of the last change."`
	Created     Stamp      `json:"created" doc:"Its creation."`
	Release     *Release   `json:"release,omitempty" doc:"What is published."`
	Draft       *Draft     `json:"draft,omitempty" doc:"What is not published yet."`
	Scheduled   *Scheduled `json:"scheduled,omitempty" doc:"What will be published."`
	Gray        []Gray     `json:"gray,omitempty" doc:"Gray releases, first asked first."`
}

// ItemRequest names an item.
type ItemRequest struct {
	Address
	IfRevision *uint64 `json:"if_revision,omitempty"`
	// Which content is wanted: "" or "release", "draft", "scheduled", "gray:NAME",
	// "schema", or the number of a release. Only MethodItem reads it.
	Which   string `json:"which,omitempty"`
	Comment string `json:"comment,omitempty"`
	Stale   bool   `json:"stale,omitempty"`
}

// ItemContent is an item with one of its contents.
type ItemContent struct {
	Item
	Which string `json:"which" doc:"Which content this is."`
	Type  string `json:"content_type,omitempty" doc:"Type of the content."`
	Bytes []byte `json:"content" doc:"The content, base64."`
}

// WriteRequest is a content for an item, which is created when it is not there.
type WriteRequest struct {
	Address
	Type       string  `json:"type,omitempty"` // "": that of the draft or release, else by the key's ending
	Bytes      []byte  `json:"content"`
	Comment    string  `json:"comment,omitempty"`
	IfRevision *uint64 `json:"if_revision,omitempty"` // 0: it must not exist
}

// PublishRequest publishes the draft, or with Direct the content given here, now
// or at a time.
type PublishRequest struct {
	WriteRequest
	Direct bool       `json:"direct,omitempty"`
	At     *time.Time `json:"at,omitempty"`
}

// RollbackRequest publishes the content of an older release once more.
type RollbackRequest struct {
	Address
	Number     uint64  `json:"number"`
	Comment    string  `json:"comment,omitempty"`
	IfRevision *uint64 `json:"if_revision,omitempty"`
}

// SettingsRequest changes an item's settings. Nil leaves a member as it is; an
// empty schema takes it away.
type SettingsRequest struct {
	Address
	Description *string `json:"description,omitempty"`
	ReadOnly    *bool   `json:"read_only,omitempty"`
	Schema      *string `json:"schema,omitempty"`
	IfRevision  *uint64 `json:"if_revision,omitempty"`
}

// GrayRequest makes or changes a gray release. Without Bytes the content stays.
type GrayRequest struct {
	Address
	Name       string  `json:"name"`
	Priority   *int    `json:"priority,omitempty"` // nil leaves it as it is; 0 of a new one
	Rule       *Rule   `json:"rule,omitempty"`
	Type       string  `json:"type,omitempty"`
	Bytes      []byte  `json:"content"`
	HasContent bool    `json:"has_content,omitempty"`
	Comment    string  `json:"comment,omitempty"`
	IfRevision *uint64 `json:"if_revision,omitempty"`
}

// ItemsRequest lists items in the order of area, group and key. Empty members are
// no filter; Group needs Area, and so does Prefix need Group.
type ItemsRequest struct {
	Area    string  `json:"area,omitempty"`
	Group   string  `json:"group,omitempty"`
	Prefix  string  `json:"prefix,omitempty"`
	Deleted bool    `json:"deleted,omitempty"` // deleted ones too
	After   Address `json:"after,omitzero"`
	Limit   int     `json:"limit,omitempty"`
	Stale   bool    `json:"stale,omitempty"`
}

// ItemList is one page.
type ItemList struct {
	Items []Item `json:"items"`
	More  bool   `json:"more"`
}

// HistoryRequest lists the releases of an item, newest first, those before Before.
type HistoryRequest struct {
	Address
	Before uint64 `json:"before,omitempty"`
	Limit  int    `json:"limit,omitempty"`
	Stale  bool   `json:"stale,omitempty"`
}

// HistoryList is one page.
type HistoryList struct {
	Releases []Release `json:"releases"`
	More     bool      `json:"more"`
}

// DiffRequest compares two contents of an item, named as in ItemRequest.Which.
type DiffRequest struct {
	Address
	From  string `json:"from"`
	To    string `json:"to"`
	Stale bool   `json:"stale,omitempty"`
}

// Diff is the difference as unified text; empty when there is none.
type Diff struct {
	From    string `json:"from" doc:"The one side."`
	To      string `json:"to" doc:"The other side."`
	Equal   bool   `json:"equal" doc:"The same type and bytes."`
	Unified string `json:"unified" doc:"The difference, as a unified diff."`
}

// What to do with an item that is there already.
const (
	IfExistsFail      = "fail"
	IfExistsSkip      = "skip"
	IfExistsOverwrite = "overwrite"
)

// CloneRequest copies the released contents of a group, or of some keys of it.
type CloneRequest struct {
	FromArea  string   `json:"from_area" doc:"Area to copy from."`
	FromGroup string   `json:"from_group" doc:"Group to copy from."`
	ToArea    string   `json:"to_area" doc:"Area to copy to."`
	ToGroup   string   `json:"to_group,omitempty" doc:"Group to copy to; from_group without."`
	Keys      []string `json:"keys,omitempty" doc:"Only these keys."`
	IfExists  string   `json:"if_exists,omitempty" enum:"fail,skip,overwrite" doc:"What to do with items that are there: fail (the default), skip or overwrite."`
	Draft     bool     `json:"draft,omitempty" doc:"Make drafts instead of publishing."`
	DryRun    bool     `json:"dry_run,omitempty" doc:"Only tell what would be done."`
	Comment   string   `json:"comment,omitempty" doc:"Why."`
}

// ImportRequest takes an archive in.
type ImportRequest struct {
	Archive  []byte `json:"archive"` // zip
	Area     string `json:"area,omitempty"`
	Group    string `json:"group,omitempty"`
	IfExists string `json:"if_exists,omitempty"`
	Draft    bool   `json:"draft,omitempty"`
	DryRun   bool   `json:"dry_run,omitempty"`
	Comment  string `json:"comment,omitempty"`
}

// Step is what was done, or would be, with one item.
type Step struct {
	Address
	Did string `json:"did" enum:"create,change,skip,same" doc:"create, change, skip (it exists), or same (it has this content)."`
}

// Outcome of a clone or an import, which is done as a whole or not at all.
type Outcome struct {
	Revision uint64 `json:"revision" doc:"Store revision; 0 when nothing was written."`
	Steps    []Step `json:"steps" doc:"Item by item."`
}

// CompareRequest compares two groups key by key.
type CompareRequest struct {
	LeftArea   string `json:"left_area"`
	LeftGroup  string `json:"left_group"`
	RightArea  string `json:"right_area"`
	RightGroup string `json:"right_group"`
	Effective  bool   `json:"effective,omitempty"` // with what is inherited, and resolved
	Diff       bool   `json:"diff,omitempty"`
	Stale      bool   `json:"stale,omitempty"`
}

// Compared is one key of two groups.
type Compared struct {
	Key       string `json:"key" doc:"Key."`
	Status    string `json:"status" enum:"same,differs,left,right" doc:"same, differs, or only left or right."`
	LeftHash  string `json:"left_hash,omitempty" doc:"Hash of the left content."`
	RightHash string `json:"right_hash,omitempty" doc:"Hash of the right content."`
	Unified   string `json:"unified,omitempty" doc:"The difference, as a unified diff."`
}

// Comparison is all keys of both.
type Comparison struct {
	Same bool       `json:"same" doc:"Whether there is no difference."`
	Keys []Compared `json:"keys" doc:"Key by key."`
}

// EffectiveRequest asks for what a client gets: all keys of a group, or Key alone.
// Area empty takes the area of the first scope that fits the client. With Hash,
// what the client has, values come only when they differ. With Revision, that of
// what the client has, a listener is given nothing older by a node that lags.
type EffectiveRequest struct {
	Area     string            `json:"area,omitempty"`
	Group    string            `json:"group"`
	Key      string            `json:"key,omitempty"`
	Client   string            `json:"client,omitempty"`
	IP       string            `json:"ip,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Hash     string            `json:"hash,omitempty"`
	Revision uint64            `json:"revision,omitempty"`
	Stale    bool              `json:"stale,omitempty"`
}

// Origin says where an effective value comes from.
type Origin struct {
	Address
	Release uint64 `json:"release,omitempty" doc:"Number of the release."`
	Gray    string `json:"gray,omitempty" doc:"The gray release that the client was picked for."`
	Via     string `json:"via" enum:"own,quoted,global" doc:"own: the group itself; quoted: a group that it quotes; global: the global group."`
}

// Value is one effective value.
type Value struct {
	Key      string   `json:"key"`
	Type     string   `json:"type"`
	Bytes    []byte   `json:"content"`
	Hash     string   `json:"hash"`
	Revision uint64   `json:"revision"`
	Origin   Origin   `json:"origin"`
	Problems []string `json:"problems,omitempty"` // references that could not be resolved and stand as they are
}

// Effective is what a client gets. Hash changes exactly when a value does; Revision
// is that of the last change of items, groups, scopes or areas, which need not
// concern the client.
type Effective struct {
	Area     string  `json:"area"`
	Group    string  `json:"group"`
	Hash     string  `json:"hash"`
	Revision uint64  `json:"revision"`
	Changed  bool    `json:"changed"` // false: the client has it already, and Values is empty
	Values   []Value `json:"values,omitempty"`
	// Part and Parts number the messages of a stream's one update, from 1.
	Part  int `json:"part,omitempty"`
	Parts int `json:"parts,omitempty"`
}

// ListenersRequest lists who listens. Empty members are no filter.
type ListenersRequest struct {
	Area  string `json:"area,omitempty"`
	Group string `json:"group,omitempty"`
	Key   string `json:"key,omitempty"`
}

// Check refuses names that nothing can have.
func (r ListenersRequest) Check() error {
	if r.Area != "" {
		if err := areas.CheckName("area", r.Area); err != nil {
			return err
		}
	}
	if r.Group != "" {
		if err := CheckGroup("group", r.Group); err != nil {
			return err
		}
	}
	if r.Key != "" {
		return CheckKey("key", r.Key)
	}
	return nil
}

// Listener is one client that waits for changes.
type Listener struct {
	Client string            `json:"client" doc:"What the client calls itself."`
	Addr   string            `json:"addr,omitempty" doc:"Its address."`
	Labels map[string]string `json:"labels,omitempty" doc:"Its labels."`
	Door   string            `json:"door" doc:"The door it came through."`
	Node   string            `json:"node" doc:"The node that it listens at."`
	Area   string            `json:"area" doc:"Area."`
	Group  string            `json:"group" doc:"Group."`
	Key    string            `json:"key,omitempty" doc:"Key; none is all keys of the group."`
	Hash   string            `json:"hash" doc:"The version that it has."`
	Since  time.Time         `json:"since" doc:"When it began to listen, or last came back."`
}

// ListenerList is who listens on all nodes.
type ListenerList struct {
	Listeners []Listener `json:"listeners" doc:"The listeners."`
	Left      int        `json:"left_off,omitempty" doc:"Listeners that the reports of other nodes left off for lack of room."`
}

// Group is what belongs to a group as a whole, in every area.
type Group struct {
	Name        string   `json:"name" doc:"Name."`
	Description string   `json:"description,omitempty" doc:"Free text."`
	Quotes      []string `json:"quotes,omitempty" doc:"Groups whose keys this one has too, where it has none of its own; the first that has a key gives it."`
	Stamp       Stamp    `json:"changed" required:"false" doc:"Last change."`
}

// Scope puts clients into an area by rule.
type Scope struct {
	Name     string `json:"name" doc:"Name."`
	Priority int    `json:"priority" required:"false" doc:"The greater is asked first; equal ones in the order of names."`
	Rule     Rule   `json:"rule" doc:"Whom it fits."`
	Area     string `json:"area" doc:"The area that they get."`
	Stamp    Stamp  `json:"changed" required:"false" doc:"Last change."`
}

// NameRequest names a group or scope.
type NameRequest struct {
	Name string `json:"name"`
}

// Done is the answer without content.
type Done struct {
	Revision uint64 `json:"revision" doc:"Store revision."`
}

// ListRequest asks for all groups or scopes.
type ListRequest struct {
	Stale bool `json:"stale,omitempty"`
}

// GroupList is all groups that were described.
type GroupList struct {
	Groups []Group `json:"groups"`
}

// ScopeList is all scopes, in the order in which they are asked.
type ScopeList struct {
	Scopes []Scope `json:"scopes"`
}
