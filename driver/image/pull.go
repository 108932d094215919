package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Request asks for an image.
type Request struct {
	Ref     Ref
	TaskDir string // what a relative path of the reference lies in; "": none is allowed
	// Progress is told how far the pull is, every second while it fetches. It must
	// not block. nil: nobody asks.
	Progress func(Progress)
}

// Progress is how far a pull is.
type Progress struct {
	Layers, LayersDone int
	Bytes, BytesDone   int64 // to transfer, transferred
}

// Image is an image whose layers are all in the cache. It stays there until
// Release.
type Image struct {
	Ref    string
	ID     string // "sha256:…"
	Config v1.Config
	// Stale: the registry could not be asked whether the tag means another image
	// by now.
	Stale error
	// What the pull had to do: nothing, when it was all in the cache.
	Fetched Progress
	id      string
}

// flight is a pull that one or more callers wait for.
type flight struct {
	cancel  context.CancelFunc
	done    chan struct{}
	waiters int // guarded by Store.mu
	listen  []func(Progress)
	held    []string // layers that it has pinned; guarded by Store.mu
	image   *Image
	err     error

	layers, layersDone atomic.Int64
	bytes, bytesDone   atomic.Int64
}

func (f *flight) progress() Progress {
	return Progress{int(f.layers.Load()), int(f.layersDone.Load()), f.bytes.Load(), f.bytesDone.Load()}
}

// Check says whether the supplier allows images from there, before anything is
// asked of anyone.
func (s *Store) Check(ref Ref) error {
	if ref.registry != nil {
		return s.cfg.permitted(ref.registry.Context().Registry)
	}
	if len(ref.path) > 0 && ref.path[0] == '/' {
		root, _, err := s.cfg.openLocal(ref, "")
		if err != nil {
			return err
		}
		return root.Close()
	}
	return nil
}

// Pull brings an image into the cache. However many ask for the same one at the
// same time, it is fetched once; ctx ends the caller's wait, and the pull when
// nobody waits for it any more. The image is the caller's until Release.
func (s *Store) Pull(ctx context.Context, req Request) (*Image, error) {
	if err := s.Check(req.Ref); err != nil {
		return nil, err
	}
	key := req.Ref.key(req.TaskDir)
	s.mu.Lock()
	f := s.flights[key]
	if f == nil {
		flightCtx, cancel := context.WithCancel(context.Background())
		f = &flight{cancel: cancel, done: make(chan struct{})}
		s.flights[key] = f
		go s.fly(flightCtx, f, key, req)
	}
	f.waiters++
	if req.Progress != nil {
		f.listen = append(f.listen, req.Progress)
	}
	s.mu.Unlock()

	select {
	case <-f.done:
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		f.waiters--
		if f.waiters == 0 {
			select {
			case <-f.done:
			default:
				f.cancel()
				if s.flights[key] == f {
					delete(s.flights, key) // whoever asks now begins anew
				}
			}
		}
		if f.image != nil { // it came at the same moment
			s.images[f.image.id].pins--
		}
		return nil, fmt.Errorf("image %q: %w", req.Ref.text, context.Cause(ctx))
	}
	if f.err != nil {
		return nil, fmt.Errorf("image %q: %w", req.Ref.text, f.err)
	}
	im := *f.image
	return &im, nil
}

// Release lets go of an image that Pull returned.
func (s *Store) Release(im *Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.images[im.id]; st != nil {
		st.pins--
	}
}

// fly carries out a pull.
func (s *Store) fly(ctx context.Context, f *flight, key string, req Request) {
	defer f.cancel()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.tell(f, stop) })
	im, err := s.pull(ctx, f, key, req)
	close(stop)
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights[key] == f {
		delete(s.flights, key)
	}
	for _, id := range f.held {
		s.layers[id].pins--
	}
	f.image, f.err = im, err
	if im != nil {
		// pull pinned it once; each caller lets go of its own pin.
		s.images[im.id].pins += f.waiters - 1
	}
	close(f.done)
}

// tell reports progress while layers are fetched.
func (s *Store) tell(f *flight, stop <-chan struct{}) {
	tick := time.NewTicker(s.tells)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if f.layers.Load() > 0 {
			s.mu.Lock()
			listen := slices.Clone(f.listen)
			s.mu.Unlock()
			for _, fn := range listen {
				fn(f.progress())
			}
		}
	}
}

