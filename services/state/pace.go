package state

// Page bytes of one commit. Rows whose keys lie far apart cost a page each, ten
// times their own size, and bbolt holds all pages of a transaction in memory.
const (
	densePages = 32 << 20 // of rows that share pages
	leastPages = 16 << 20 // of scattered rows, when larger commits gain nothing
	mostPages  = 64 << 20 // of scattered rows that come back to so few pages

	scattered     = 4 // page bytes for each byte of rows, from which rows count as scattered
	minFlushBytes = 1 << 20

	// telling is how many leaves a commit has to touch to tell anything.
	telling = 256
)

// pacer finds how many pages a commit should take. When keys are written in no order
// over a large store, each row has a page of its own however many there are, so small
// commits cost the same and hold less. When the same keys are written again and again,
// the rows of a larger commit share pages, and it costs a fraction. Which it is shows in
// the leaves: where rows come back to w of them, a commit that touches n finds about
// n*m/w of m that are known (the count of a population by Lincoln and Petersen).
type pacer struct {
	within float64 // leaves that rows come back to; 0 while unknown
}

// next gives the bytes of rows for the next commit, after one of so many bytes of rows
// that took so many bytes of pages and had this reach.
func (p *pacer) next(rows, pages int64, r reach, pageSize int64) int64 {
	if r.leaves >= telling && r.known >= telling {
		p.within = float64(r.leaves) * float64(r.known) / float64(max(r.again, 1))
	}
	most := int64(leastPages)
	switch {
	case int64(r.leaves)*pageSize*8 < pages: // most of them are new pages
		most = densePages
	case p.within > 0 && p.within*float64(pageSize) <= mostPages:
		most = mostPages
	case pages <= scattered*rows:
		most = densePages
	}
	return int64(float64(most) * float64(rows) / float64(pages))
}
