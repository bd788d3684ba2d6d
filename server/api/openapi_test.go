package api_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/wire"
)

// The document is read once: it is the same for every test.
var document = func() func(testing.TB) routers.Router {
	load := sync.OnceValues(func() (routers.Router, error) {
		loader := openapi3.NewLoader()
		doc, err := loader.LoadFromData(api.OpenAPI())
		if err != nil {
			return nil, err
		}
		if err := doc.Validate(loader.Context); err != nil {
			return nil, err
		}
		for _, kind := range []string{wire.ProblemType, "application/jwk-set+json"} {
			openapi3filter.RegisterBodyDecoder(kind, openapi3filter.RegisteredBodyDecoder("application/json"))
		}
		openapi3filter.RegisterBodyDecoder("application/yaml", openapi3filter.RegisteredBodyDecoder("text/plain"))
		return gorillamux.NewRouter(doc)
	})
	return func(t testing.TB) routers.Router {
		t.Helper()
		r, err := load()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}()

// validator is a transport that holds every answer, and every request that was
// accepted, against the OpenAPI file.
type validator struct {
	t    testing.TB
	next http.RoundTripper
	doc  routers.Router
}

func (v *validator) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	res, err := v.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(out))
	if err := v.check(r, body, res, out); err != nil {
		v.t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
	}
	return res, nil
}

func (v *validator) check(r *http.Request, body []byte, res *http.Response, out []byte) error {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	plain := &http.Request{Method: method, URL: &url.URL{Path: r.URL.Path, RawQuery: r.URL.RawQuery}, Header: r.Header, Body: io.NopCloser(bytes.NewReader(body))}
	route, params, err := v.doc.FindRoute(plain)
	if err != nil {
		if res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusMethodNotAllowed {
			return nil
		}
		return fmt.Errorf("answered %d by a route that the file does not have", res.StatusCode)
	}
	in := &openapi3filter.RequestValidationInput{Request: plain.WithContext(r.Context()), PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}}
	if res.StatusCode < 300 {
		if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil {
			return fmt.Errorf("accepted a request that the file does not allow: %w", err)
		}
	}
	if r.Method == http.MethodHead || res.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	err = openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{RequestValidationInput: in,
		Status: res.StatusCode, Header: res.Header, Body: io.NopCloser(bytes.NewReader(out)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}})
	if err != nil {
		return fmt.Errorf("answer %d %s: %w", res.StatusCode, out, err)
	}
	return nil
}

// Every route is in the file, and the file has no other.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData(api.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			described[method+" "+path] = true
			if op.OperationID == "" || op.Summary == "" {
				t.Errorf("%s %s has no id or summary", method, path)
			}
		}
	}
	for _, route := range api.Routes() {
		if !described[route] {
			t.Errorf("%s is not in the file", route)
		}
		delete(described, route)
	}
	for route := range described {
		t.Errorf("the file has %s, which is no route", route)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Error(doc.OpenAPI)
	}
}
