package idgen

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"nekoq/services/errs"
)

// Values from the standards' own examples: the ISBN-like strings of ISO 7064, ORCID, the
// Luhn example of ISO/IEC 7812, and a Global Release Identifier.
func TestCheckDigits(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"luhn", "7992739871", "3"},
		{"luhn", "1789372997", "4"},
		{"mod11_2", "0000-0002-1825-009", "7"},
		{"mod11_2", "0000-0002-1694-233", "X"},
		{"mod11_2", "079", "X"},
		{"mod11_10", "0794", "5"},
		{"mod97_10", "794", "44"},
		{"mod37_36", "A12425GABC1234002", "M"},
	} {
		algo, ok := checkByName(c.name)
		if !ok {
			t.Fatal(c.name)
		}
		if got := algo.of([]byte(c.text)); got != c.want {
			t.Errorf("%s of %s is %s, want %s", c.name, c.text, got, c.want)
		}
	}
}

// What check characters are for: one wrong digit is always found.
func TestCheckFindsOneWrongDigit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		digits := []byte(rapid.StringMatching(`[0-9]{1,20}`).Draw(t, "digits"))
		i := rapid.IntRange(0, len(digits)-1).Draw(t, "at")
		other := byte('0' + rapid.IntRange(0, 9).Draw(t, "other"))
		if digits[i] == other {
			return
		}
		for _, c := range checkDigits {
			was := c.of(digits)
			wrong := append([]byte(nil), digits...)
			wrong[i] = other
			if c.of(wrong) == was {
				t.Fatalf("%s: %s and %s have %s both", c.name, digits, wrong, was)
			}
		}
	})
}

func TestTemplates(t *testing.T) {
	at := time.Date(2026, 11, 9, 8, 7, 6, 5e6, time.UTC)
	for _, c := range []struct {
		template, zone string
		n              Number
		want           string
	}{
		{"{n}", "", Number{}, "0"},
		{"{n:6}", "", Number{Lo: 42}, "000042"},
		{"{n:2}", "", Number{Lo: 12345}, "12345"},
		{"ORD-{yyyyMMdd}-{n:4}", "", Number{Lo: 7}, "ORD-20261109-0007"},
		{"{yy.DDD}/{n}", "", Number{Lo: 7}, "26.313/7"},
		{"{HH:mm:ss.SSS}_{n}", "Asia/Shanghai", Number{Lo: 7}, "16:07:06.005_7"},
		{"{yyyy-MM-dd} {n}", "Pacific/Kiritimati", Number{Lo: 7}, "2026-11-09 7"},
		{"{yyyy-MM-dd} {n}", "America/New_York", Number{Lo: 7}, "2026-11-09 7"},
		{"{{{n}}}", "", Number{Lo: 7}, "{7}"},
		{"{n:4,base=16}", "", Number{Lo: 48879}, "beef"},
		{"{n:8,base=16,upper}", "", Number{Lo: 48879}, "0000BEEF"},
		{"{n,}", "", Number{}, "error"},
		{"{n:base=32}", "", Number{Lo: 1<<63 - 1}, "7ZZZZZZZZZZZZ"},
		{"{n:base=36}", "", Number{Lo: 1<<63 - 1}, "1Y2P0IJ32E8E7"},
		{"{n:base=36,lower}", "", Number{Lo: 1<<63 - 1}, "1y2p0ij32e8e7"},
		{"{n:base=62}", "", Number{Hi: 1<<64 - 1, Lo: 1<<64 - 1}, "7n42DGM5Tflk9n8mt7Fhc7"},
		{"A{n:10}{check=luhn}", "", Number{Lo: 7992739871}, "A79927398713"},
		{"{n:3}-{check=mod97_10}", "", Number{Lo: 794}, "794-44"},
	} {
		tpl, err := ParseTemplate(c.template, c.zone, ResetNever)
		if c.want == "error" {
			if err == nil {
				t.Errorf("%s was taken", c.template)
			}
			continue
		}
		if err != nil {
			t.Error(c.template, err)
			continue
		}
		if got := string(tpl.Append(nil, c.n, at)); got != c.want {
			t.Errorf("%s: %s, want %s", c.template, got, c.want)
		}
	}
}

func TestTemplateRefused(t *testing.T) {
	for _, c := range []struct {
		template, zone string
		reset          Reset
		want           string
	}{
		{"", "", "", "1 to 256 bytes"},
		{strings.Repeat("x", 300) + "{n}", "", "", "1 to 256 bytes"},
		{"abc", "", "", "position 4: the number {n} is missing"},
		{"a{n}{n}", "", "", "position 6: a second {n}"},
		{"a{n", "", "", "position 2: the brace is never closed"},
		{"a}{n}", "", "", "position 2: a closing brace"},
		{"{}{n}", "", "", "position 2: empty braces"},
		{"{n:0}", "", "", "position 2: \"0\""},
		{"{n:65}", "", "", "width from 1 to 64"},
		{"{n:base=7}", "", "", "base \"7\""},
		{"{n:base=62,upper}", "", "", "letters of both cases"},
		{"{yyyyQQ}{n}", "", "", "position 6: \"QQ\""},
		{"{n}{check=crc}", "", "", "want one of luhn"},
		{"{check=luhn}{n}", "", "", "stands before {n}"},
		{"{n}{check=luhn}{check=luhn}", "", "", "a second check"},
		{"{n:base=36}{check=luhn}", "", "", "decimal digits only"},
		{"{n:base=62}{check=mod37_2}", "", "", "both cases"},
		{"é{n}", "", "", "position 1: only printable ASCII"},
		{"{n}", "Mars/Olympus", "", "time_zone"},
		{"{n}", "Local", "", "time_zone"},
		{"{n}", "", "week", "reset"},
		{"{MMdd}{n}", "", "day", "year, month and day"},
		{"{yyyyMM}{n}", "", "day", "year, month and day"},
		{"{yyyy}{n}", "", "month", "year and month"},
		{"{n}", "", "year", "year"},
	} {
		_, err := ParseTemplate(c.template, c.zone, c.reset)
		if !errs.Has(err, errs.InvalidArgument) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %q %q: %v, want %q", c.template, c.zone, c.reset, err, c.want)
		}
	}
}

