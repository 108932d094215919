package command

import (
	"fmt"
	"math"
	"time"

	"github.com/urfave/cli/v2"
)

func whyFlag() cli.Flag {
	return &cli.StringFlag{Name: "why", Usage: "`REASON`, kept for good (required)"}
}

func yesFlag(usage string) cli.Flag {
	return &cli.BoolFlag{Name: "yes", Usage: usage, DisableDefaultText: true}
}

// confirmed refuses a command that moves others' money without --yes.
func (in *invocation) confirmed(format string, args ...any) error {
	if in.c.Bool("yes") {
		return nil
	}
	return invalid("the same with --yes does it", "--yes: missing; "+format+" takes effect at once", args...)
}

// sure is confirmed, with the reason.
func (in *invocation) sure(format string, args ...any) (why string, err error) {
	if why, err = in.required("why"); err != nil {
		return "", err
	}
	return why, in.confirmed(format, args...)
}

// pageFlags bound a list.
func pageFlags(things string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "after", Value: "0", Usage: "only " + things + " with a larger `NUMBER`"},
		&cli.StringFlag{Name: "limit", Value: "1000", Usage: "at most this `NUMBER` of " + things + ", up to 10000"},
	}
}

func (in *invocation) page() (after, limit uint32, err error) {
	a, err := parseUint("--after", in.c.String("after"), 0, math.MaxUint32)
	if err != nil {
		return 0, 0, err
	}
	l, err := parseUint("--limit", in.c.String("limit"), 1, pageMax)
	return uint32(a), uint32(l), err
}

// number reads the number of a withdrawal or a fine.
func (in *invocation) number(i int) (uint32, error) {
	n, err := parseUint(in.leaf.args[i], in.arg(i), 1, math.MaxUint32)
	return uint32(n), err
}

func idName(id uint32) string { return fmt.Sprint(id) }

// durationFlag reads a duration of whole milliseconds, from least on; 0 where
// the flag isn't set.
func (in *invocation) durationFlag(flag string, least time.Duration) (uint64, error) {
	text := in.c.String(flag)
	if text == "" {
		return 0, nil
	}
	return parseMs("--"+flag, text, least)
}

func parseMs(field, text string, least time.Duration) (uint64, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d%time.Millisecond != 0 {
		return 0, invalid("", "%s: must be a duration of whole milliseconds such as 60s or 504h, at least %v (got %q)", field, least, short(text))
	}
	return uint64(d.Milliseconds()), nil
}

// span prints milliseconds as a duration.
func span(ms uint64) string {
	if ms > math.MaxInt64/uint64(time.Millisecond) {
		return fmt.Sprint(ms, " ms")
	}
	return (time.Duration(ms) * time.Millisecond).String()
}
