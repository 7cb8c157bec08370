package api

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"nekoq/services/errs"
)

// What an export may have beside what is published.
const (
	WithDrafts  = "drafts"  // and what is scheduled
	WithGray    = "gray"    // gray releases
	WithHistory = "history" // the releases before, as far as they are kept
)

// ExportRequest names what to export.
type ExportRequest struct {
	Area  string   `json:"area,omitempty"`
	Group string   `json:"group,omitempty"`
	With  []string `json:"with,omitempty"` // WithDrafts, WithGray, WithHistory
}

// Check refuses what is not known.
func (r ExportRequest) Check() error {
	for _, w := range r.With {
		if w != WithDrafts && w != WithGray && w != WithHistory {
			return errs.Invalid("with", w, "drafts, gray, history, or several of them")
		}
	}
	return nil
}

// Has tells whether something is asked for.
func (r ExportRequest) Has(with string) bool { return slices.Contains(r.With, with) }

// Archived is one item in an archive. An item with Parts has been given before: a
// reader adds them to it.
type Archived struct {
	Address
	Type        string `json:"type,omitempty"`
	Description string `json:"description,omitempty"`
	Schema      string `json:"schema,omitempty"`
	Unpublished bool   `json:"unpublished,omitempty"` // there is no release
	ReadOnly    bool   `json:"read_only,omitempty"`
	Number      uint64 `json:"number,omitempty"` // of the release
	Bytes       []byte `json:"content,omitempty"`

	Parts []ArchivedPart `json:"parts,omitempty"`
	// AsOf is the store revision that the whole export shows.
	AsOf uint64 `json:"as_of,omitempty"`
}

// The kinds of parts.
const (
	PartDraft     = "draft"
	PartScheduled = "scheduled"
	PartGray      = "gray"
	PartHistory   = "history"
)

// ArchivedPart is one more content of an item.
type ArchivedPart struct {
	Kind string `json:"kind"`
	Type string `json:"type,omitempty"`

	Time    time.Time `json:"time,omitzero"`
	Actor   string    `json:"actor,omitempty"`
	Comment string    `json:"comment,omitempty"`

	Number   uint64     `json:"number,omitempty"`   // history: of the release
	By       string     `json:"by,omitempty"`       // history: how it came about
	From     uint64     `json:"from,omitempty"`     // history: what was rolled back to
	Name     string     `json:"name,omitempty"`     // gray release; history: the one that was promoted
	At       *time.Time `json:"at,omitempty"`       // scheduled: when it is published
	Rule     *Rule      `json:"rule,omitempty"`     // gray
	Priority int        `json:"priority,omitempty"` // gray

	Bytes []byte `json:"content,omitempty"`
}

// Manifest is the file of an archive that says what the files' names do not. An
// archive without one is taken in too.
type Manifest struct {
	Revision uint64     `json:"revision,omitempty"` // store revision that the export shows
	Items    []Archived `json:"items"`
}

// ManifestName is its name.
const ManifestName = "nekoq.json"

// partsFolder holds the contents that are not what is published. A path below it
// has at least five parts, so it is no item's.
const partsFolder = "_more/"

// PartsFile tells whether a file of an archive holds a part.
func PartsFile(name string) bool {
	return strings.HasPrefix(name, partsFolder) && strings.Count(name, "/") >= 4
}

// File is the name of a part's file in an archive; "" for a part without a content.
func (p *ArchivedPart) File(a Address) string {
	name := partsFolder + a.Path() + "/" + p.Kind
	switch p.Kind {
	case PartGray:
		return name + "/" + p.Name
	case PartHistory:
		if p.By == ByDelete {
			return ""
		}
		return name + "/" + strconv.FormatUint(p.Number, 10)
	}
	return name
}

// File is one file of an archive.
type File struct {
	Name  string
	Bytes []byte
}

// Files gives the files of what an export gives at once.
func (x *Archived) Files() (out []File) {
	if len(x.Parts) == 0 && !x.Unpublished {
		out = append(out, File{x.Path(), x.Bytes})
	}
	for i := range x.Parts {
		if name := x.Parts[i].File(x.Address); name != "" {
			out = append(out, File{name, x.Parts[i].Bytes})
		}
	}
	return out
}

// Check refuses what cannot be a part of an archive; names become paths.
func (x *Archived) Check() error {
	if err := x.Address.Check(); err != nil {
		return err
	}
	for i := range x.Parts {
		switch p := &x.Parts[i]; p.Kind {
		case PartDraft, PartScheduled, PartHistory:
		case PartGray:
			if err := CheckGroup("name", p.Name); err != nil {
				return err
			}
		default:
			return errs.Invalid("kind", p.Kind, "draft, scheduled, gray or history")
		}
	}
	return nil
}

// Add takes up what an export gives, without the contents: an item, or more parts
// of the one before.
func (m *Manifest) Add(x Archived) {
	m.Revision = x.AsOf
	x.AsOf, x.Bytes = 0, nil
	x.Parts = slices.Clone(x.Parts)
	for i := range x.Parts {
		x.Parts[i].Bytes = nil
	}
	if n := len(m.Items); n > 0 && len(x.Parts) > 0 && m.Items[n-1].Address == x.Address {
		m.Items[n-1].Parts = append(m.Items[n-1].Parts, x.Parts...)
		return
	}
	m.Items = append(m.Items, x)
}
