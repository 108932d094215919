package demo

import (
	"errors"
	"os/exec"
	"runtime"
)

// busyLoops keeps every core busy until stop is called.
func busyLoops() (stop func() error, err error) {
	var loops []*exec.Cmd
	stop = func() error {
		var errs []error
		for _, c := range loops {
			errs = append(errs, c.Process.Kill())
			_ = c.Wait() // it was killed: that is no news
		}
		return errors.Join(errs...)
	}
	for range runtime.NumCPU() {
		c := exec.Command("/bin/sh", "-c", "while :; do :; done")
		if err := c.Start(); err != nil {
			return nil, errors.Join(err, stop())
		}
		loops = append(loops, c)
	}
	return stop, nil
}
