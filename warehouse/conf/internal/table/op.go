package table

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"nekoq/warehouse/conf/api"
)

// Verb is what an Op does.
type Verb string

// The verbs. Only ever appended.
const (
	DoDraft       Verb = "draft"
	DoDiscard     Verb = "discard"
	DoPublish     Verb = "publish" // the content of the op, or without one the draft
	DoSchedule    Verb = "schedule"
	DoUnschedule  Verb = "unschedule"
	DoFire        Verb = "fire" // what is due; Number is the revision at which it was scheduled
	DoRollback    Verb = "rollback"
	DoDelete      Verb = "delete"
	DoSettings    Verb = "settings"
	DoGray        Verb = "gray"
	DoGrayDrop    Verb = "gray_drop"
	DoGrayPromote Verb = "gray_promote"
	DoTakeIn      Verb = "take_in" // an item of an archive with its parts; Number is the release that is published
)

// Op changes one item.
type Op struct {
	Do Verb `json:"do"`
	api.Address
	If      *uint64      `json:"if,omitempty"`
	Content *api.Content `json:"content,omitempty"` // its bytes follow the header
	// Under is the hash of the schema that Content was checked against, empty for
	// none. Under another one the op is refused, so that nothing is written that
	// the item's schema was never asked about. Nil asks nothing.
	Under   *string    `json:"under,omitempty"`
	Comment string     `json:"comment,omitempty"`
	By      string     `json:"by,omitempty"` // how a release came about, when not by the verb
	Number  uint64     `json:"number,omitempty"`
	At      *time.Time `json:"at,omitempty"`

	Description *string      `json:"description,omitempty"`
	ReadOnly    *bool        `json:"read_only,omitempty"`
	Schema      *api.Content `json:"schema,omitempty"` // size 0 takes it away; its bytes follow those of Content

	Gray     string    `json:"gray,omitempty"`
	Priority *int      `json:"priority,omitempty"` // nil leaves that of a gray release as it is
	Rule     *api.Rule `json:"rule,omitempty"`

	Parts []Part `json:"parts,omitempty"` // their bytes follow those of Schema

	Bytes       []byte `json:"-"`
	SchemaBytes []byte `json:"-"`
}

// Batch is the payload of KindWrite: all of it happens, or none.
type Batch []Op

// Encode gives the payload: the length of the header, the ops as JSON, and then
// the contents one after the other.
func (b Batch) Encode() []byte {
	head := Encode(b)
	n := len(head) + binary.MaxVarintLen32
	for i := range b {
		n += b[i].Size()
	}
	out := binary.AppendUvarint(make([]byte, 0, n), uint64(len(head)))
	out = append(out, head...)
	for i := range b {
		out = append(out, b[i].Bytes...)
		out = append(out, b[i].SchemaBytes...)
		for j := range b[i].Parts {
			out = append(out, b[i].Parts[j].Bytes...)
		}
	}
	return out
}

// Size is how many bytes of contents an op brings.
func (o *Op) Size() int {
	n := len(o.Bytes) + len(o.SchemaBytes)
	for i := range o.Parts {
		n += len(o.Parts[i].Bytes)
	}
	return n
}

var errBatch = errors.New("conf: a batch is cut short")

func decodeBatch(p []byte) (b Batch, err error) {
	n, w := binary.Uvarint(p)
	if w <= 0 || n > uint64(len(p)-w) {
		return nil, errBatch
	}
	if err := decode("batch", p[w:w+int(n)], &b); err != nil {
		return nil, err
	}
	rest := p[w+int(n):]
	take := func(c *api.Content) []byte {
		if c == nil || err != nil {
			return nil
		}
		if c.Size < 0 || c.Size > len(rest) {
			err = errBatch
			return nil
		}
		out := rest[:c.Size:c.Size]
		rest = rest[c.Size:]
		return out
	}
	for i := range b {
		b[i].Bytes = take(b[i].Content)
		b[i].SchemaBytes = take(b[i].Schema)
		for j := range b[i].Parts {
			b[i].Parts[j].Bytes = take(b[i].Parts[j].Content)
		}
	}
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("conf: %d bytes after a batch", len(rest))
	}
	return b, err
}

// Written is the result of KindWrite: the item as it now is when the batch had one
// op, and whether each op changed anything.
type Written struct {
	Item    *api.Item `json:"item,omitempty"`
	Changed []bool    `json:"changed"`
}
