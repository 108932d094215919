package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/joulecloud/joule/driver/hostapi"
)

const unitFile = "tools/nfpm/files/joule-hostd.service"

// debian is a root directory into which dpkg installs, with an administration of
// its own. The package's scripts run outside it and are told of it (DPKG_ROOT).
type debian struct {
	t    *testing.T
	root string
}

func newDebian(t *testing.T) *debian {
	t.Helper()
	d := &debian{t, t.TempDir()}
	if err := os.Chmod(d.root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(d.path("var/lib/dpkg", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.write("var/lib/dpkg/status", "")
	return d
}

func (d *debian) path(parts ...string) string {
	return filepath.Join(append([]string{d.root}, parts...)...)
}

func (d *debian) write(name, text string) {
	d.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(d.path(name)), 0o755), os.WriteFile(d.path(name), []byte(text), 0o644)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *debian) dpkg(args ...string) string {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), "dpkg", append([]string{"--root=" + d.root, "--force-script-chrootless"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("dpkg %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (d *debian) exists(name string) bool {
	_, err := os.Lstat(d.path(name))
	return err == nil
}

// buildPackage makes the package of what make build built.
func buildPackage(t *testing.T, root, version string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "joule.deb")
	config, err := os.ReadFile(filepath.Join(root, "tools/nfpm/nfpm.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	quick := filepath.Join(t.TempDir(), "nfpm.yaml") // the same, but not compressed
	if err := os.WriteFile(quick, append(config, "deb:\n  compression: none\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "build/bin/nfpm"), "-config", quick, "-target", to)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "VERSION="+version, "ARCH="+runtime.GOARCH)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nfpm: %v\n%s", err, out)
	}
	return to
}

func packageNeeds(t *testing.T) (root string) {
	t.Helper()
	if testing.Short() {
		t.Skip("installs packages: not with -short")
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, f := range []string{"build/bin/nfpm", "bin/joule", "bin/joule-shim", "bin/joule-gpu-probe", "bin/plugins/nomad-driver-joule"} {
		if _, err := os.Stat(filepath.Join(root, f)); err != nil {
			t.Skipf("needs %s (make build tools)", f)
		}
	}
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("needs dpkg")
	}
	return root
}

// The package is installed, configured, upgraded under a running hostd,
// removed, installed again and purged.
func TestPackage(t *testing.T) {
	root := packageNeeds(t)
	first := buildPackage(t, root, "0.1.0")
	second := buildPackage(t, root, "0.2.0")
	t.Run("contents", func(t *testing.T) { inspectPackage(t, first) })

	d := newDebian(t)
	d.write("etc/nomad.d/nomad.hcl", "data_dir = \"/opt/nomad/data\"\nplugin_dir = \"/opt/custom/plugins\" # ours\n")
	const link = "opt/custom/plugins/nomad-driver-joule"
	out := d.dpkg("-i", first)
	for _, want := range []string{"linked /opt/custom/plugins/nomad-driver-joule", "edit /etc/joule/hostd.hcl, run joule doctor"} {
		if !strings.Contains(out, want) {
			t.Errorf("installation doesn't say %q:\n%s", want, out)
		}
	}
	if to, err := os.Readlink(d.path(link)); err != nil || to != "/usr/bin/nomad-driver-joule" {
		t.Errorf("plugin's link: got %q, %v", to, err)
	}
	if info, err := os.Stat(d.path("var/lib/joule")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data directory: got %v, %v, want mode 0700", info, err)
	}

	// What was installed runs.
	joule := d.path("usr/bin/joule")
	run := func(wantCode int, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != wantCode {
			t.Errorf("%s: got exit code %d (%v), want %d\n%s", strings.Join(args, " "), code, err, wantCode, out)
		}
		return string(out)
	}
	run(0, joule, "--version")
	if out := run(1, d.path("usr/bin/nomad-driver-joule")); !strings.Contains(out, "plugin") {
		t.Errorf("the plugin says %q", out)
	}
	run(2, d.path("usr/bin/joule-shim"))
	if out := run(2, joule, "hostd", "-config", d.path("etc/joule/hostd.hcl"), "--check"); !strings.Contains(out, "servers: must name at least one") {
		t.Errorf("the configuration as delivered: got %q", out)
	}

	// The supplier configures it, and hostd runs.
	b, err := os.ReadFile(d.path("etc/joule/hostd.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "servers = [\n", "servers = [\n  \"http://127.0.0.1:1\",\n", 1)
	text = strings.Replace(text, `"/var/lib/joule"`, fmt.Sprintf("%q", d.path("var/lib/joule")), 1)
	text += "socket = \"" + filepath.Join(shortDir(t), "hostd.sock") + "\"\n"
	d.write("etc/joule/hostd.hcl", text)
	run(0, joule, "hostd", "-config", d.path("etc/joule/hostd.hcl"), "--check")
	hostd := exec.Command(joule, "hostd", "-config", d.path("etc/joule/hostd.hcl"))
	if err := hostd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = hostd.Process.Kill()
		_ = hostd.Wait()
	}()
	socket := regexp.MustCompile(`socket = "(.*)"`).FindStringSubmatch(text)[1]
	answers := func() error {
		info, err := hostapi.NewClient(socket).Host(t.Context())
		if err == nil && info.Pid != hostd.Process.Pid {
			err = fmt.Errorf("process %d answers", info.Pid)
		}
		return err
	}
	eventually(t, 20*time.Second, "hostd's answer", answers)

	// An upgrade leaves it, the configuration and the link alone.
	if out := d.dpkg("-i", second); strings.Contains(out, "edit /etc/joule") {
		t.Errorf("the upgrade talks like a first installation:\n%s", out)
	}
	if err := answers(); err != nil {
		t.Errorf("after the upgrade: %v", err)
	}
	if now, err := os.ReadFile(d.path("etc/joule/hostd.hcl")); err != nil || string(now) != text {
		t.Errorf("the upgrade touched the configuration (%v):\n%s", err, now)
	}
	if !d.exists(link) {
		t.Error("the upgrade took the plugin's link")
	}
	if v := d.dpkg("--status", "joule"); !strings.Contains(v, "Version: 0.2.0") {
		t.Errorf("status after the upgrade:\n%s", v)
	}

	// A removal takes programs and link; configuration, key and hostd stay.
	d.dpkg("--remove", "joule")
	for name, want := range map[string]bool{"usr/bin/joule": false, link: false, "etc/joule/hostd.hcl": true, "var/lib/joule/host.key": true, "usr/lib/systemd/system/joule-hostd.service": false} {
		if d.exists(name) != want {
			t.Errorf("after the removal: %s is there: %v, want %v", name, !want, want)
		}
	}
	if err := answers(); err != nil {
		t.Errorf("after the removal: %v", err)
	}

	// A purge spares what tasks have; without tasks nothing is left.
	d.dpkg("-i", second)
	d.write("var/lib/joule/tasks/t1/task.json", "{}")
	if out := d.dpkg("--purge", "joule"); !strings.Contains(out, "their state in /var/lib/joule") || !d.exists("var/lib/joule/host.key") {
		t.Errorf("a purge with tasks: the key is there: %v\n%s", d.exists("var/lib/joule/host.key"), out)
	}
	_ = hostd.Process.Kill()
	_ = hostd.Wait()
	if err := os.RemoveAll(d.path("var/lib/joule/tasks")); err != nil {
		t.Fatal(err)
	}
	d.dpkg("-i", first)
	d.dpkg("--purge", "joule")
	for _, name := range []string{"var/lib/joule", "etc/joule", link, "usr/bin/joule", "usr/share/doc/joule"} {
		if d.exists(name) {
			t.Errorf("after the purge: %s is still there", name)
		}
	}
}

// shortDir is a directory that a unix socket's path has room for.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "jp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Where the installation finds Nomad's plugins, and what of somebody else's it
// leaves alone.
func TestPackageFindsPluginDir(t *testing.T) {
	root := packageNeeds(t)
	postinst := filepath.Join(root, "tools/nfpm/files/postinst")
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  string // the link; "": none
		says  string
	}{
		{"plugin_dir", map[string]string{"etc/nomad.d/a.hcl": `plugin_dir = "/p/q"`}, "p/q", "linked /p/q"},
		{"plugin_dir in JSON", map[string]string{"etc/nomad.d/a.json": `{"plugin_dir": "/p"}`}, "p", "linked /p"},
		{"a comment isn't one", map[string]string{"etc/nomad.d/a.hcl": "# plugin_dir = \"/no\"\ndata_dir = \"/d\"\n"}, "d/plugins", "linked /d/plugins"},
		{"the package of Nomad's own default", map[string]string{"opt/nomad/data/x": ""}, "opt/nomad/data/plugins", "linked /opt/nomad/data/plugins"},
		{"no Nomad", nil, "", "Nomad isn't configured here yet"},
		{"a file of somebody else's", map[string]string{"etc/nomad.d/a.hcl": `plugin_dir = "/p"`, "p/nomad-driver-joule": "mine"}, "", "is a file of somebody else's and stays"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDebian(t)
			d.write("var/lib/joule/x", "")
			for name, text := range tc.files {
				d.write(name, text)
			}
			for range 2 { // the second time changes nothing
				cmd := exec.CommandContext(t.Context(), postinst, "configure")
				cmd.Env = []string{"PATH=/usr/bin:/bin", "DPKG_ROOT=" + d.root}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				if tc.says != "" && !strings.Contains(string(out), tc.says) {
					t.Errorf("it doesn't say %q:\n%s", tc.says, out)
				}
				if strings.HasPrefix(tc.says, "linked") {
					tc.says = ""
				}
			}
			if tc.want != "" {
				if to, err := os.Readlink(d.path(tc.want, "nomad-driver-joule")); err != nil || to != "/usr/bin/nomad-driver-joule" {
					t.Errorf("link: got %q, %v", to, err)
				}
			}
			links, _ := os.ReadFile(d.path("var/lib/joule/plugin-links"))
			if got := strings.Count(string(links), "\n"); (tc.want != "") != (got == 1) {
				t.Errorf("got %d links noted: %q", got, links)
			}
		})
	}
}

func inspectPackage(t *testing.T, deb string) {
	info, err := exec.CommandContext(t.Context(), "dpkg-deb", "-f", deb).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Package: joule\n", "Version: 0.1.0\n", "Architecture: " + runtime.GOARCH + "\n", "Section: admin\n", "Recommends: runc, chrony\n"} {
		if !strings.Contains(string(info), want) {
			t.Errorf("control lacks %q:\n%s", want, info)
		}
	}
	if conf, err := exec.CommandContext(t.Context(), "dpkg-deb", "--ctrl-tarfile", deb).Output(); err != nil || !strings.Contains(string(conf), "/etc/joule/hostd.hcl\n") {
		t.Errorf("the configuration is no conffile (%v)", err)
	}
	list, err := exec.CommandContext(t.Context(), "dpkg-deb", "-c", deb).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`-rwxr-xr-x root/root .* ./usr/bin/joule\n`, `-rwxr-xr-x root/root .* ./usr/bin/joule-shim\n`, `-rwxr-xr-x root/root .* ./usr/bin/joule-gpu-probe\n`, `-rwxr-xr-x root/root .* ./usr/bin/nomad-driver-joule\n`,
		`-rw-r--r-- root/root .* ./etc/joule/hostd.hcl\n`, `-rw-r--r-- root/root .* ./usr/lib/systemd/system/joule-hostd.service\n`,
		`drwx------ root/root .* ./var/lib/joule/\n`, `-rw-r--r-- root/root .* ./usr/share/doc/joule/copyright\n`, `-rw-r--r-- root/root .* ./usr/share/doc/joule/LICENSE\n`,
	} {
		if !regexp.MustCompile(want).Match(list) {
			t.Errorf("no %q in:\n%s", want, list)
		}
	}
}

// The unit is one that systemd understands, and containers run under what it
// takes from hostd.
func TestUnit(t *testing.T) {
	root := packageNeeds(t)
	b, err := os.ReadFile(filepath.Join(root, unitFile))
	if err != nil {
		t.Fatal(err)
	}
	unit := string(b)
	for _, want := range []string{"\nRestart=always\n", "\nKillMode=process\n", "\nTasksMax=infinity\n"} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit lacks %q", want)
		}
	}
	t.Run("systemd-analyze", func(t *testing.T) {
		if _, err := exec.LookPath("systemd-analyze"); err != nil {
			t.Skip("needs systemd-analyze")
		}
		file := filepath.Join(t.TempDir(), "joule-hostd.service")
		bin, err := filepath.Abs(filepath.Join(root, "bin/joule"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(unit, "/usr/bin/joule", bin)), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", file).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("got %v:\n%s", err, out)
		}
	})
	t.Run("capabilities", func(t *testing.T) {
		if _, err := exec.LookPath("setpriv"); err != nil {
			t.Skip("needs setpriv")
		}
		p, missing, err := programs()
		if missing != "" || err != nil {
			t.Skip(missing, err)
		}
		dropped := regexp.MustCompile(`CapabilityBoundingSet=~(.*)`).FindStringSubmatch(unit)[1]
		set := strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(dropped, "CAP_", "-"), " ", ","))
		config := filepath.Join(t.TempDir(), "hostd.hcl")
		runtimePath := p.Runtime
		if err := os.WriteFile(config, fmt.Appendf(nil, "data_dir = %q\nservers = [\"http://127.0.0.1:1\"]\nruntimes = [%q]\n", filepath.Dir(config), runtimePath), 0o644); err != nil {
			t.Fatal(err)
		}
		out, _ := exec.CommandContext(t.Context(), "setpriv", "--no-new-privs", "--bounding-set", set,
			p.Joule, "doctor", "-config", config, "--timeout", "30s").CombinedOutput() // it fails: there is no server
		for _, want := range []string{"ok    " + runtimePath + ": version", "ok    stamps: ", "ok    user namespaces: ", "ok    delegation: "} {
			if !strings.Contains(string(out), want) {
				t.Errorf("no %q under the unit's limits:\n%s", want, out)
			}
		}
	})
}
