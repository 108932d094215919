// Nfpm makes a Debian package by a configuration file of nfpm's.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
)

func main() {
	config := flag.String("config", "nfpm.yaml", "configuration `FILE`")
	target := flag.String("target", "", "the package's `FILE` (required)")
	flag.Parse()
	if err := run(*config, *target); err != nil {
		fmt.Fprintln(os.Stderr, "nfpm:", err)
		os.Exit(1)
	}
}

func run(config, target string) (err error) {
	if target == "" || flag.NArg() > 0 {
		return errors.New("usage: nfpm -config FILE -target FILE")
	}
	cfg, err := nfpm.ParseFileWithEnvMapping(config, os.Getenv)
	if err != nil {
		return err
	}
	info, err := cfg.Get("deb")
	if err != nil {
		return err
	}
	info = nfpm.WithDefaults(info)
	if err := nfpm.PrepareForPackager(info, "deb"); err != nil {
		return err
	}
	out, err := os.Create(target)
	if err != nil {
		return err
	}
	if err := errors.Join(deb.Default.Package(info, out), out.Close()); err != nil {
		return errors.Join(err, os.Remove(target))
	}
	return nil
}
