// Package httpapi is the HTTP door: one gin engine, one OpenAPI 3.1 document
// (huma), one writer of RFC 9457 problem documents, and the limits, request
// ids, access log, metrics and drain that every route shares.
//
// It owns no domain. A service's rest package adds its routes with Register
// (typed input and output, JSON) or Raw (a gin handler with a hand-written
// operation: hot paths, raw bodies, streams); both put the route into the
// document and ask the authorizer before anything of the body is read. Long
// polls (LongPoll), server-sent events (Stream) and list paging (PageOf) live
// here too, so that they behave alike everywhere.
//
// Concurrency: routes are added before Start or the first Handler use, by one
// goroutine. After that a Server is safe for concurrent use. A gin.Context must
// not be kept beyond its handler; the request's context.Context may be.
//
// Importers: the services' rest packages, the portal, services/gateway and the
// composition in services/app and services/localswitch.
package httpapi
