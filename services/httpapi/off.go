package httpapi

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// Off answers every path below prefix ("/v1/naming") with err: a caller can tell
// a service that is switched off from a path that does not exist. Such paths
// are not in the document.
func (s *Server) Off(prefix string, err error) {
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		s.engine.Handle(m, prefix+"/*any", func(c *gin.Context) { Fail(c, err) })
	}
}
