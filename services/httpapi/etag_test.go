package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/errs"
)

func TestParseTags(t *testing.T) {
	for line, want := range map[string]string{
		"*": "*", ` * `: "*", `"17"`: `"17"`, `W/"17"`: `W/"17"`, `"a", W/"b","c"`: `"a" W/"b" "c"`, `"a,b" , "c"`: `"a,b" "c"`,
		`""`: `""`, `"é"`: `"é"`, `,"a",,`: `"a"`,
		"": "bad", "17": "bad", `"17`: "bad", `17"`: "bad", `w/"17"`: "bad", `"a" "b"`: "bad", `*, "a"`: "bad", `"a b"`: "bad", "\"a\x7f\"": "bad", ",": "bad", `W/`: "bad",
	} {
		got, err := parseTags(http.Header{ifMatch: {line}}, ifMatch)
		text := fmt.Sprint(got.list)
		switch {
		case err != nil:
			text = "[bad]"
			if e := errs.From(err); e.Code != errs.InvalidArgument || e.Details[0].Field != ifMatch {
				t.Errorf("%q: %v", line, err)
			}
		case got.any:
			text = "[*]"
		}
		if text != "["+want+"]" {
			t.Errorf("%q is %s, want %s", line, text, want)
		}
	}
	both, err := parseTags(http.Header{ifMatch: {`"a"`, `"b"`}}, ifMatch)
	if err != nil || len(both.list) != 2 {
		t.Errorf("two lines: %v %v", both, err)
	}
}

// A write's headers and its if_revision say one thing, or it is refused.
func TestDemands(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	var given, got Demand
	raw(s, "PUT", "/thing", func(c *gin.Context) {
		var err error
		if got, err = DemandOf(c.Request.Context(), given); err == nil {
			err = errs.New(errs.RevisionMismatch, "if_revision: it is at revision 9").With(errs.Detail{Field: "if_revision", Value: "x", Limit: "9"})
		}
		Fail(c, err)
	})
	five, none := Demand{Set: true, Revision: 5}, Demand{Set: true}
	for _, c := range []struct {
		given       Demand
		match, none string
		want        Demand
		code        errs.Code
		field       string
	}{
		{Demand{}, "", "", Demand{}, errs.RevisionMismatch, "if_revision"},
		{five, "", "", five, errs.RevisionMismatch, "if_revision"},
		{Demand{}, `"5"`, "", five, errs.FailedPrecond, ifMatch},
		{Demand{}, `"5-gzip"`, "", five, errs.FailedPrecond, ifMatch},
		{five, `"5"`, "", five, errs.FailedPrecond, ifMatch},
		{five, `*`, "", five, errs.FailedPrecond, ifMatch},
		{Demand{}, `*`, "", Demand{Exists: true}, errs.FailedPrecond, ifMatch},
		{Demand{}, "", "*", none, errs.FailedPrecond, ifNoneMatch},
		{none, "", "*", none, errs.FailedPrecond, ifNoneMatch},

		{five, `"6"`, "", five, errs.InvalidArgument, ifMatch},
		{none, `*`, "", none, errs.InvalidArgument, ifMatch},
		{five, "", "*", five, errs.InvalidArgument, ifNoneMatch},
		{Demand{}, `"5"`, "*", none, errs.InvalidArgument, ifMatch},
		{Demand{}, `*`, "*", none, errs.InvalidArgument, ifMatch},
		{Demand{}, `"5", "6"`, "", Demand{}, errs.InvalidArgument, ifMatch},
		{Demand{}, "", `"5"`, Demand{}, errs.InvalidArgument, ifNoneMatch},
		{Demand{}, "5", "", Demand{}, errs.InvalidArgument, ifMatch},
		{Demand{}, "", "5", Demand{}, errs.InvalidArgument, ifNoneMatch},

		// No revision has such tags, so they cannot hold.
		{Demand{}, `W/"5"`, "", Demand{}, errs.FailedPrecond, ifMatch},
		{Demand{}, `"abc"`, "", Demand{}, errs.FailedPrecond, ifMatch},
		{Demand{}, `"0"`, "", Demand{}, errs.FailedPrecond, ifMatch},
		{Demand{}, `"-1"`, "", Demand{}, errs.FailedPrecond, ifMatch},
	} {
		given = c.given
		var header []string
		if c.match != "" {
			header = append(header, ifMatch, c.match)
		}
		if c.none != "" {
			header = append(header, ifNoneMatch, c.none)
		}
		p := problemOfRec(t, call(s, "PUT", "/thing", "", header...))
		if got != c.want || p.Code != string(c.code) || p.Errors[0].Field != c.field {
			t.Errorf("%+v %q: %+v, %s of %v, want %+v, %s of %s", c.given, header, got, p.Code, p.Errors, c.want, c.code, c.field)
		}
		if p.Status == http.StatusPreconditionFailed && !strings.HasPrefix(p.Detail, c.field+": ") {
			t.Errorf("%q: %s", header, p.Detail)
		}
	}
}

