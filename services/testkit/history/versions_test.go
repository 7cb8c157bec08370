package history

import (
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

func versionsOK(v *Versions) bool {
	return revisionsInTime(v.ops) == nil && porcupine.CheckOperations(versionModel, v.ops)
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		name string
		ok   bool
		run  func(v *Versions)
	}{
		{"a life", true, func(v *Versions) {
			v.Get(1, "k").Read("", 0)
			v.Put(0, "k", "a").OK(2)
			v.PutIf(0, "k", "b", 2).OK(5)
			v.Get(1, "k").Read("b", 5)
			v.DeleteIf(0, "k", 5).OK(6)
			v.Delete(0, "k").Missing()
			v.Get(1, "k").Missing()
			v.PutIf(1, "k", "c", 0).OK(7)
			v.PutIf(1, "k", "d", 5).Mismatch()
		}},
		{"an old value", false, func(v *Versions) {
			v.Put(0, "k", "a").OK(2)
			v.Put(0, "k", "b").OK(3)
			v.Get(1, "k").Read("a", 2)
		}},
		{"the right value at another revision", false, func(v *Versions) {
			v.Put(0, "k", "a").OK(2)
			v.Get(1, "k").Read("a", 3)
		}},
		{"two winners under one revision", false, func(v *Versions) {
			v.Put(0, "k", "a").OK(2)
			one, two := v.PutIf(0, "k", "b", 2), v.PutIf(1, "k", "c", 2)
			one.OK(3)
			two.OK(4)
		}},
		{"two makers of one key", false, func(v *Versions) {
			one, two := v.PutIf(0, "k", "b", 0), v.PutIf(1, "k", "c", 0)
			one.OK(3)
			two.OK(4)
		}},
		{"refused although it held", false, func(v *Versions) {
			v.Put(0, "k", "a").OK(2)
			v.PutIf(0, "k", "b", 2).Mismatch()
		}},
		{"without an answer, seen later", true, func(v *Versions) {
			v.Put(0, "k", "a").OK(2)
			v.PutIf(0, "k", "b", 2).Unknown()
			v.Get(1, "k").Read("a", 2)
			v.Get(1, "k").Read("b", 9)
			v.PutIf(1, "k", "c", 9).OK(10)
		}},
		{"without an answer, seen and then gone", false, func(v *Versions) {
			v.Put(0, "k", "a").OK(2)
			v.PutIf(0, "k", "b", 2).Unknown()
			v.Get(1, "k").Read("b", 3)
			v.Get(1, "k").Read("a", 2)
		}},
		{"without an answer, it cannot win after another", false, func(v *Versions) {
			v.Put(0, "k", "a").OK(2)
			v.PutIf(0, "k", "b", 2).Unknown()
			v.PutIf(1, "k", "c", 2).OK(3)
			v.Get(1, "k").Read("b", 4)
		}},
		{"without an answer, carried out twice", false, func(v *Versions) {
			v.Put(0, "k", "a").Unknown()
			v.Get(1, "k").Read("a", 2)
			v.Put(1, "k", "b").OK(3)
			v.Get(1, "k").Read("a", 4)
		}},
		{"a deleted key is there", false, func(v *Versions) {
			v.Put(0, "k", "a").OK(2)
			v.Delete(0, "k").OK(3)
			v.Get(1, "k").Read("a", 2)
		}},
		{"a delete without an answer", true, func(v *Versions) {
			v.Put(0, "k", "a").OK(2)
			v.Delete(0, "k").Unknown()
			v.Get(1, "k").Missing()
			v.PutIf(1, "k", "b", 0).OK(8)
		}},
		{"a lost write", false, func(v *Versions) {
			v.Put(0, "k", "a").OK(2)
			v.Get(1, "k").Missing()
		}},
		{"revisions go back over keys", false, func(v *Versions) {
			v.Put(0, "k", "a").OK(5)
			v.Put(0, "other", "a").OK(4)
		}},
		{"one revision twice", false, func(v *Versions) {
			one, two := v.Put(0, "k", "a"), v.Put(1, "other", "a")
			one.OK(5)
			two.OK(5)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := NewVersions()
			c.run(v)
			require.Equal(t, c.ok, versionsOK(v))
		})
	}
}
