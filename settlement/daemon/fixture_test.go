package daemon

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	joulev1 "github.com/joulecloud/joule/settlement/api/joule/v1"
)

var makeFixture = flag.Bool("make-fixture", false, "write testdata/data-1.tar.gz anew; only for a new layout, under a new name")

// fixtureFile is a data directory that a server of layout 1 left behind, with a
// snapshot-less log, a journal and customer acme with 5 USD.
const fixtureFile = "testdata/data-1.tar.gz"

// A data directory of an earlier program opens, and what is in it is there.
func TestEarlierDataOpens(t *testing.T) {
	s := newServers(t, 1, 1)
	s.cfgs[0].BootstrapExpect, s.cfgs[0].RetryJoin = 0, nil
	if *makeFixture {
		s.start(0)
		s.wait(0)
		api := s.api(0)
		if _, err := api.CreateCustomer(t.Context(), &joulev1.CreateCustomerRequest{Key: "c", Name: "acme", Namespace: "acme"}); err != nil {
			t.Fatal(err)
		}
		if _, err := api.Deposit(t.Context(), &joulev1.DepositRequest{Key: "d", Customer: "acme", Currency: joulev1.Currency_CURRENCY_USD, Amount: 5e9, Ref: "r"}); err != nil {
			t.Fatal(err)
		}
		s.mustStop(0)
		pack(t, s.cfgs[0].DataDir, fixtureFile)
	}
	unpack(t, fixtureFile, s.cfgs[0].DataDir)
	s.start(0)
	s.wait(0)
	r, err := s.api(0).ListAccounts(t.Context(), &joulev1.ListAccountsRequest{Prefix: "customer/acme"})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range r.Accounts {
		if a.Currency == joulev1.Currency_CURRENCY_USD && a.Balance != 5e9 {
			t.Errorf("balance: got %d, want 5 USD", a.Balance)
		}
	}
	if len(r.Accounts) != 2 {
		t.Errorf("accounts: got %v, want two", r.Accounts)
	}
	s.supplier(0, "new")
	s.mustStop(0)
}

// A data directory of a later program, and one of a server that was not the
// same as the others, are left alone.
func TestDataThatMustNotBeOpened(t *testing.T) {
	for name, want := range map[string]string{layoutFile: "upgrade this node", divergedFile: "must not start on this data again"} {
		s := newServers(t, 1, 1)
		s.cfgs[0].BootstrapExpect, s.cfgs[0].RetryJoin = 0, nil
		if err := os.MkdirAll(s.cfgs[0].DataDir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.cfgs[0].DataDir, name), []byte("joule data 99\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.start(0)
		if err := s.end(0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
		left, err := os.ReadDir(s.cfgs[0].DataDir)
		if err != nil || len(left) != 1 {
			t.Errorf("%s: got %v, %v, want the file alone", name, left, err)
		}
	}
}

func pack(t *testing.T, dir, file string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	gz, _ := gzip.NewWriterLevel(f, gzip.BestCompression)
	w := tar.NewWriter(gz)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b))}); err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	})
	if err := errors.Join(err, w.Close(), gz.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func unpack(t *testing.T, file, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil || !filepath.IsLocal(h.Name) {
			t.Fatal(fmt.Errorf("%s: %v", file, err))
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, r); err != nil {
			t.Fatal(err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
