package conf_test

import (
	"fmt"
	"sync"
	"testing"

	"nekoq/client"
)

// A change that is checked once more, because its item was changed since it was looked
// at, is carried out: what was refused the first time is not taken for its answer.
func TestChangesThatAreCheckedOnceMore(t *testing.T) {
	f := start(t)
	schema := portSchema
	for i := range 100 {
		path := fmt.Sprintf("default/app/k%d.json", i)
		f.publish(path, `{"port":1}`)
		var wg sync.WaitGroup
		for what, change := range map[string]func() error{
			"schema": func() error {
				_, err := f.conf.Settings(f.ctx, client.ConfSettings{Address: at(path), Schema: &schema})
				return err
			},
			"content": func() error { _, err := f.tryPublish(path, `{"port":4}`); return err },
			"rollback": func() error {
				_, err := f.conf.Rollback(f.ctx, client.ConfRollback{Address: at(path), Number: 1})
				return err
			},
			"description": func() error {
				_, err := f.conf.Settings(f.ctx, client.ConfSettings{Address: at(path), Description: &path})
				return err
			},
		} {
			wg.Go(func() {
				if err := change(); err != nil {
					t.Errorf("%s of %s: %v", what, path, err)
				}
			})
		}
		wg.Wait()
	}
}
