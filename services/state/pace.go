package state

// Page bytes of one commit. Rows whose keys lie far apart cost a page each, ten
// times their own size, and bbolt holds all pages of a transaction in memory.
const (
	densePages = 32 << 20 // of rows that share pages
	leastPages = 16 << 20 // of scattered rows, when larger commits gain nothing
	mostPages  = 96 << 20 // of scattered rows, when they do

	scattered     = 4 // page bytes for each byte of rows, from which rows count as scattered
	minFlushBytes = 2 << 20

	// worth is the part of its cost in a small commit that a row may cost in a large one.
	worth = 0.85
	// restCommits is how many commits pass before the other size is tried.
	restCommits = 16
)

// pacer finds how many pages a commit of scattered rows should take. When keys are
// written in no order over a large store, each row has a page of its own however many
// there are, so small commits cost the same and hold less. When the same keys are
// written again and again, the rows of a larger commit share pages, and it costs a
// fraction. Now and then one commit of the other size shows which it is.
type pacer struct {
	small   bool
	probing bool    // the next commit is of the other size
	rows    float64 // bytes of rows of the last commit, and pages for each of them
	cost    float64
	commits int // since the last probe
}

// next gives the bytes of rows for the next commit, after one of so many bytes of rows
// that took so many bytes of pages. Without room nothing larger is tried.
func (p *pacer) next(rows, pages int64, room bool) int64 {
	n, cost := float64(rows), float64(pages)/float64(rows)
	if cost <= scattered {
		*p = pacer{}
		return int64(densePages / cost)
	}
	if p.probing {
		p.learn(n, cost)
	} else if p.commits++; p.rows == 0 || p.commits >= restCommits {
		p.probing = !p.small || room
	}
	p.rows, p.cost = n, cost
	if p.small != p.probing {
		return int64(leastPages / cost)
	}
	return int64(mostPages / cost)
}

// learn compares a probe with the commit before it. One that was written early, and so
// is not of the size that was asked for, says nothing.
func (p *pacer) learn(n, cost float64) {
	p.probing, p.commits = false, 0
	switch {
	case !p.small && n < p.rows/1.5:
		p.small = p.cost > worth*cost
	case p.small && n > p.rows*1.5:
		p.small = cost > worth*p.cost
	default:
		p.commits = restCommits - 2 // soon again
	}
}
