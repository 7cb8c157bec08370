package idgen

import (
	"slices"
	"strings"
)

// checkDigit is one algorithm of check characters. compute gives the characters
// over the values of those characters of text that take part; alnum algorithms
// count letters, the others only decimal digits.
type checkDigit struct {
	name    string
	alnum   bool
	width   int
	compute func(values []byte) string
}

const alnum37 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ*"

// checkDigits are the algorithms by name: Luhn (ISO/IEC 7812-1) and the pure and
// hybrid systems of ISO/IEC 7064.
var checkDigits = []checkDigit{
	{name: "luhn", width: 1, compute: luhn},
	{name: "mod11_2", width: 1, compute: func(v []byte) string { return pureMod(v, 11, 2, "0123456789X") }},
	{name: "mod11_10", width: 1, compute: func(v []byte) string { return hybridMod(v, 10) }},
	{name: "mod97_10", width: 2, compute: mod97},
	{name: "mod37_2", alnum: true, width: 1, compute: func(v []byte) string { return pureMod(v, 37, 2, alnum37) }},
	{name: "mod37_36", alnum: true, width: 1, compute: func(v []byte) string { return hybridMod(v, 36) }},
}

func checkByName(name string) (*checkDigit, bool) {
	i := slices.IndexFunc(checkDigits, func(c checkDigit) bool { return c.name == name })
	if i < 0 {
		return nil, false
	}
	return &checkDigits[i], true
}

func checkNames() string {
	var names []string
	for _, c := range checkDigits {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}

// of computes the check characters of text: digits, and for alnum algorithms
// letters in upper case, count; everything else is passed over.
func (c *checkDigit) of(text []byte) string {
	var buf [64]byte
	values := buf[:0]
	for _, ch := range text {
		switch {
		case ch >= '0' && ch <= '9':
			values = append(values, ch-'0')
		case c.alnum && ch >= 'A' && ch <= 'Z':
			values = append(values, ch-'A'+10)
		case c.alnum && ch >= 'a' && ch <= 'z':
			values = append(values, ch-'a'+10)
		}
	}
	return c.compute(values)
}

func luhn(values []byte) string {
	sum := 0
	for i := range values {
		v := int(values[len(values)-1-i])
		if i%2 == 0 { // every second digit, beginning with the one before the check digit
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return string(rune('0' + (10-sum%10)%10))
}

// pureMod is a pure system with one check character: the string with it is 1 modulo m.
func pureMod(values []byte, m, r int, alphabet string) string {
	p := 0
	for _, v := range values {
		p = (p + int(v)) * r % m
	}
	c := (m + 1 - p) % m
	return alphabet[c : c+1]
}

// mod97 is MOD 97-10: two digits, so that the number with them is 1 modulo 97.
func mod97(values []byte) string {
	p := 0
	for _, v := range values {
		p = (p*10 + int(v)) % 97
	}
	c := 98 - p*100%97
	return string([]byte{'0' + byte(c/10), '0' + byte(c%10)})
}

// hybridMod is MOD m+1,m: one check character of the alphabet itself.
func hybridMod(values []byte, m int) string {
	p := m
	for _, v := range values {
		if p = (p + int(v)) % m; p == 0 {
			p = m
		}
		p = p * 2 % (m + 1)
	}
	c := (m + 1 - p) % m
	return alnum37[c : c+1]
}