func TestPeriods(t *testing.T) {
	tpl, err := ParseTemplate("{yyyyMMdd}{n}", "America/New_York", ResetDay)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 8, 4, 59, 59, 0, time.UTC) // the evening before the clocks change
	if p := tpl.Period(at); p != 20260307 {
		t.Fatal(p)
	}
	if p := tpl.Period(at.Add(time.Second)); p != 20260308 || !tpl.PeriodStart(p).Equal(at.Add(time.Second)) {
		t.Fatal(p, tpl.PeriodStart(p))
	}
	for _, r := range []Reset{ResetDay, ResetMonth, ResetYear} {
		tpl, err := ParseTemplate("{yyyyMMdd}{n}", "Asia/Shanghai", r)
		if err != nil {
			t.Fatal(err)
		}
		if p := tpl.Period(at); tpl.Period(tpl.PeriodStart(p)) != p || tpl.Period(tpl.PeriodStart(p).Add(-1)) >= p {
			t.Fatal(r, p)
		}
	}
}

// A formatted id reads back to its number, whatever the template, and a changed
// one is not taken for another.
func TestTemplateRoundTrip(t *testing.T) {
	at := time.Date(2026, 11, 9, 8, 7, 6, 5e6, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom([]string{"10", "16", "32", "36", "62"}).Draw(t, "base")
		text := rapid.StringMatching(`[A-Z0-9 -]{0,5}`).Draw(t, "before") + "{n:" + rapid.SampledFrom([]string{"1", "5", "20"}).Draw(t, "pad") + ",base=" + base + "}" +
			rapid.SampledFrom([]string{"", "{yyyyMMdd}", "-{HH:mm}"}).Draw(t, "date")
		if base == "10" {
			text += rapid.SampledFrom([]string{"", "{check=luhn}", "{check=mod97_10}", "{check=mod11_2}"}).Draw(t, "check")
		}
		tpl, err := ParseTemplate(text, "", ResetNever)
		if err != nil {
			t.Fatal(text, err)
		}
		n := rapid.Uint64Range(0, 1<<63-1).Draw(t, "n")
		id := string(tpl.Append(nil, Number{Lo: n}, at))
		d, err := tpl.Decode(id, Layout{Kind: Sequence})
		if err != nil || d.Parts[len(d.Parts)-1] != part10("number", n) {
			t.Fatal(text, id, d, err)
		}
	})
}

func TestTemplateDecodeRefuses(t *testing.T) {
	tpl, err := ParseTemplate("A-{yyyyMM}-{n:4}{check=luhn}", "", ResetMonth)
	if err != nil {
		t.Fatal(err)
	}
	good := string(tpl.Append(nil, Number{Lo: 17}, time.Date(2026, 11, 9, 0, 0, 0, 0, time.UTC)))
	if _, err := tpl.Decode(good, Layout{Kind: Sequence}); err != nil {
		t.Fatal(good, err)
	}
	for _, bad := range []string{"", "A", "B" + good[1:], good[:len(good)-1], good[:len(good)-1] + "x", strings.Replace(good, "202611", "202613", 1), strings.Replace(good, "0017", "0018", 1), strings.Replace(good, "0017", "00017", 1), good + strings.Repeat("9", 40)} {
		if d, err := tpl.Decode(bad, Layout{Kind: Sequence}); !errs.Has(err, errs.InvalidArgument) {
			t.Errorf("%q: %v %v", bad, d, err)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add("ORD-{yyyyMMdd}-{n:6}{check=luhn}", "day", uint64(1))
	f.Add("{{{n:8,base=36,lower}}}", "", uint64(1<<63))
	f.Add("{yy-DDD}{HH:mm:ss.SSS}{n:64,base=62}", "year", uint64(0))
	f.Fuzz(func(t *testing.T, text, reset string, n uint64) {
		tpl, err := ParseTemplate(text, "", Reset(reset))
		if err != nil {
			if !errs.Has(err, errs.InvalidArgument) {
				t.Fatal(err)
			}
			return
		}
		n &= 1<<63 - 1
		id := string(tpl.Append(nil, Number{Lo: n}, time.UnixMilli(int64(n%(1<<41)))))
		d, err := tpl.Decode(id, Layout{Kind: Sequence})
		if err != nil || d.Parts[len(d.Parts)-1] != part10("number", n) {
			t.Fatalf("%q: %q: %v %v", text, id, d, err)
		}
	})
}