type versionOut struct {
	Status int
	Body   struct{ Text string }
}

// Reads answer 304 without a body for what the client has; on hand-written and typed
// routes, to HEAD too, and for the tags of compressed answers.
func TestNotModified(t *testing.T) {
	s := newServer(t, testConfig(), Deps{})
	text := strings.Repeat("text ", 1000)
	raw(s, "GET", "/raw", func(c *gin.Context) {
		switch known, err := NotModified(c.Request.Context(), "17"); {
		case err != nil:
			Fail(c, err)
		case known:
			c.Status(http.StatusNotModified)
			c.Writer.WriteHeaderNow()
		default:
			c.String(http.StatusOK, text)
		}
	})
	Register(s, huma.Operation{OperationID: "typed", Method: "GET", Path: "/typed"}, anyone, func(ctx context.Context, _ *struct{}) (*versionOut, error) {
		out := &versionOut{Status: http.StatusOK}
		out.Body.Text = text
		known, err := NotModified(ctx, "17")
		if known {
			out.Status = http.StatusNotModified
		}
		return out, err
	})
	for _, path := range []string{"/raw", "/typed"} {
		for _, c := range []struct {
			status       int
			etag         string
			name, header string
		}{
			{200, `"17"`, "X", "none"},
			{304, `"17"`, ifNoneMatch, `"17"`},
			{304, `W/"17"`, ifNoneMatch, `W/"17"`},
			{304, `"17-gzip"`, ifNoneMatch, `"17-gzip"`},
			{304, `"17"`, ifNoneMatch, `"1", "17"`},
			{304, `"17"`, ifNoneMatch, `*`},
			{200, `"17"`, ifNoneMatch, `"18"`},
			{400, `"17"`, ifNoneMatch, `17`},
			{200, `"17"`, ifMatch, `"17"`},
			{200, `"17"`, ifMatch, `"1", "17-gzip"`},
			{200, `"17"`, ifMatch, `*`},
			{412, `"17"`, ifMatch, `"18"`},
			{412, `"17"`, ifMatch, `W/"17"`},
			{400, `"17"`, ifMatch, `17`},
		} {
			for _, method := range []string{"GET", "HEAD"} {
				rec := call(s, method, path, "", c.name, c.header)
				if rec.Code != c.status || rec.Header().Get("ETag") != c.etag || rec.Code == 304 && rec.Body.Len() > 0 {
					t.Errorf("%s %s with %s: %s is %d, ETag %s, %d bytes; want %d %s", method, path, c.name, c.header, rec.Code, rec.Header().Get("ETag"), rec.Body.Len(), c.status, c.etag)
				}
			}
		}
		// RFC 9110, 8.8.3.3: other bytes have another tag.
		if rec := call(s, "GET", path, "", "Accept-Encoding", "gzip"); rec.Header().Get("Content-Encoding") != "gzip" || rec.Header().Get("ETag") != `"17-gzip"` {
			t.Errorf("%s compressed: %v", path, rec.Header())
		}
		if rec := call(s, "GET", path, "", "Accept-Encoding", "gzip", ifNoneMatch, `"17-gzip"`); rec.Code != 304 || rec.Header().Get("ETag") != `"17-gzip"` {
			t.Errorf("%s compressed and known: %d %v", path, rec.Code, rec.Header())
		}
	}
}
