package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

// A host volume is in the task where the job wants it, and read-only where the
// job says so; one of an image's user namespace is written as the host's user.
func TestVolumes(t *testing.T) {
	f := cluster(t)
	if err := os.WriteFile(filepath.Join(f.volume, "given"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mount := func(readOnly bool) func(*api.Job) {
		return func(j *api.Job) {
			j.TaskGroups[0].Volumes = map[string]*api.VolumeRequest{"v": {Type: "host", Source: "shelf", ReadOnly: readOnly}}
			j.TaskGroups[0].Tasks[0].VolumeMounts = []*api.VolumeMount{{Volume: pointer("v"), Destination: pointer("/data"), ReadOnly: pointer(readOnly)}}
		}
	}
	ended := func(alloc, want string) {
		t.Helper()
		f.closed(t, alloc, 40*time.Second)
		f.says(t, alloc, "alloc/out", want)
	}
	script := []string{"-c", `{ cat /data/given; echo "$0" > /data/taken && echo written || echo refused; } > /alloc/out 2>&1`, "by the task"}
	_, alloc := f.submit(t, task{command: "/bin/bash", args: script, mutate: func(j *api.Job) {
		mount(false)(j)
		j.TaskGroups[0].Tasks[0].User = "root"
	}})
	ended(alloc, "from the host\nwritten\n")
	taken := filepath.Join(f.volume, "taken")
	if b, err := os.ReadFile(taken); err != nil || string(b) != "by the task\n" {
		t.Errorf("on the host: got %q, %v", b, err)
	}
	_, alloc = f.submit(t, task{command: "/bin/bash", args: script, mutate: mount(true)})
	ended(alloc, "Read-only file system\nrefused\n")

	if err := os.Remove(taken); err != nil {
		t.Fatal(err)
	}
	_, alloc = f.submit(t, task{args: []string{"copy", "/data/given", "/data/taken"}, config: map[string]any{"image": f.pushImage(t, "app:volume")}, mutate: mount(false)})
	f.closed(t, alloc, 40*time.Second)
	info, err := os.Stat(taken)
	if err != nil || owner(info) != 0 {
		t.Errorf("the image's task wrote %v, %v, want a file of root", info, err)
	}
}

func owner(info os.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }

// What Nomad puts into a task's directory: artifacts, templates, its
// environment; and the changes of a template reach the task as the job says.
func TestArtifactsTemplatesAndEnvironment(t *testing.T) {
	f := cluster(t)
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "artifact %s\n", r.URL.Path) }))
	defer files.Close()
	const script = `trap 'cat /local/template > /alloc/changed' USR1
		{ cat /local/given/model.bin; cat /local/template; stat -c %a /secrets/key; cat /secrets/key; echo "$GREETING $FROM_TEMPLATE $NOMAD_META_color"
		pwd; id -u; id -g; echo $NOMAD_ALLOC_DIR $NOMAD_TASK_DIR $NOMAD_SECRETS_DIR; echo path $PATH; } > /alloc/out 2>&1
		while :; do sleep 0.05; done`
	write := func(v string) {
		t.Helper()
		if _, _, err := f.cluster.NomadAPI.Variables().Create(&api.Variable{Namespace: "acme", Path: "nomad/jobs", Items: api.VariableItems{"word": v}},
			&api.WriteOptions{Namespace: "acme"}); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	job, alloc := f.submit(t, task{kind: "service", command: "/bin/bash", args: []string{"-c", script}, config: map[string]any{"work_dir": "/alloc"},
		mutate: func(j *api.Job) {
			m := j.TaskGroups[0].Tasks[0]
			m.User = "1234:4321"
			m.Env = map[string]string{"GREETING": "hello ${NOMAD_TASK_NAME}"}
			m.Meta = map[string]string{"color": "green"}
			m.Artifacts = []*api.TaskArtifact{{GetterSource: pointer(files.URL + "/model.bin"), RelativeDest: pointer("local/given")}}
			m.Templates = []*api.Template{
				{EmbeddedTmpl: pointer(`{{ with nomadVar "nomad/jobs" }}word {{ .word }}{{ end }}` + "\n"), DestPath: pointer("local/template"),
					ChangeMode: pointer("signal"), ChangeSignal: pointer("SIGUSR1")},
				{EmbeddedTmpl: pointer("secret\n"), DestPath: pointer("secrets/key"), Perms: pointer("444")},
				{EmbeddedTmpl: pointer("FROM_TEMPLATE=too\n"), DestPath: pointer("local/env"), Envvars: pointer(true)},
			}
		}})
	f.running(t, alloc)
	f.says(t, alloc, "alloc/out", "artifact /model.bin\nword first\n444\nsecret\nhello main too green\n/alloc\n1234\n4321\n/alloc /local /secrets\npath /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n")
	write("second")
	f.says(t, alloc, "alloc/changed", "word second\n")
	f.nomad(t, "job", "stop", "-detach", job)
	f.exact(t, f.closed(t, alloc, 30*time.Second), "bash")
}

// The signal of a stop is the job's, and the task has all of its kill timeout,
// and no more than that: it is billed from its start to the kill.
func TestKillSignalAndTimeout(t *testing.T) {
	f := cluster(t)
	for _, tc := range []struct {
		name    string
		signal  string
		timeout time.Duration
		onStop  string // what the task does
		want    string // of its events
		min     time.Duration
	}{
		{"obeyed", "SIGHUP", 25 * time.Second, "exit 7", "Exit Code: 7", 0},
		{"ignored", "SIGUSR2", 1500 * time.Millisecond, ":", "Exit Code: 137", 1500 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := fmt.Sprintf("trap 'date +%%s%%3N > /alloc/asked; %s' %s; trap '' TERM; echo ready > /alloc/ready; while :; do sleep 0.02; done", tc.onStop, tc.signal)
			job, alloc := f.submit(t, task{kind: "service", command: "/bin/bash", args: []string{"-c", script}, mutate: func(j *api.Job) {
				m := j.TaskGroups[0].Tasks[0]
				m.KillSignal, m.KillTimeout = tc.signal, &tc.timeout
			}})
			f.says(t, alloc, "alloc/ready", "ready")
			f.running(t, alloc)
			f.nomad(t, "job", "stop", "-detach", job)
			lease := f.closed(t, alloc, 30*time.Second)
			f.exact(t, lease, "bash")
			var began time.Time
			eventually(t, 10*time.Second, tc.want, func() error {
				a, _, err := f.cluster.NomadAPI.Allocations().Info(alloc, nil)
				if err != nil {
					return err
				}
				if events := taskEvents(a); !strings.Contains(events, tc.want) {
					return errors.New(events)
				}
				began = a.TaskStates["main"].StartedAt
				return nil
			})
			var asked int64
			if _, err := fmt.Sscan(f.says(t, alloc, "alloc/asked", "\n"), &asked); err != nil {
				t.Fatal(err)
			}
			run, err := f.seen(container(lease), "bash")
			if err != nil {
				t.Fatal(err)
			}
			if left := began.Add(run.Wall()).Sub(time.UnixMilli(asked)); left < tc.min-50*time.Millisecond {
				t.Errorf("killed %v after the signal, want no less than %v", left, tc.min)
			}
		})
	}
}
