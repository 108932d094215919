// Command joule-shim holds one task; hostd starts it.
package main

import (
	"fmt"
	"os"

	"github.com/joulecloud/joule/driver/shim"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: joule-shim DIR (started by joule hostd, not by hand)")
		os.Exit(2)
	}
	os.Exit(shim.Main(os.Args[1]))
}
