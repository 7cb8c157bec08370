package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"

	"nekoq/services/errs"
)

// ProblemType is the content type of every error.
const ProblemType = "application/problem+json"

// Problem is an RFC 9457 problem document with NekoQ's extension members.
type Problem struct {
	Type      string          `json:"type" doc:"URI reference of the code's documentation." example:"/docs#code-not_found"`
	Title     string          `json:"title" doc:"What the code means."`
	Status    int             `json:"status" doc:"HTTP status." example:"404"`
	Detail    string          `json:"detail" doc:"What was wrong with this request; names field, value and limit."`
	Instance  string          `json:"instance,omitempty" doc:"Path of the request."`
	Code      string          `json:"code" doc:"Stable name of the kind of error." example:"not_found"`
	RequestID string          `json:"request_id,omitempty" doc:"The X-Request-Id of the answer; the server's log has it too."`
	Retryable bool            `json:"retryable" doc:"Whether the same request may be sent again as it is."`
	Errors    []ProblemDetail `json:"errors,omitempty" doc:"Each thing that was wrong."`
}

// ProblemDetail names one thing that was wrong.
type ProblemDetail struct {
	Field string `json:"field,omitempty" doc:"Field, parameter or setting."`
	Value string `json:"value,omitempty" doc:"The value that was given, cut off when long."`
	Limit string `json:"limit,omitempty" doc:"What the value has to be."`
	Help  string `json:"help,omitempty" doc:"What to do."`
}

// Error, GetStatus, GetHeaders and ContentType make a Problem what huma calls a
// status error, so that it goes out through huma's writer unchanged.
func (p *Problem) Error() string { return p.Detail }

// GetStatus gives the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType replaces huma's choice.
func (p *Problem) ContentType(string) string { return ProblemType }

// GetHeaders gives Retry-After for errors that pass by themselves.
func (p *Problem) GetHeaders() http.Header {
	if after := retryAfter(errs.Code(p.Code)); after != "" {
		return http.Header{"Retry-After": {after}}
	}
	return nil
}

// retryAfter is in seconds; "" where waiting alone doesn't help.
func retryAfter(code errs.Code) string {
	switch code {
	case errs.TooManyRequests, errs.NoLeader, errs.Unavailable, errs.ShuttingDown, errs.ClockMovedBack:
		return "1"
	case errs.StorageFull:
		return "10"
	}
	return ""
}

// maxValueShown bounds how much of a refused value is sent back, in bytes.
const maxValueShown = 200

func shorten(v string) string {
	if len(v) <= maxValueShown {
		return v
	}
	return strings.ToValidUTF8(v[:maxValueShown], "") + "... (" + strconv.Itoa(len(v)) + " bytes)"
}

// problemOf turns any error into its document. Only the *errs.Error in the
// chain is shown; its cause stays in the server.
func problemOf(err error, id, path string) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	e := errs.From(err)
	info := errs.InfoOf(e.Code)
	p := &Problem{
		Type: "/docs#code-" + string(e.Code), Title: info.Doc, Status: info.Status, Detail: e.Message,
		Instance: path, Code: string(e.Code), RequestID: id, Retryable: info.Retryable,
	}
	for _, d := range e.Details {
		p.Errors = append(p.Errors, ProblemDetail{Field: d.Field, Value: shorten(d.Value), Limit: d.Limit, Help: d.Help})
	}
	return p
}

// problem makes the document for a request. An error that says no more than
// that the context ended gets the reason why it ended.
func (r *request) problem(err error, path string) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	e := r.failedPrecondition(errs.From(err))
	p := problemOf(e, r.id, path)
	if p.Status >= http.StatusInternalServerError && r.cause == nil {
		r.cause = err
	}
	return p
}

// Fail answers err as a problem document. Raw handlers end with it; after the
// answer's first byte it does nothing but note the error for the log.
func Fail(c *gin.Context, err error) {
	r := requestOf(c.Request.Context())
	var p *Problem
	if r == nil {
		p = problemOf(err, "", c.Request.URL.Path)
	} else {
		p = r.problem(err, c.Request.URL.Path)
	}
	c.Abort()
	if c.Writer.Written() {
		return
	}
	writeProblem(c.Writer, p)
}

func writeProblem(w http.ResponseWriter, p *Problem) {
	h := w.Header()
	h.Del("Content-Length")
	h.Del("Content-Encoding")
	h["Content-Type"] = problemTypeHeader
	if after := retryAfter(errs.Code(p.Code)); after != "" {
		h.Set("Retry-After", after)
	}
	body, err := json.Marshal(p)
	if err != nil { // strings, ints and bools only: cannot happen
		panic(err)
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body) + 1)}
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n'))
}

var problemTypeHeader = []string{ProblemType}

// huma takes its error type from package variables, so they are set once for
// the process; the request's own state comes with the context.
func init() {
	huma.ValidateStrictCasing = true // a field in other case is an unknown field
	huma.NewError = func(status int, msg string, list ...error) huma.StatusError {
		return problemOf(humaError(nil, status, msg, list), "", "")
	}
	huma.NewErrorWithContext = func(hc huma.Context, status int, msg string, list ...error) huma.StatusError {
		c := humagin.Unwrap(hc)
		if r := requestOf(c.Request.Context()); r != nil {
			return r.problem(humaError(hc.Operation(), status, msg, list), c.Request.URL.Path)
		}
		return problemOf(humaError(hc.Operation(), status, msg, list), "", c.Request.URL.Path)
	}
}
