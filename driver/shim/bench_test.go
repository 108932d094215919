package shim

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/joulecloud/joule/driver/oci"
)

// What the shim adds to the runtime's own time: from Launch to the task's exec,
// beside `runc run` of the same bundle.
func BenchmarkStart(b *testing.B) {
	e := newEnv(b)
	b.Run("shim", func(b *testing.B) {
		var ms float64
		for b.Loop() {
			b.StopTimer()
			x := e.prepare(&oci.Task{Args: []string{"/bin/true"}})
			b.StartTimer()
			begin := monoNow()
			p, err := Launch(b.Context(), e.as("joule-shim"), x.dir, x.spec)
			if err != nil {
				b.Fatal(err)
			}
			s := started(b, p)
			b.StopTimer()
			ms += float64(s.ExecMonoNs-begin) / 1e6
			<-p.Done()
			if err := p.Cleanup(context.Background()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		b.ReportMetric(ms/float64(b.N), "ms-to-exec/op")
	})
	b.Run("runc", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			x := e.prepare(&oci.Task{Args: []string{"/bin/true"}})
			r := oci.NewRunc(x.spec.Runtime, x.spec.RuntimeRoot)
			b.StartTimer()
			for _, args := range [][]string{{"create", "--bundle", x.spec.Bundle, x.spec.ContainerID}, {"start", x.spec.ContainerID}} {
				cmd := exec.Command(x.spec.Runtime, append([]string{"--root", x.spec.RuntimeRoot}, args...)...)
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			if err := r.Delete(context.Background(), x.spec.ContainerID, true); err != nil {
				b.Fatal(err)
			}
			if err := oci.RemoveBundle(x.spec.Bundle); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

// The memory that a shim holds while its task runs.
func BenchmarkMemory(b *testing.B) {
	e := newEnv(b)
	x := e.prepare(&oci.Task{Args: []string{"/bin/sleep", "60"}})
	p := x.launch()
	started(b, p)
	for b.Loop() {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.shim.Pid))
		if err != nil {
			b.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			f := strings.Fields(line)
			if len(f) == 3 && (f[0] == "RssAnon:" || f[0] == "VmRSS:") {
				kib, _ := strconv.ParseFloat(f[1], 64)
				b.ReportMetric(kib, strings.TrimSuffix(f[0], ":")+"-KiB")
			}
		}
	}
}
