package shim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// writeJSON puts v into a file of dir: whole, and on disk when it returns.
func writeJSON(dir, name string, v any) (err error) {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	f, err := os.CreateTemp(dir, "."+name+"-")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readJSON reads a file of dir; a file that is not there is os.ErrNotExist.
func readJSON[T any](dir, name string) (*T, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("decode %s: %w", name, err)
	}
	return v, nil
}

// bootID names this boot of the machine; pids of another one mean nothing.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// stat is what /proc says of a process or thread.
type stat struct {
	state     byte   // 'R', 'S', ...
	flags     uint64 // PF_*
	startTime uint64 // clock ticks since boot
}

const pfExiting = 0x4 // PF_EXITING: it is in do_exit

// readStat reads /proc/<path>/stat.
func readStat(path string) (stat, error) {
	b, err := os.ReadFile(filepath.Join("/proc", path, "stat"))
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

func parseStat(b []byte) (stat, error) {
	// The name, in parentheses, may hold anything; field 3 follows it.
	i := bytes.LastIndexByte(b, ')')
	var f [20][]byte // this is read for every sample: nothing is allocated
	n := 0
	for word := range bytes.FieldsSeq(b[i+1:]) {
		if f[n] = word; n == len(f)-1 {
			n++
			break
		}
		n++
	}
	if i < 0 || n < len(f) {
		return stat{}, errors.New("parse /proc/pid/stat: too few fields")
	}
	flags, err1 := strconv.ParseUint(string(f[6]), 10, 64)
	start, err2 := strconv.ParseUint(string(f[19]), 10, 64)
	if err1 != nil || err2 != nil {
		return stat{}, fmt.Errorf("parse /proc/pid/stat: %w", errors.Join(err1, err2))
	}
	return stat{state: f[0][0], flags: flags, startTime: start}, nil
}

// identify returns the identity of process pid.
func identify(pid int) (Process, error) {
	st, err := readStat(strconv.Itoa(pid))
	if err != nil {
		return Process{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	boot, err := bootID()
	if err != nil {
		return Process{}, err
	}
	return Process{Pid: pid, StartTime: st.startTime, BootID: boot}, nil
}
