package httpapi

import "strconv"

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// nearest gives the known name that is at most two edits (one for names of up
// to four bytes) away from name, "" for none. The first of equals wins.
func nearest(name string, known []string) string {
	limit := 2
	if len(name) <= 4 {
		limit = 1
	}
	best, at := "", limit+1
	for _, k := range known {
		if d := editDistance(name, k, limit); d < at {
			best, at = k, d
		}
	}
	return best
}

// editDistance is Levenshtein's distance with swaps of neighbours counted as one
// (optimal string alignment), given up above limit.
func editDistance(a, b string, limit int) int {
	if d := len(a) - len(b); d > limit || -d > limit {
		return limit + 1
	}
	before := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
