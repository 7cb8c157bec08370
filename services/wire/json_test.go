package wire

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
)

func TestJSON(t *testing.T) {
	type base struct {
		Shared string `json:"shared"`
	}
	type inner struct {
		Port uint16 `json:"port"`
	}
	type in struct {
		base
		ID     string `json:"id"`
		Count  int32  `json:"count"`
		Inner  inner  `json:"inner"`
		Voter  bool   `json:"voter"`
		hidden string
		Secret string `json:"-"`
	}
	type out struct {
		Got string `json:"got"`
	}
	h := JSON(func(_ context.Context, i *in) (*out, error) {
		if i.ID == "missing" {
			return nil, errs.New(errs.NotFound, "no node %q", i.ID)
		}
		i.hidden = i.ID
		return &out{i.hidden}, nil
	})
	call := func(req string) (string, *errs.Error) {
		b, err := h(t.Context(), []byte(req), []byte{})
		return string(b), errs.From(err)
	}
	for _, req := range []string{"", " ", "{}"} {
		got, err := call(req)
		require.Nil(t, err)
		require.Equal(t, `{"got":""}`, got)
	}
	got, err := call(`{"id":"n1","count":3,"inner":{"port":1},"voter":true,"shared":"s"}`)
	require.Nil(t, err)
	require.Equal(t, `{"got":"n1"}`, got)
	_, err = call(`{"id":"missing"}`)
	require.Equal(t, errs.NotFound, err.Code)

	for req, want := range map[string]struct {
		code         errs.Code
		field, limit string
	}{
		`{"idd":"n1"}`:                {errs.UnknownField, "idd", ""},
		`{"inner":{"prot":1}}`:        {errs.UnknownField, "prot", ""},
		`{"id":7}`:                    {errs.InvalidArgument, "id", "a string"},
		`{"count":"x"}`:               {errs.InvalidArgument, "count", "a whole number of 32 bits"},
		`{"inner":{"port":-1}}`:       {errs.InvalidArgument, "inner.port", "a whole number of 16 bits, not negative"},
		`{"inner":[]}`:                {errs.InvalidArgument, "inner", "an object"},
		`{"voter":"yes"}`:             {errs.InvalidArgument, "voter", "true or false"},
		`[]`:                          {errs.InvalidArgument, "request", "an object"},
		`{"id":"n1"`:                  {errs.InvalidArgument, "", ""},
		`{"id":"n1"} {}`:              {errs.InvalidArgument, "", ""},
		`nonsense`:                    {errs.InvalidArgument, "", ""},
		`{"count":99999999999999999}`: {errs.InvalidArgument, "count", "a whole number of 32 bits"},
	} {
		_, err := call(req)
		require.NotNil(t, err, req)
		require.Equal(t, want.code, err.Code, req)
		if want.field == "" {
			continue
		}
		require.Equal(t, want.field, err.Details[0].Field, req)
		require.Equal(t, want.limit, err.Details[0].Limit, req)
		require.Contains(t, err.Message, want.field)
	}
	_, err = call(`{"idd":"n1"}`)
	require.Equal(t, "known fields: shared, id, count, inner, inner.port, voter", err.Details[0].Help)
}
