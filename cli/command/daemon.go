package command

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/joulecloud/joule/cli/output"
)

func (b *builder) server() *cli.Command {
	return b.command(leaf{
		name: "server", usage: "run one settlement server",
		description: "Example: joule server -config server.hcl",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "`FILE` that configures it (required)"},
			&cli.BoolFlag{Name: "check", Usage: "only read and validate the configuration", DisableDefaultText: true},
		},
		run: func(in *invocation) error {
			return in.daemon(in.deps.RunServer)
		},
	})
}

// daemon runs a daemon by its configuration, or with --check only validates it.
func (in *invocation) daemon(run func(ctx context.Context, configPath string, check bool) error) error {
	config, err := in.required("config")
	if err != nil {
		return err
	}
	if !in.c.Bool("check") {
		return run(in.c.Context, config, false)
	}
	if err := run(in.c.Context, config, true); err != nil {
		return Invalid(err)
	}
	return in.value(configShown{config, true}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s is valid\n", output.Clean(config))
		return err
	})
}

// configShown is the JSON of a daemon's --check.
type configShown struct {
	Config string `json:"config"`
	Valid  bool   `json:"valid"`
}

func (b *builder) hostd() *cli.Command {
	return b.command(leaf{
		name: "hostd", usage: "run a host's daemon",
		description: "Example: joule hostd -config /etc/joule/hostd.hcl",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "`FILE` that configures it (required)"},
			&cli.BoolFlag{Name: "check", Usage: "only read and validate the configuration", DisableDefaultText: true},
		},
		run: func(in *invocation) error {
			return in.daemon(in.deps.RunHostd)
		},
	})
}

// passThrough makes a command that parses everything after its name by itself.
func (b *builder) passThrough(name, usage string, run func(context.Context, []string) error) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, SkipFlagParsing: true, HideHelp: true, HideHelpCommand: true,
		Action: func(c *cli.Context) error { return run(c.Context, c.Args().Slice()) },
	}
}
