package daemon

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/joulecloud/joule/raftstore"
	"github.com/joulecloud/joule/settlement/cluster"
)

// The files of a data directory beside raft/ and journal/.
const (
	layoutFile   = "VERSION"      // of the directory's layout
	idFile       = "node-id"      // this server's name in Raft
	divergedFile = "DIVERGED"     // why it must not start again
	membersFile  = "members.json" // where the other servers were last
	recoverFile  = "recoveries.log"
)

// layoutVersion is that of the directories that this program makes and reads.
const layoutVersion = "joule data 1"

// dataDir is an opened data directory.
type dataDir struct {
	path  string
	id    string
	state bool // a server ran here before
}

func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

// openDataDir checks the directory, and makes it and this server's id where
// there is none. The id is not the configured name: a server whose directory
// was lost is another server in Raft, for it has forgotten whom it voted for.
func openDataDir(path, name string, log *slog.Logger) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	d := &dataDir{path: path}
	if text, err := os.ReadFile(d.file(divergedFile)); err == nil {
		return nil, fmt.Errorf("this server stopped because it was not the same as the others, and must not start on this data again: %s\n"+
			"move %s away and start with an empty directory: the other servers give it what it needs", strings.TrimSpace(string(text)), path)
	}
	switch text, err := os.ReadFile(d.file(layoutFile)); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("data_dir: %w", err)
	case strings.TrimSpace(string(text)) != layoutVersion:
		return nil, fmt.Errorf("data_dir: %s is of version %q, this program knows %q: upgrade this node", path, strings.TrimSpace(string(text)), layoutVersion)
	}
	var err error
	if d.state, err = raftstore.HasState(d.file("raft"), log); err != nil {
		return nil, err
	}
	if d.id, err = d.readID(name); err != nil {
		return nil, err
	}
	return d, cluster.WriteFile(d.file(layoutFile), []byte(layoutVersion+"\n"))
}

func (d *dataDir) readID(name string) (string, error) {
	text, err := os.ReadFile(d.file(idFile))
	if err == nil {
		id := strings.TrimSpace(string(text))
		if id == "" || strings.ContainsAny(id, " \t\n") {
			return "", fmt.Errorf("data_dir: %s holds no id: %q", d.file(idFile), id)
		}
		return id, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("data_dir: %w", err)
	}
	id := name // before there were ids, a lone server was known by its name
	if !d.state {
		var b [16]byte
		rand.Read(b[:])
		id = fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	}
	return id, cluster.WriteFile(d.file(idFile), []byte(id+"\n"))
}

// hasJournal reports whether history is there.
func (d *dataDir) hasJournal() (bool, error) {
	files, err := filepath.Glob(d.file(filepath.Join("journal", "journal-*.jl")))
	return len(files) > 0, err
}

// markDiverged makes later starts on this directory fail.
func (d *dataDir) markDiverged(why error) error {
	text, err := json.Marshal(struct {
		Time   string `json:"time"`
		Server string `json:"server_id"`
		Reason string `json:"reason"`
	}{time.Now().UTC().Format(time.RFC3339), d.id, why.Error()})
	if err != nil {
		return err
	}
	return cluster.WriteFile(d.file(divergedFile), append(text, '\n'))
}
