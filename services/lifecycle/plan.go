package lifecycle

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"nekoq/services/errs"
)

// Planned is one component's place in the plan.
type Planned struct {
	Name  string   `json:"name"`
	Needs []string `json:"needs"`
	Off   string   `json:"off_reason,omitempty"`
}

// Plan is the order in which components start: everything after what it needs,
// ties by name; those that are off come last, by name. It reports all mistakes
// at once: a name given twice, a need that nobody has, a cycle, a need that is off.
func (g *Graph) Plan() ([]Planned, error) {
	p := planner{byName: make(map[string]*Component, len(g.components))}
	for i := range g.components {
		c := &g.components[i]
		switch {
		case c.Name == "":
			p.refuse("a component has no name")
		case p.byName[c.Name] != nil:
			p.refuse("component %s is there twice", c.Name)
		default:
			p.byName[c.Name] = c
		}
	}
	for _, c := range p.sorted() {
		for _, need := range c.Needs {
			if p.byName[need] == nil {
				p.refuse("%s needs %s, which does not exist", c.Name, need)
			}
		}
	}
	order := p.order()
	p.refuseOffNeeds()
	if len(p.errors) > 0 {
		return nil, errors.Join(p.errors...)
	}
	plan := make([]Planned, 0, len(order))
	for _, c := range order {
		if c.Off == "" {
			plan = append(plan, planned(c))
		}
	}
	for _, c := range p.sorted() {
		if c.Off != "" {
			plan = append(plan, planned(c))
		}
	}
	return plan, nil
}

func planned(c *Component) Planned {
	needs := append([]string{}, c.Needs...)
	slices.Sort(needs)
	return Planned{Name: c.Name, Needs: slices.Compact(needs), Off: c.Off}
}

type planner struct {
	byName map[string]*Component
	errors []error
}

func (p *planner) refuse(format string, args ...any) {
	p.errors = append(p.errors, errs.New(errs.InvalidArgument, format, args...))
}

func (p *planner) sorted() []*Component {
	out := make([]*Component, 0, len(p.byName))
	for _, c := range p.byName {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Component) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// order is the topological order with ties by name (Kahn's algorithm). What is
// left over lies on a cycle or behind one.
func (p *planner) order() []*Component {
	left := p.sorted()
	done := make(map[string]bool, len(left))
	var order []*Component
	for len(left) > 0 {
		i := slices.IndexFunc(left, func(c *Component) bool {
			return !slices.ContainsFunc(c.Needs, func(n string) bool { return p.byName[n] != nil && !done[n] })
		})
		if i < 0 {
			p.refuseCycle(left[0])
			return order
		}
		done[left[i].Name] = true
		order = append(order, left[i])
		left = slices.Delete(left, i, i+1)
	}
	return order
}

// refuseCycle follows needs from c, all of whose needs lead to a cycle or to a
// component that is done, until a name comes again.
func (p *planner) refuseCycle(c *Component) {
	var path []string
	onPath := make(map[string]int)
	dead := make(map[string]bool)
	var walk func(c *Component) bool
	walk = func(c *Component) bool {
		if at, again := onPath[c.Name]; again {
			cycle := path[at:]
			first := slices.Index(cycle, slices.Min(cycle))
			names := append(slices.Clone(cycle[first:]), cycle[:first]...)
			p.refuse("the needs go in a circle: %s", strings.Join(append(names, names[0]), " needs "))
			return true
		}
		if dead[c.Name] {
			return false
		}
		onPath[c.Name] = len(path)
		path = append(path, c.Name)
		for _, n := range c.Needs {
			if next := p.byName[n]; next != nil && walk(next) {
				return true
			}
		}
		path = path[:len(path)-1]
		delete(onPath, c.Name)
		dead[c.Name] = true
		return false
	}
	for _, from := range append([]*Component{c}, p.sorted()...) {
		if walk(from) {
			return
		}
	}
}

// refuseOffNeeds names the chain from each component that is on to the one that
// is off. A chain that is the tail of another's is not said again.
func (p *planner) refuseOffNeeds() {
	chains := make(map[string][]string) // component that is on: its shortest chain
	var find func(c *Component, seen map[string]bool) []string
	find = func(c *Component, seen map[string]bool) []string {
		if seen[c.Name] {
			return nil
		}
		seen[c.Name] = true
		defer delete(seen, c.Name)
		var best []string
		for _, n := range planned(c).Needs {
			next := p.byName[n]
			if next == nil {
				continue
			}
			chain := []string{n}
			if next.Off == "" {
				if chain = find(next, seen); chain == nil {
					continue
				}
				chain = append([]string{n}, chain...)
			}
			if best == nil || len(chain) < len(best) {
				best = chain
			}
		}
		return best
	}
	for _, c := range p.sorted() {
		if c.Off == "" {
			if chain := find(c, make(map[string]bool)); chain != nil {
				chains[c.Name] = append([]string{c.Name}, chain...)
			}
		}
	}
	for _, c := range p.sorted() {
		chain := chains[c.Name]
		if chain == nil || tailOfAnother(chain, chains) {
			continue
		}
		last := p.byName[chain[len(chain)-1]]
		p.refuse("%s, which is off by %s", strings.Join(chain, " needs "), last.Off)
	}
}

func tailOfAnother(chain []string, chains map[string][]string) bool {
	for _, o := range chains {
		if len(o) > len(chain) && slices.Equal(o[len(o)-len(chain):], chain) {
			return true
		}
	}
	return false
}
