package httpapi

import (
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// schemaNames names the document's schemas after their Go types. huma panics
// when two services have a type of the same name; here the second one gets its
// service in front (Info, WarehouseInfo), or a number where that is taken too.
type schemaNames struct {
	taken map[string]reflect.Type
	given map[schemaKey]string
}

type schemaKey struct {
	t    reflect.Type
	base string
}

func newSchemaNames() *schemaNames {
	return &schemaNames{taken: map[string]reflect.Type{}, given: map[schemaKey]string{}}
}

func (n *schemaNames) name(t reflect.Type, hint string) string {
	base := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return base
	}
	key := schemaKey{t, base}
	if name, ok := n.given[key]; ok {
		return name
	}
	name := base
	if n.isTaken(name, t) {
		name = serviceOf(t) + base
	}
	for i := 2; n.isTaken(name, t); i++ {
		name = serviceOf(t) + base + strconv.Itoa(i)
	}
	n.taken[name], n.given[key] = t, name
	return name
}

func (n *schemaNames) isTaken(name string, t reflect.Type) bool {
	other, ok := n.taken[name]
	return ok && other != t
}

// serviceOf gives "Warehouse" for nekoq/warehouse/api and "Peer" for
// nekoq/services/peer; "" for a type without a name.
func serviceOf(t reflect.Type) string {
	path, ok := strings.CutPrefix(t.PkgPath(), "nekoq/")
	if !ok {
		return ""
	}
	path = strings.TrimPrefix(path, "services/")
	first, _, _ := strings.Cut(path, "/")
	if first == "" {
		return ""
	}
	return strings.ToUpper(first[:1]) + first[1:]
}
