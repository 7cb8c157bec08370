package command_test

import (
	"bytes"
	"testing"

	"nekoq/services/command"
)

func TestGuard(t *testing.T) {
	c := command.Command{Kind: 7, Time: 3, Actor: "a:b", Payload: []byte("payload")}
	var none *command.Guard
	if got := none.Over(c); got.Kind != 7 || string(got.Payload) != "payload" {
		t.Fatalf("%+v", got)
	}
	got := (&command.Guard{Kind: 9, Condition: []byte("if")}).Over(c)
	if got.Kind != 9 || got.Actor != "a:b" || got.Time != 3 || string(c.Payload) != "payload" {
		t.Fatalf("%+v %+v", got, c)
	}
	condition, kind, inner, err := command.Guarded(got.Payload)
	if err != nil || string(condition) != "if" || kind != 7 || string(inner) != "payload" {
		t.Fatalf("%q %d %q %v", condition, kind, inner, err)
	}
	for n := range len(got.Payload) - len(inner) {
		if _, _, _, err := command.Guarded(got.Payload[:n]); err == nil {
			t.Errorf("the first %d bytes were taken", n)
		}
	}
}

func FuzzGuarded(f *testing.F) {
	f.Add((&command.Guard{Kind: 9, Condition: []byte("if")}).Over(command.Command{Kind: 7, Payload: []byte("p")}).Payload)
	f.Fuzz(func(t *testing.T, p []byte) {
		condition, kind, inner, err := command.Guarded(p)
		if err != nil {
			return
		}
		again := (&command.Guard{Kind: 1, Condition: condition}).Over(command.Command{Kind: kind, Payload: inner}).Payload
		c2, k2, i2, err := command.Guarded(again)
		if err != nil || k2 != kind || !bytes.Equal(c2, condition) || !bytes.Equal(i2, inner) {
			t.Fatalf("%q: %v", p, err)
		}
	})
}
