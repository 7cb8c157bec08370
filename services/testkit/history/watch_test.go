package history

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func ev(rev uint64, sub int, key, value string, create, version uint64) Event {
	return Event{Key: key, Value: value, Revision: rev, Sub: sub, Create: create, Version: version}
}

func TestFeed(t *testing.T) {
	a2, b3, c3 := ev(2, 0, "a", "1", 2, 1), ev(3, 0, "b", "1", 3, 1), ev(3, 1, "c", "1", 3, 1)
	a5, d6, b8 := ev(5, 0, "a", "2", 2, 2), Event{Key: "a", Delete: true, Revision: 6}, ev(8, 0, "b", "2", 3, 2)
	l := NewLog([]Event{b8, d6, a5, c3, b3, a2, c3, a2}, 9)
	require.NoError(t, l.Check())
	require.Equal(t, map[string]string{"b": "2", "c": "1"}, l.At(9))
	require.Equal(t, map[string]string{"a": "1", "b": "1", "c": "1"}, l.At(4))
	require.Equal(t, []Event{b3, b8}, l.Of("b"))
	onlyA := func(e *Event) bool { return e.Key == "a" }
	for _, c := range []struct {
		name  string
		wants func(e *Event) bool
		bad   string
		run   func(f *Feed)
	}{
		{"everything", nil, "", func(f *Feed) { f.Batch(3, a2, b3, c3); f.Batch(4); f.Batch(8, a5, d6, b8); f.Batch(9) }},
		{"one key, with progress", onlyA, "", func(f *Feed) { f.Batch(2, a2); f.Batch(4); f.Batch(0, a5); f.Batch(6, d6); f.Batch(9) }},
		{"begins anew where it stood", nil, "", func(f *Feed) { f.Batch(2, a2); f.Begin(2); f.Batch(8, b3, c3, a5, d6, b8) }},
		{"not to the end", nil, "", func(f *Feed) { f.Batch(2, a2) }},
		{"overtaken and told", nil, "", func(f *Feed) { f.Batch(2, a2); f.Compacted(6); f.Begin(5); f.Batch(6, d6) }},
		{"a gap", nil, "put(a, \"2\") at 5.0 (create 2, version 2) was left out before delete(a) at 6.0", func(f *Feed) { f.Batch(3, a2, b3, c3); f.Batch(6, d6) }},
		{"a gap within a revision", nil, "put(c, \"1\") at 3.1 (create 3, version 1) was left out", func(f *Feed) { f.Batch(2, a2); f.Batch(5, b3, a5) }},
		{"twice", nil, "comes twice", func(f *Feed) { f.Batch(0, a2); f.Batch(0, a2) }},
		{"twice over a new beginning", nil, "comes after the watcher was told", func(f *Feed) { f.Batch(2, a2); f.Begin(2); f.Batch(2, a2) }},
		{"out of order", nil, "was left out before", func(f *Feed) { f.Batch(3, b3, c3); f.Batch(3, a2) }},
		{"out of order within a revision", nil, "was left out before", func(f *Feed) { f.Batch(3, a2, c3, b3) }},
		{"back", nil, "comes after put(b", func(f *Feed) { f.Batch(0, a2, b3); f.Batch(0, a2) }},
		{"another value", nil, "comes where put(a", func(f *Feed) { f.Batch(2, ev(2, 0, "a", "x", 2, 1)) }},
		{"another version", nil, "comes where put(a", func(f *Feed) { f.Batch(2, ev(2, 0, "a", "1", 2, 2)) }},
		{"a delete for a put", nil, "comes where put(a", func(f *Feed) { f.Batch(2, Event{Key: "a", Delete: true, Revision: 2}) }},
		{"what was not asked for", onlyA, "put(b, \"1\") at 3.0 (create 3, version 1) comes and was not asked for", func(f *Feed) { f.Batch(2, a2); f.Batch(3, b3); f.Batch(6, a5, d6) }},
		{"what never happened", nil, "nothing more happened", func(f *Feed) { f.Batch(8, a2, b3, c3, a5, d6, b8); f.Batch(9, ev(9, 0, "z", "", 9, 1)) }},
		{"progress too early", onlyA, "told that it had everything up to 5, without put(a, \"2\")", func(f *Feed) { f.Batch(2, a2); f.Batch(5) }},
		{"progress too early for what comes", nil, "left out before|without put(c", func(f *Feed) { f.Batch(3, a2, b3); f.Batch(3, c3) }},
		{"progress goes back", onlyA, "goes back from 4 to 3", func(f *Feed) { f.Batch(2, a2); f.Batch(4); f.Batch(3) }},
		{"progress behind what came", nil, "less than the revision", func(f *Feed) { f.Batch(1, a2) }},
		{"progress ahead of the store", onlyA, "ahead of the store", func(f *Feed) { f.Batch(6, a2, a5, d6); f.Batch(10) }},
		{"told compacted without need", nil, "wants what follows 3", func(f *Feed) { f.Batch(3, a2, b3, c3); f.Compacted(4) }},
		{"skips more than was compacted", nil, "a mistake of the test", func(f *Feed) { f.Compacted(6); f.Begin(6) }},
		{"skips what was not compacted", nil, "a mistake of the test", func(f *Feed) { f.Batch(2, a2); f.Begin(3) }},
		{"goes on after compacted", nil, "had ended as compacted", func(f *Feed) { f.Compacted(4); f.Batch(2, a2) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := NewFeed("w", 1, c.wants)
			c.run(f)
			err := l.Judge(f)
			if c.bad == "" {
				require.NoError(t, err)
				return
			}
			require.Error(t, err)
			require.Regexp(t, regexpOf(c.bad), err.Error())
		})
	}
}

// A watcher that is told that it was overtaken goes on at the compact revision, and
// no sooner stands there.
func TestFeedAt(t *testing.T) {
	f := NewFeed("w", 3, nil)
	f.Batch(0, ev(5, 0, "a", "", 5, 1))
	require.EqualValues(t, 5, f.At())
	f.Batch(7)
	f.Compacted(20)
	require.EqualValues(t, 7, f.At())
	f.Begin(19)
	require.EqualValues(t, 19, f.At())
}

func TestLog(t *testing.T) {
	a2, a5 := ev(2, 0, "a", "1", 2, 1), ev(5, 0, "a", "2", 2, 2)
	gone := Event{Key: "a", Delete: true, Revision: 6}
	for name, events := range map[string][]Event{
		"two at one place":      {a2, ev(2, 0, "b", "", 2, 1)},
		"a version is left out": {a2, ev(5, 0, "a", "2", 2, 3)},
		"created twice":         {a2, ev(5, 0, "a", "2", 5, 1)},
		"deleted twice":         {a2, gone, {Key: "a", Delete: true, Revision: 7}},
		"not created":           {a5},
	} {
		require.Error(t, NewLog(events, 9).Check(), name)
	}
	for name, acked := range map[string]Event{
		"an acknowledged write is missing": {Key: "a", Value: "9", Revision: 3},
		"it is another one":                {Key: "a", Value: "9", Revision: 5},
		"it is a delete":                   {Key: "a", Delete: true, Revision: 5},
	} {
		l := NewLog([]Event{a2, a5}, 9)
		l.Acknowledge([]Event{{Key: "a", Value: "1", Revision: 2}})
		require.NoError(t, l.Check())
		l.Acknowledge([]Event{acked})
		require.Error(t, l.Check(), name)
	}
}
