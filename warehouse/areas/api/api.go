// Package api is what travels between the doors of areas and their callers, as
// JSON. Server and Go client share it.
//
// It owns the rule of names and holds no state. The domain, its doors and the
// client import it; it imports only floors 0 to 2.
package api

import (
	"strings"

	"nekoq/services/errs"
	"nekoq/services/wire"
)

// The methods of the native door. All but the watch speak JSON once.
const (
	MethodCreate wire.Method = 0x0240 // CreateRequest → Area
	MethodGet    wire.Method = 0x0241 // GetRequest → Area
	MethodList   wire.Method = 0x0242 // ListRequest → AreaList
	MethodUpdate wire.Method = 0x0243 // UpdateRequest → Area
	MethodDelete wire.Method = 0x0244 // DeleteRequest → Deleted
	MethodLevels wire.Method = 0x0245 // GetRequest → Levels
	MethodWatch  wire.Method = 0x0246 // WatchRequest → stream of Update
)

// Root is the name of the area at the top. It always exists.
const Root = "default"

// Limits of the tree.
const (
	MaxName        = 128 // bytes of a name
	MaxPart        = 63  // bytes between two dots
	MaxDepth       = 16  // areas from the root down to the deepest, the root included
	MaxDescription = 256 // bytes
)

const nameRule = "1 to 128 bytes: parts of 1 to 63 letters, digits, _ or -, parted by dots"

// CheckName refuses what is not a name.
func CheckName(field, name string) error {
	if name == "" || len(name) > MaxName {
		return errs.Invalid(field, name, nameRule)
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || len(part) > MaxPart {
			return errs.Invalid(field, name, nameRule)
		}
		for i := range len(part) {
			c := part[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
				return errs.Invalid(field, name, nameRule)
			}
		}
	}
	return nil
}

// Area is one place in the tree.
type Area struct {
	Name            string `json:"name" doc:"Name, unique in the tree."`
	Parent          string `json:"parent" doc:"The area above; empty for the root."`
	Description     string `json:"description,omitempty" doc:"Free text."`
	CreatedRevision uint64 `json:"created_revision" doc:"Store revision of its creation; 0 for a root that was never changed."`
	Revision        uint64 `json:"revision" doc:"Store revision of its last change."`
	Created         string `json:"created,omitempty" doc:"Time of its creation, RFC 3339."`
	Updated         string `json:"updated,omitempty" doc:"Time of its last change, RFC 3339."`
	Actor           string `json:"actor,omitempty" doc:"Who changed it last, as door:name."`
}

// CreateRequest makes an area. Parent empty is the root.
type CreateRequest struct {
	Name        string `json:"name" doc:"Name: parts of letters, digits, _ or -, parted by dots."`
	Parent      string `json:"parent,omitempty" doc:"The area above; default without."`
	Description string `json:"description,omitempty" doc:"Free text of up to 256 bytes."`
}

// UpdateRequest moves an area below another parent, changes its description, or
// both. Nil leaves a member as it is.
type UpdateRequest struct {
	Name        string  `json:"name"`
	Parent      *string `json:"parent,omitempty"`
	Description *string `json:"description,omitempty"`
	// IfRevision, when set, demands that the area is at this revision.
	IfRevision *uint64 `json:"if_revision,omitempty"`
}

// DeleteRequest deletes an area that nothing stands in.
type DeleteRequest struct {
	Name       string  `json:"name"`
	IfRevision *uint64 `json:"if_revision,omitempty"`
}

// Deleted is the answer to a delete.
type Deleted struct {
	Revision uint64 `json:"revision" doc:"Store revision of the deletion."`
}

// GetRequest names an area.
type GetRequest struct {
	Name  string `json:"name"`
	Stale bool   `json:"stale,omitempty"` // answered at once from the node's own state
}

// ListRequest asks for areas in the order of their names, those after After.
type ListRequest struct {
	Parent string `json:"parent,omitempty"` // only the children of this area; empty is all areas
	After  string `json:"after,omitempty"`
	Limit  int    `json:"limit,omitempty"`
	Stale  bool   `json:"stale,omitempty"`
}

// AreaList is one page. Revision is that of the whole tree.
type AreaList struct {
	Areas    []Area `json:"areas"`
	Revision uint64 `json:"revision"`
	More     bool   `json:"more"`
}

// Levels is an area and those above it, up to the root.
type Levels struct {
	Levels   []string `json:"levels" doc:"The area first, then each parent, the root last."`
	Revision uint64   `json:"revision" doc:"Revision of the tree."`
}

// WatchRequest watches the tree. A caller that knows the tree at After, and
// says so, gets changes only.
type WatchRequest struct {
	After uint64 `json:"after,omitempty"`
}

// Update is one message of a watch: either the whole tree (Full), or the areas
// that changed. A name in Deleted is gone.
type Update struct {
	Revision uint64   `json:"revision" doc:"Revision of the tree with this update."`
	Full     bool     `json:"full,omitempty" doc:"Areas is the whole tree, not a change."`
	Areas    []Area   `json:"areas,omitempty" doc:"Areas that were created, moved or described."`
	Deleted  []string `json:"deleted,omitempty" doc:"Areas that were deleted."`
}
