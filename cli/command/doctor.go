package command

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
)

// defaultHostdConfig is where the package puts hostd's configuration.
const defaultHostdConfig = "/etc/joule/hostd.hcl"

// DoctorReport is what was found on a host.
type DoctorReport struct {
	Config   string          `json:"config"`
	Host     string          `json:"host"` // "" where the configuration can't be read
	Findings []DoctorFinding `json:"findings"`
}

// DoctorFinding is what one check found.
type DoctorFinding struct {
	Area   string `json:"area"`
	Check  string `json:"check"`
	Status string `json:"status"` // "ok", "none", "warn", "fail"
	Found  string `json:"found"`
	Advice string `json:"advice"` // "" where there is nothing to do
}

// doctorShown is the JSON of doctor.
type doctorShown struct {
	*DoctorReport
	Warnings int `json:"warnings"`
	Failures int `json:"failures"`
}

func (b *builder) doctor() *cli.Command {
	return b.command(leaf{
		name: "doctor", usage: "examine this machine as a host, and say what to do",
		description: "It changes nothing. NOMAD_ADDR and NOMAD_TOKEN name the local Nomad agent as they do for nomad itself; --timeout bounds each question. The exit code is 1 when a check fails. Example: joule doctor -config /etc/joule/hostd.hcl",
		flags:       []cli.Flag{&cli.StringFlag{Name: "config", Value: defaultHostdConfig, Usage: "`FILE` that configures the host's daemon"}},
		run: func(in *invocation) error {
			config, err := in.required("config")
			if err != nil {
				return err
			}
			report, err := in.deps.RunDoctor(in.c.Context, config, in.timeout)
			if err != nil {
				return err
			}
			shown := doctorShown{DoctorReport: report}
			for _, f := range report.Findings {
				switch f.Status {
				case "warn":
					shown.Warnings++
				case "fail":
					shown.Failures++
				}
			}
			if err := in.value(shown, func(w io.Writer) error { return printDoctor(w, shown) }); err != nil {
				return err
			}
			if shown.Failures > 0 {
				return failed(exitInternal, "", "%s", count(shown.Failures, "failure"))
			}
			return nil
		},
	})
}

// printDoctor prints the findings by area, each with its advice below it.
func printDoctor(w io.Writer, r doctorShown) error {
	area := ""
	for _, f := range r.Findings {
		if f.Area != area {
			area = f.Area
			if _, err := fmt.Fprintln(w, output.Clean(area)); err != nil {
				return err
			}
		}
		line := fmt.Sprintf("  %-4s  %s: %s", f.Status, f.Check, f.Found)
		if _, err := fmt.Fprintln(w, output.Clean(line)); err != nil {
			return err
		}
		if f.Advice != "" {
			if _, err := fmt.Fprintf(w, "        do: %s\n", output.Clean(f.Advice)); err != nil {
				return err
			}
		}
	}
	verdict := "this host is ready"
	var parts []string
	if r.Failures > 0 {
		verdict = "this host is not ready"
		parts = append(parts, count(r.Failures, "failure"))
	}
	if r.Warnings > 0 {
		parts = append(parts, count(r.Warnings, "warning"))
	}
	if len(parts) > 0 {
		verdict += ": " + strings.Join(parts, ", ")
	}
	_, err := fmt.Fprintf(w, "\n%s\n", verdict)
	return err
}
