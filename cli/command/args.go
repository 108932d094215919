package command

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// arrange puts a command line into the order that urfave/cli reads: global
// flags, the command, its flags, "--", its arguments. What it doesn't know it
// leaves for urfave/cli to refuse. A request for help drops everything but the
// command, since help takes no arguments.
func arrange(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	a := arranger{globalFlags: app.Flags, commands: app.Commands}
	a.read(args[1:])
	out := append([]string{args[0]}, a.globals...)
	switch {
	case a.help && (len(a.rest) == 0 || len(a.commands) == 0):
		return append(slices.Concat(args[:1], a.path), "--help")
	case a.open == &a.globals:
		return out // ends in the flag: nothing may follow and be taken for its value
	case a.raw:
		return slices.Concat(out, a.path, a.rest)
	}
	out = slices.Concat(out, a.path, a.locals)
	if len(a.rest) > 0 && a.open == nil {
		out = append(append(out, "--"), a.rest...)
	}
	return out
}

// arranger sorts the words of a command line.
type arranger struct {
	globalFlags []cli.Flag
	commands    []*cli.Command // what may follow the path
	flags       []cli.Flag     // of the last command of the path

	globals, path, locals, rest []string
	help                        bool
	raw                         bool      // the command parses rest by itself
	open                        *[]string // globals or locals, if the last word was a flag without its value
}

func (a *arranger) read(words []string) {
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		switch {
		case word == "--":
			a.rest = append(a.rest, words...)
			return
		case isFlag(word):
			words = a.flag(word, words)
		default:
			if a.word(word); a.raw {
				a.rest = words
				return
			}
		}
	}
}

// word takes the next command of the path or an argument.
func (a *arranger) word(word string) {
	if len(a.rest) > 0 {
		a.rest = append(a.rest, word)
		return
	}
	if len(a.path) == 0 && word == "help" {
		a.help = true
		return
	}
	if len(a.path) == 0 && a.help && word == errorsName {
		a.help = false // `joule help errors` is a command: a table
	}
	at := slices.IndexFunc(a.commands, func(c *cli.Command) bool { return c.HasName(word) })
	if at < 0 {
		a.rest = append(a.rest, word)
		return
	}
	c := a.commands[at]
	a.path = append(a.path, word)
	a.commands, a.flags, a.raw = c.Subcommands, c.Flags, c.SkipFlagParsing
}

// flag takes a flag and, where it has one, its value from words; it returns the
// words after it.
func (a *arranger) flag(word string, words []string) []string {
	name, _, joined := strings.Cut(strings.TrimLeft(word, "-"), "=")
	if name == "help" || name == "h" {
		a.help = true
		return words
	}
	into, f := &a.locals, find(a.flags, name)
	if f == nil {
		if f = find(a.globalFlags, name); f != nil || len(a.path) == 0 {
			into = &a.globals
		}
	}
	*into = append(*into, word)
	if value, ok := f.(cli.DocGenerationFlag); !ok || joined || !value.TakesValue() {
		return words
	}
	if len(words) == 0 {
		a.open = into
		return nil
	}
	*into = append(*into, words[0])
	return words[1:]
}

func find(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// isFlag tells flags from arguments: "-" and negative numbers are arguments.
func isFlag(word string) bool {
	if len(word) < 2 || word[0] != '-' {
		return false
	}
	c := word[1]
	return c != '.' && c != '_' && (c < '0' || c > '9')
}
