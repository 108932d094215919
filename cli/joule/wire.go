package main

import (
	"os"

	"github.com/joulecloud/joule/cli/command"
)

// deps wires the commands to the packages that do their work.
func deps() command.Deps {
	return command.Deps{
		Out:     os.Stdout,
		Err:     os.Stderr,
		Version: command.Version(),
	}
}
