package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/clearbox-im/clearbox/server/wire"
)

type fedConformance struct {
	Server string `arg:"" help:"The peer's domain."`
}

func (c *fedConformance) Run(x *call) error {
	s, err := x.dial()
	if err != nil {
		return err
	}
	var r wire.AdminConformance
	if err := s.do(http.MethodPost, "/admin/peers/"+segment(c.Server)+"/conformance", nil, &r); err != nil {
		return err
	}
	failed := 0
	for _, check := range r.Checks {
		if !check.OK {
			failed++
		}
	}
	x.show(r, func() {
		for _, check := range r.Checks {
			if check.OK {
				x.printf("OK    %-42s %s\n", check.Name, check.Got)
			} else {
				x.printf("FAIL  %-42s %s, expected %s\n", check.Name, check.Got, check.Want)
			}
		}
		x.printf("%d of %d checks passed\n", len(r.Checks)-failed, len(r.Checks))
	})
	if refusal := refusedGreeting(r.Checks); refusal != "" {
		return &failure{code: exitFailed, text: fmt.Sprintf("%s refuses this server (%s), so these checks say nothing about how it keeps the protocol", c.Server, refusal),
			next: "clearbox peer test " + c.Server + x.mention(), silent: x.global.JSON}
	}
	if !r.OK {
		return &failure{code: exitFailed, text: fmt.Sprintf("%s does not keep the protocol in %d of %d checks", c.Server, failed, len(r.Checks)),
			next: "tell its administrator; the checks stand in federation/testdata/vectors/attacks.json", silent: x.global.JSON}
	}
	return nil
}

// refusedGreeting is how a peer that suspended, blocked or forgot this server
// answered to its greeting, empty for any other answer.
func refusedGreeting(checks []wire.AdminConformanceCheck) string {
	for _, check := range checks {
		for code := range refusals {
			if check.Name == "a greeting" && strings.HasPrefix(check.Got, "403 "+string(code)) {
				return check.Got
			}
		}
	}
	return ""
}
