package plugin

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// defaultPath is hostd's PATH where the agent itself has none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func logPath(s settings) string { return filepath.Join(s.dataDir, "hostd.log") }

// startHostd starts hostd so that it outlives the plugin and the agent: own
// session, own log file, nothing of the agent's environment but PATH and HOME.
// The channel yields its exit status once.
func startHostd(s settings) (<-chan error, error) {
	if err := os.MkdirAll(s.dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create hostd's data_dir: %w", err)
	}
	out, err := os.OpenFile(logPath(s), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open hostd's log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(s.hostdBinary, "hostd", "-config", s.hostdConfig)
	cmd.Dir = "/"
	cmd.Env = hostdEnv(os.Getenv)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start hostd: %w", err)
	}
	exited := make(chan error, 1)
	go func() {
		_ = cmd.Wait() // its outcome is ProcessState; Wait's own error adds nothing
		exited <- fmt.Errorf("%v", cmd.ProcessState)
	}()
	return exited, nil
}

func hostdEnv(getenv func(string) string) []string {
	path := getenv("PATH")
	if path == "" {
		path = defaultPath
	}
	env := []string{"PATH=" + path}
	if home := getenv("HOME"); home != "" {
		env = append(env, "HOME="+home)
	}
	return env
}

// lastLine is the last line of a log file, for an error message; "" where there
// is none.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 1024
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return ""
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}
