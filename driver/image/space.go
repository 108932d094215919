package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// ErrFull is returned when there is no room for an image: all that is in the
// cache is in use.
var ErrFull = errors.New("the image cache is full")

// room takes n bytes of the cache's limit, for which it removes what was not
// used for longest. What a task or a pull uses is never removed.
func (s *Store) room(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.used+n > s.cfg.LimitBytes {
		if !s.evict() {
			return fmt.Errorf("%w: %d MiB of its %d MiB are in use and %d MiB more are needed (images.cache_limit)",
				ErrFull, s.used>>20, s.cfg.LimitBytes>>20, (n+1<<20-1)>>20)
		}
	}
	s.used += n
	return nil
}

// release gives back what room took.
func (s *Store) release(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// evict removes the one thing that is the least use: a download that nobody
// goes on with, a layer without an image, the image that was not used for
// longest. false: there is none. The caller holds mu.
func (s *Store) evict() bool {
	for digest, n := range s.partial {
		delete(s.partial, digest)
		s.used -= n
		if err := os.Remove(s.path(partialDir, digest)); err != nil {
			s.log.Error("partial download can't be removed", "digest", digest, "error", err)
		}
		return true
	}
	if s.evictLayer() {
		return true
	}
	var oldest *imageState
	for _, im := range s.images {
		if im.pins == 0 && !s.mounted(im.rec.ID) && (oldest == nil || im.at.Before(oldest.at)) {
			oldest = im
		}
	}
	if oldest == nil {
		return false
	}
	s.log.Info("image removed from the cache", "image", oldest.rec.ID, "last_used", oldest.at)
	delete(s.images, oldest.rec.ID)
	// First the image, then its layers: one without the other is no image.
	if err := os.Remove(s.path(imagesDir, oldest.rec.ID+".json")); err != nil {
		s.log.Error("image can't be removed", "image", oldest.rec.ID, "error", err)
	}
	return true
}

// evictLayer removes the layer without an image that was not used for longest.
func (s *Store) evictLayer() bool {
	needed := map[string]bool{}
	for _, im := range s.images {
		for _, l := range im.rec.Layers {
			needed[l] = true
		}
	}
	for _, r := range s.roots {
		for _, l := range r.Layers {
			needed[l] = true
		}
	}
	oldest := ""
	for id, l := range s.layers {
		if !needed[id] && l.pins == 0 && (oldest == "" || l.at.Before(s.layers[oldest].at)) {
			oldest = id
		}
	}
	if oldest == "" {
		return false
	}
	s.used -= s.layers[oldest].rec.Bytes
	delete(s.layers, oldest)
	// A rename is one step: no layer is ever half there.
	gone, err := os.MkdirTemp(s.path(tmpDir), "gone-")
	if err == nil {
		err = os.Rename(s.path(layersDir, oldest), filepath.Join(gone, "layer"))
	}
	if err == nil {
		err = os.RemoveAll(gone)
	}
	if err != nil {
		s.log.Error("layer can't be removed", "layer", oldest, "error", err)
	}
	return true
}

// mounted says whether a task's root is made of the image. The caller holds mu.
func (s *Store) mounted(image string) bool {
	for _, r := range s.roots {
		if r.Image == image {
			return true
		}
	}
	return false
}

// touch notes that an image is used now. The caller holds mu.
func (s *Store) touch(im *imageState) {
	im.at = time.Now()
	path := s.path(imagesDir, im.rec.ID+".json")
	if err := os.Chtimes(path, im.at, im.at); err != nil {
		s.log.Error("use of an image can't be noted", "image", im.rec.ID, "error", err)
	}
}

// Usage is what the cache holds.
type Usage struct {
	Bytes, LimitBytes       int64
	Images, Layers, Mounted int
}

// Usage says what the cache holds now.
func (s *Store) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Usage{s.used, s.cfg.LimitBytes, len(s.images), len(s.layers), len(s.roots)}
}

// leastRecent lists the images by their last use, the oldest first.
func (s *Store) leastRecent() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*imageState
	for _, im := range s.images {
		all = append(all, im)
	}
	slices.SortFunc(all, func(a, b *imageState) int { return a.at.Compare(b.at) })
	var out []string
	for _, im := range all {
		out = append(out, im.rec.ID)
	}
	return out
}
