package hostd

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/joulecloud/joule/driver/hostapi"
	"github.com/joulecloud/joule/driver/meter"
	"github.com/joulecloud/joule/driver/session"
)

// The files of a data directory.
const (
	lockFile   = "hostd.lock"
	spoolFile  = "spool.db"
	tasksDir   = "tasks"
	runtimeDir = "runtime" // the OCI runtime's own state
	damagedDir = "damaged" // tasks whose file can't be read
	taskFile   = "task.json"
)

// ErrAlreadyRunning is returned by Run when another hostd holds the data
// directory.
var ErrAlreadyRunning = errors.New("hostd is already running")

// lock takes the data directory for this process. The lock ends with the
// returned file, or the process.
func lock(dataDir string) (*os.File, error) {
	path := filepath.Join(dataDir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %q: %w", path, err)
		}
		// The pid in the file is for people; the lock is what counts.
		pid, _ := io.ReadAll(io.LimitReader(f, 32))
		return nil, fmt.Errorf("%w on data_dir %q (pid %s)", ErrAlreadyRunning, dataDir, strings.TrimSpace(string(pid)))
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	// A full disk keeps the pid from being written, not us from running.
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		return nil, errors.Join(fmt.Errorf("write lock %q: %w", path, err), f.Close())
	}
	return f, nil
}

// record is the task.json of a task: what must be known of it after a crash
// beside the shim's files and the spool.
type record struct {
	Version     int                  `json:"version"`
	Request     hostapi.StartRequest `json:"request"`
	ContainerID string               `json:"container_id"`
	BootID      string               `json:"boot_id"`
	Grant       *session.Grant       `json:"grant,omitempty"`       // the lease is open
	StopReason  string               `json:"stop_reason,omitempty"` // we decided to stop it, and why
	Outcome     *outcome             `json:"outcome,omitempty"`     // where the shim's exit.json doesn't tell it
	Turn        *turn                `json:"turn,omitempty"`        // a freeze or thaw that may be under way
	Turned      *meter.Meter         `json:"turned,omitempty"`      // the meter at the last freeze or thaw
	SeqBase     uint64               `json:"seq_base,omitempty"`    // see loadMeter
}

const recordVersion = 1

// outcome is the end of a task that its shim didn't tell.
type outcome struct {
	Exit hostapi.Exit `json:"exit"`
	At   time.Time    `json:"at"`
}

func writeRecord(dir string, r *record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode %s: %w", taskFile, err)
	}
	f, err := os.CreateTemp(dir, "."+taskFile+"-")
	if err != nil {
		return fmt.Errorf("write %s: %w", taskFile, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, taskFile))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", taskFile, err), os.Remove(f.Name()))
	}
	return syncDir(dir)
}

func readRecord(dir string) (*record, error) {
	b, err := os.ReadFile(filepath.Join(dir, taskFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", taskFile, err)
	}
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("decode %s: %w", taskFile, err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("%s has version %d, this program reads version %d: upgrade hostd", taskFile, r.Version, recordVersion)
	}
	if r.Request.ID == "" {
		return nil, fmt.Errorf("%s names no task", taskFile)
	}
	return r, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// bootID names this boot of the machine.
func bootID() (string, [16]byte, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	var id [16]byte
	b, err := os.ReadFile(path)
	if err != nil {
		return "", id, fmt.Errorf("read boot id: %w", err)
	}
	text := strings.TrimSpace(string(b))
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(raw) != len(id) {
		return "", id, fmt.Errorf("read boot id: %q in %s is not a UUID", text, path)
	}
	copy(id[:], raw)
	return text, id, nil
}
