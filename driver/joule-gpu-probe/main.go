// Command joule-gpu-probe asks NVIDIA's library on hostd's behalf; hostd starts it.
package main

import (
	"os"

	"github.com/joulecloud/joule/driver/gpu/probe"
)

func main() { os.Exit(probe.Main(os.Args[1:])) }
