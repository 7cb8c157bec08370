package link

import "context"

// KeyOf gives the key under which a package keeps a value in a context, when the type
// of that key is the package's own: ask reads the value, and so tells what it looks for.
func KeyOf(ask func(context.Context)) any {
	p := &keyProbe{Context: context.Background()}
	ask(p)
	return p.key
}

// keyProbe notes the key it is asked for.
type keyProbe struct {
	context.Context
	key any
}

func (p *keyProbe) Value(key any) any {
	p.key = key
	return nil
}