// pull finds out what the reference means and gets what is missing of it. The
// image is pinned once.
func (s *Store) pull(ctx context.Context, f *flight, key string, req Request) (*Image, error) {
	if req.Ref.registry != nil && req.Ref.pinned() {
		if im := s.cached(key, req.Ref); im != nil {
			return im, nil
		}
	}
	var m *manifest
	var err error
	fileCtx, closeFiles := context.WithCancel(ctx)
	defer closeFiles()
	if req.Ref.registry != nil {
		m, err = s.cfg.fromRegistry(ctx, req.Ref)
	} else {
		m, err = s.cfg.fromFile(fileCtx, req.Ref, req.TaskDir)
	}
	var denied *deniedError
	if err != nil && req.Ref.registry != nil && !errors.As(err, &denied) && ctx.Err() == nil {
		// A restart in place must not fail because the registry is away.
		if im := s.cached(key, req.Ref); im != nil {
			im.Stale = err
			return im, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if err := s.fetch(ctx, f, m); err != nil {
		return nil, err
	}
	return s.keep(key, req.Ref, m, f.progress())
}

// cached returns the image that was last found under a reference, pinned; nil
// where there is none.
func (s *Store) cached(key string, ref Ref) *Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.latest(key)
	if found == nil {
		return nil
	}
	return s.pin(found, ref)
}

// pin hands an image out. The caller holds mu.
func (s *Store) pin(im *imageState, ref Ref) *Image {
	im.pins++
	s.touch(im)
	return &Image{Ref: ref.text, ID: "sha256:" + im.rec.ID, Config: im.rec.Config, id: im.rec.ID}
}

// fetch gets every layer that is missing. The flight holds all of the image's.
func (s *Store) fetch(ctx context.Context, f *flight, m *manifest) error {
	var missing []layerSource
	var bytes int64
	s.mu.Lock()
	for _, l := range m.layers {
		if slices.ContainsFunc(missing, func(o layerSource) bool { return o.diffID == l.diffID }) || s.hold(f, l.diffID) {
			continue
		}
		missing = append(missing, l)
		if bytes += l.size; l.size > s.cfg.LimitBytes || bytes > s.cfg.LimitBytes {
			s.mu.Unlock()
			return fmt.Errorf("it needs more than the %d MiB that the image cache may hold (images.cache_limit)", s.cfg.LimitBytes>>20)
		}
	}
	s.mu.Unlock()
	f.bytes.Store(bytes)
	f.layers.Store(int64(len(missing)))

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, l := range missing {
		wg.Go(func() {
			if err := s.layer(ctx, f, l); err != nil {
				cancel(err) // the first one is the one to tell
				return
			}
			f.layersDone.Add(1)
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// hold pins a layer for a flight. false: it isn't there. The caller holds mu.
func (s *Store) hold(f *flight, diffID string) bool {
	st := s.layers[diffID]
	if st == nil {
		return false
	}
	if !slices.Contains(f.held, diffID) {
		f.held = append(f.held, diffID)
		st.pins++
	}
	return true
}

// layer makes one layer, or waits for another pull that does. The flight holds it.
func (s *Store) layer(ctx context.Context, f *flight, l layerSource) error {
	for {
		s.mu.Lock()
		if s.hold(f, l.diffID) {
			s.mu.Unlock()
			return nil
		}
		others := s.making[l.diffID]
		if others == nil {
			mine := make(chan struct{})
			s.making[l.diffID] = mine
			s.mu.Unlock()
			err := s.make(ctx, f, l)
			s.mu.Lock()
			delete(s.making, l.diffID)
			close(mine)
			s.mu.Unlock()
			return err
		}
		s.mu.Unlock()
		select {
		case <-others:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// make fetches and unpacks a layer.
func (s *Store) make(ctx context.Context, f *flight, l layerSource) (err error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var r io.ReadCloser
	if l.remote {
		var done func()
		if r, done, err = s.fetchBlob(ctx, f, l); err != nil {
			return err
		}
		defer done()
	} else {
		if r, err = l.open(ctx, 0); err != nil {
			return fmt.Errorf("layer sha256:%s: %w", l.diffID, err)
		}
		f.bytesDone.Add(l.size)
	}
	defer r.Close()

	var taken int64
	defer func() {
		if err != nil {
			s.release(taken)
		}
	}()
	tmp, err := os.MkdirTemp(s.path(tmpDir), "layer-")
	if err != nil {
		return fmt.Errorf("make layer: %w", err)
	}
	defer os.RemoveAll(tmp) // nothing is there any more where it was renamed
	fs := tmp + "/" + fsDir
	if err := errors.Join(os.Mkdir(fs, 0o755), os.Chmod(fs, 0o755)); err != nil { // past the umask
		return fmt.Errorf("make layer: %w", err)
	}
	u, err := unpack(ctx, fs, r, func(n int64) error {
		if err := s.room(n); err != nil {
			return err
		}
		taken += n
		return context.Cause(ctx)
	})
	if err != nil {
		return fmt.Errorf("layer sha256:%s: %w", l.diffID, err)
	}
	if u.diffID != l.diffID {
		return fmt.Errorf("layer sha256:%s: unpacked it has digest sha256:%s", l.diffID, u.diffID)
	}
	return s.placeLayer(f, tmp, l.diffID, u)
}

// fetchBlob downloads a layer. done removes the download.
func (s *Store) fetchBlob(ctx context.Context, f *flight, l layerSource) (io.ReadCloser, func(), error) {
	s.mu.Lock()
	s.used -= s.partial[l.digest] // ours now, and part of what is asked for
	delete(s.partial, l.digest)
	s.mu.Unlock()
	err := s.room(l.size)
	if err == nil {
		var file *os.File
		if file, err = s.download(ctx, l, func(n int64) { f.bytesDone.Add(n) }); err == nil {
			return file, func() {
				s.release(l.size)
				if err := os.Remove(file.Name()); err != nil {
					s.log.Error("download can't be removed", "file", file.Name(), "error", err)
				}
			}, nil
		}
		s.release(l.size)
	}
	// What came of it is for the next try.
	if info, statErr := os.Stat(s.path(partialDir, l.digest)); statErr == nil {
		s.mu.Lock()
		s.partial[l.digest] = info.Size()
		s.used += info.Size()
		s.mu.Unlock()
	}
	return nil, nil, err
}

// placeLayer puts an unpacked layer where it belongs.
func (s *Store) placeLayer(f *flight, tmp, diffID string, u *unpacked) error {
	rec := layerRecord{Version: cacheVersion, Bytes: u.bytes, Entries: u.entries, Implied: u.implied, Opaque: u.opaque, Devices: u.devices}
	if err := s.writeJSON(tmp+"/"+layerFile, &rec); err != nil {
		return err
	}
	if err := syncTree(tmp); err != nil {
		return fmt.Errorf("sync layer: %w", err)
	}
	final := s.path(layersDir, diffID)
	if err := os.Rename(tmp, final); err != nil {
		return fmt.Errorf("place layer: %w", err)
	}
	if err := syncDir(s.path(layersDir)); err != nil {
		return fmt.Errorf("place layer: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[diffID] = &layerState{rec: rec, at: time.Now()}
	s.hold(f, diffID)
	return nil
}

// syncTree has all that was written on disk.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// keep stores the image's record and returns the image. The flight holds its
// layers.
func (s *Store) keep(key string, ref Ref, m *manifest, p Progress) (*Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.images[m.id]
	if st == nil || ref.registry != nil && s.latest(key) != st {
		rec := imageRecord{Version: cacheVersion, ID: m.id, Config: m.config.Config, Refs: map[string]time.Time{}}
		for _, l := range m.layers {
			rec.Layers = append(rec.Layers, l.diffID)
		}
		if st != nil {
			maps.Copy(rec.Refs, st.rec.Refs)
		}
		if ref.registry != nil { // what lies in a file now says nothing about later
			rec.Refs[key] = time.Now()
		}
		if err := s.writeJSON(s.path(imagesDir, m.id+".json"), &rec); err != nil {
			return nil, err
		}
		if st == nil {
			st = &imageState{}
			s.images[m.id] = st
		}
		st.rec = rec
	}
	im := s.pin(st, ref)
	im.Fetched = p
	return im, nil
}

// latest is the image that a reference was last found to mean. The caller holds
// mu.
func (s *Store) latest(key string) *imageState {
	var found *imageState
	for _, im := range s.images {
		if at, ok := im.rec.Refs[key]; ok && (found == nil || at.After(found.rec.Refs[key])) {
			found = im
		}
	}
	return found
}
