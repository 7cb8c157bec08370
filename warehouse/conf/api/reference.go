package api

import (
	"bytes"
	"strings"

	areas "nekoq/warehouse/areas/api"
)

// Reference is a place in a content where another item's content goes. It is
// written ${group/key}, ${group/key@area}, ${key@group} or ${key@group:area}. What
// has neither a slash nor an @, such as ${HOME}, is none and stays as it is;
// $${group/key} stands for the text ${group/key}.
type Reference struct {
	Group, Key string
	Area       string // "": the area of the one who reads
	Start, End int    // the bytes that it takes, ${ and } included
	Escaped    bool   // it is $${...}: the text without its first $
}

// Text is the reference as it is written, in its first form.
func (r Reference) Text() string {
	s := r.Group + "/" + r.Key
	if r.Area != "" {
		s += "@" + r.Area
	}
	return "${" + s + "}"
}

// maxReference is the longest text between the braces, in bytes.
const maxReference = MaxKey + MaxGroup + areas.MaxName + 2

// NextReference finds the first reference in b from position from on.
func NextReference(b []byte, from int) (r Reference, ok bool) {
	for from < len(b) {
		at := bytes.Index(b[from:], []byte("${"))
		if at < 0 {
			return r, false
		}
		start := from + at
		inner := b[start+2:]
		inner = inner[:min(len(inner), maxReference+1)]
		end := bytes.IndexByte(inner, '}')
		if end < 0 || !r.parse(string(inner[:end])) {
			from = start + 2
			continue
		}
		r.Start, r.End = start, start+2+end+1
		if start > 0 && b[start-1] == '$' {
			r.Start, r.Escaped = start-1, true
		}
		return r, true
	}
	return r, false
}

// HasReferences tells whether b has any, escaped ones too: its bytes are then not
// what a reader gets.
func HasReferences(b []byte) bool {
	_, ok := NextReference(b, 0)
	return ok
}

func (r *Reference) parse(s string) bool {
	*r = Reference{}
	if group, rest, ok := strings.Cut(s, "/"); ok {
		key, area, hasArea := strings.Cut(rest, "@")
		r.Group, r.Key, r.Area = group, key, area
		return r.valid(hasArea)
	}
	key, rest, ok := strings.Cut(s, "@")
	if !ok {
		return false
	}
	group, area, hasArea := strings.Cut(rest, ":")
	r.Group, r.Key, r.Area = group, key, area
	return r.valid(hasArea)
}

func (r *Reference) valid(hasArea bool) bool {
	return CheckGroup("", r.Group) == nil && CheckKey("", r.Key) == nil && (!hasArea || areas.CheckName("", r.Area) == nil)
}
