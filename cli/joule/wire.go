package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/joulecloud/joule/cli/command"
	"github.com/joulecloud/joule/cli/demo"
	"github.com/joulecloud/joule/settlement/daemon"
)

// deps wires the commands to the packages that do their work.
func deps() command.Deps {
	return command.Deps{
		Out:       os.Stdout,
		Err:       os.Stderr,
		Version:   command.Version(),
		RunServer: runServer,
		RunDemo:   runDemo,
	}
}

func runServer(ctx context.Context, configPath string, check bool) error {
	cfg, err := daemon.Load(configPath)
	if err != nil {
		return command.Invalid(err)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return command.Invalid(fmt.Errorf("log_level: %w", err))
	}
	if check {
		return nil
	}
	return daemon.Run(ctx, cfg, command.Version(), logger(level), nil)
}

// logger writes to standard error: standard output is for results.
func logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

func runDemo(ctx context.Context, args []string) error {
	o, err := demo.ParseOptions(args, os.Stderr)
	if err != nil {
		return command.Invalid(err)
	}
	return demo.Run(ctx, o, os.Stdout)
}
