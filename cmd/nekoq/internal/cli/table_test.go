package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What others wrote neither breaks a table nor reaches the terminal.
func TestTablesQuoteWhatIsNotPlain(t *testing.T) {
	var out strings.Builder
	tab := newTable(&out)
	tab.row("NAME", "DESCRIPTION")
	tab.row("a\tb", "one\ntwo\x1b[31m")
	tab.row("\xff", "")
	tab.row("ü x", 7)
	tab.text("as\nit is\n")
	require.NoError(t, tab.flush())
	require.Equal(t, `NAME    DESCRIPTION
"a\tb"  "one\ntwo\x1b[31m"
"\xff"  -
ü x     7
as
it is
`, out.String())
}

func TestMany(t *testing.T) {
	for want, got := range map[string]string{
		"0 items": many(0, "item"), "1 item": many(1, "item"), "2 items": many(2, "item"), "1 entry": many(1, "entry"), "2 entries": many(2, "entry"),
	} {
		require.Equal(t, want, got)
	}
}
