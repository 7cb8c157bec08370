package conf_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"nekoq/client"
	"nekoq/services/errs"
)

const portSchema = `{"type":"object","properties":{"port":{"type":"integer","maximum":100}}}`

// Of a schema and a content that it does not allow, written at the same time, one is
// refused.
func TestSchemaAgainstContentAtOnce(t *testing.T) {
	f := start(t)
	schema := portSchema
	for i := range 200 {
		path := fmt.Sprintf("default/app/k%d.json", i)
		f.publish(path, `{"port":1}`)
		var set, put error
		var wg sync.WaitGroup
		wg.Go(func() { _, set = f.conf.Settings(f.ctx, client.ConfSettings{Address: at(path), Schema: &schema}) })
		wg.Go(func() {
			if i%2 == 0 {
				_, put = f.tryPublish(path, `{"port":"x"}`)
				return
			}
			_, put = f.conf.Gray(f.ctx, client.ConfGray{
				Address: at(path), Name: "g", Rule: &client.ConfRule{Percent: 5}, Bytes: []byte(`{"port":"x"}`), HasContent: true,
			})
		})
		wg.Wait()
		switch {
		case set == nil && put == nil:
			t.Fatalf("%s: both were taken", path)
		case set == nil:
			f.refused(put, errs.InvalidArgument, "/port")
		case put == nil:
			f.refused(set, errs.Conflict, "does not fit")
		default:
			t.Fatal(set, put)
		}
	}
}

func TestSchemaErrorsTellThePlace(t *testing.T) {
	f := start(t)
	f.publish("default/app/k.json", `{"port":1}`)
	set := func(schema string) error {
		_, err := f.conf.Settings(f.ctx, client.ConfSettings{Address: at("default/app/k.json"), Schema: &schema})
		return err
	}
	f.ok(set(portSchema))
	_, err := f.tryPublish("default/app/k.json", `{"port":1000}`)
	f.refused(err, errs.InvalidArgument, "content: it does not fit the item's schema: at '/port': maximum: got 1,000, want 100")
	err = set(`{"type":"nonsense"}`)
	f.refused(err, errs.InvalidArgument, "it is not a valid JSON Schema: at")
	if text := err.Error(); strings.Contains(text, "metaschema") || !strings.Contains(text, "'/type'") {
		t.Fatal(text)
	}
	f.refused(set(`{"required":["host"]}`), errs.Conflict, "missing property 'host'")
}
