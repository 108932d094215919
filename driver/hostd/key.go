package hostd

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// KeyFile is the host key's name in the data directory.
const KeyFile = "host.key"

const pemType = "PRIVATE KEY"

// PublicKey returns the public half of the host key, by which the host is
// enrolled. The key is created if there is none yet.
func PublicKey(dataDir string) (ed25519.PublicKey, error) {
	key, err := hostKey(dataDir)
	if err != nil {
		return nil, err
	}
	return key.Public().(ed25519.PublicKey), nil
}

// ReadKey reads the host key; os.ErrNotExist where there is none yet.
func ReadKey(dataDir string) (ed25519.PrivateKey, error) {
	return readKey(filepath.Join(dataDir, KeyFile))
}

// hostKey reads the host key (PKCS #8 in PEM, mode 0600) and creates it at the
// first run. Two processes that create it at once get the same one.
func hostKey(dataDir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dataDir, KeyFile)
	key, err := readKey(path)
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data_dir: %w", err)
	}
	if err := createKey(path); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("create host key: %w", err)
	}
	return readKey(path)
}

func readKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read host key: %q must be a regular file that only its owner may read (mode 0600, got %v)", path, info.Mode())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("read host key: %q holds no PEM block %q", path, pemType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read host key %q: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read host key: %q holds a key of type %T, want Ed25519", path, parsed)
	}
	return key, nil
}

// createKey makes the whole file appear at once; os.ErrExist if there is one.
func createKey(path string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+KeyFile+"-") // O_EXCL, mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// Unlike a rename, a link never replaces a key that came meanwhile.
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
