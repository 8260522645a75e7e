// Package store keeps preprocessed cases on disk, one file per case, so that a training patch is read without its case.
// docs/formats.md, section "CASE.case", has the layout of the file.
//
// A file appears under its name only when it is whole and synced, so a case that exists is complete.
package store

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"masksam/internal/atomicfile"
	"masksam/internal/imageio"
	"masksam/internal/volume"
)

const (
	magic   = "MSKCASE\n"
	version = 1
	ending  = ".case"

	frontLen = len(magic) + 4
	rowLen   = 16 // one block in the table
	footLen  = 20 + len(magic)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged is wrapped by every error about a case file whose bytes are not what was written.
var ErrDamaged = errors.New("the file is damaged: delete it and preprocess the case again")

// Record is a preprocessed case as it is handed to Put. Arrays are in the plan's transposed order.
type Record struct {
	ID       string
	Channels int
	Size     [3]int // voxels along z, y, x
	// Chunk is the extent of a block along z, y, x; an entry of 0 takes 8, 64, 64. Larger chunks compress
	// better, smaller ones read less around a patch.
	Chunk      [3]int
	Image      []float32 // (channel, z, y, x); none, with Channels 0, where labels alone are kept
	Seg        []int16   // (z, y, x), −1 outside the nonzero mask; nil: the case has no labels
	Classes    []ClassVoxels
	Properties Properties
	Digest     string // of everything that the record was made from
}

// ClassVoxels holds voxels of one label, or of the labels of one region.
type ClassVoxels struct {
	Labels []int
	Voxels [][3]int32 // z, y, x; a sample in drawn order
}

// Class says for which labels voxels were located, and how many.
type Class struct {
	Labels []int `json:"labels"`
	Count  int   `json:"count"`
}

// Properties are what it takes to bring a prediction back onto the image as it was read.
type Properties struct {
	Meta imageio.Meta // of the first image file: grid in file array order, header geometry
	// Spacing is the image's as read (z, y, x of the file's array), the shapes and the box are in transposed order.
	Spacing             [3]float64
	ShapeBeforeCropping [3]int
	BBox                volume.Box // kept part of the uncropped case
	ShapeAfterCropping  [3]int     // and before resampling
	Images              []string   // source files, one or more
	Label               string     // source file, empty without label
}

// Store is a folder of cases. It is safe for concurrent use, and so are its cases.
type Store struct {
	dir   string
	lock  io.Closer // nil: opened
	joint bool      // others put their own cases into it
	mu    sync.Mutex
	cases map[string]*Case
}

// Create makes the folder, if need be, and removes what killed writers left in it. Until Close the store may be opened,
// but not created, by others.
func Create(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	lock, err := atomicfile.Lock(dir, false)
	if errors.Is(err, atomicfile.ErrLocked) {
		return nil, fmt.Errorf("create store %s: another process is preprocessing it: wait until it is done", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	if err := atomicfile.RemovePartial(dir); err != nil {
		lock.Close()
		return nil, fmt.Errorf("create store: %w", err)
	}
	return &Store{dir: dir, lock: lock, cases: map[string]*Case{}}, nil
}

// Join is Create for one of several processes, each of which puts cases of its own into the store. While any of them has
// it, none can create it.
func Join(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("join store: %w", err)
	}
	lock, err := atomicfile.Share(dir)
	if errors.Is(err, atomicfile.ErrLocked) {
		return nil, fmt.Errorf("join store %s: another process is preprocessing all of it: wait until it is done", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("join store: %w", err)
	}
	return &Store{dir: dir, lock: lock, joint: true, cases: map[string]*Case{}}, nil
}

// Close lets others create a store that was created; it can still be read.
func (s *Store) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// Open opens an existing store.
func Open(dir string) (*Store, error) {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, fmt.Errorf("open store: %w; preprocess the dataset first", err)
	case !info.IsDir():
		return nil, fmt.Errorf("open store: %s is not a folder", dir)
	}
	return &Store{dir: dir, cases: map[string]*Case{}}, nil
}

// Dir is the store's folder.
func (s *Store) Dir() string { return s.dir }

// Cases lists the ids of the finished cases in code point order.
func (s *Store) Cases() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list store: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ending); ok && !strings.HasPrefix(id, ".") && e.Type().IsRegular() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Orientations counts the cases by where the axes of their images point to, as they were read for preprocessing
// (imageio.Meta.Orientation). A model predicts voxels as they are stored, so an image that lies otherwise than these is
// predicted badly.
func (s *Store) Orientations() (volume.Orientations, error) {
	ids, err := s.Cases()
	if err != nil {
		return nil, err
	}
	out := volume.Orientations{}
	for _, id := range ids {
		c, err := s.Case(id)
		if err != nil {
			return nil, err
		}
		out[c.Properties().Meta.Orientation()]++
	}
	return out, nil
}

func (s *Store) path(id string) (string, error) {
	if id == "" || strings.HasPrefix(id, ".") || strings.ContainsAny(id, "/\x00") || filepath.Base(id) != id {
		return "", fmt.Errorf("case id %q cannot be a file name", id)
	}
	return filepath.Join(s.dir, id+ending), nil
}

// Case opens a case: its head and table are read and checked, its arrays are not. The file is closed again.
func (s *Store) Case(id string) (*Case, error) {
	s.mu.Lock()
	c := s.cases[id]
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	path, err := s.path(id)
	if err != nil {
		return nil, err
	}
	if c, err = openCase(path); err != nil {
		return nil, fmt.Errorf("open case %s: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cases[id] = c
	return c, nil
}

// Digest is the digest that the stored case was put with. ok is false when the case is absent or its head is damaged.
func (s *Store) Digest(id string) (digest string, ok bool) {
	c, err := s.Case(id)
	if err != nil {
		return "", false
	}
	return c.head.Digest, true
}

// Put stores a case, replacing an earlier one of its id; on an error the earlier one stays.
func (s *Store) Put(r *Record) error {
	path, err := s.path(r.ID)
	if err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("store case %s: %w", r.ID, err)
	}
	if s.joint {
		if err := atomicfile.RemovePartialOf(path); err != nil {
			return fmt.Errorf("store case %s: %w", r.ID, err)
		}
	}
	if err := atomicfile.Write(path, r.encode); err != nil {
		return fmt.Errorf("store case %s: %w", r.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cases, r.ID)
	return nil
}

// Remove deletes a case; that another process has done so is no error.
func (s *Store) Remove(id string) error {
	path, err := s.path(id)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !(s.joint && errors.Is(err, fs.ErrNotExist)) {
		return fmt.Errorf("remove case %s: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cases, id)
	return nil
}

func (r *Record) check() error {
	if err := r.head().check(); err != nil {
		return err
	}
	voxels := r.Size[0] * r.Size[1] * r.Size[2]
	switch {
	case len(r.Image) != r.Channels*voxels:
		return fmt.Errorf("%d values for %d channels of %v voxels", len(r.Image), r.Channels, r.Size)
	case r.Seg != nil && len(r.Seg) != voxels:
		return fmt.Errorf("%d labels for %v voxels", len(r.Seg), r.Size)
	}
	for _, c := range r.Classes {
		for _, v := range c.Voxels {
			for a := range 3 {
				if v[a] < 0 || int(v[a]) >= r.Size[a] {
					return fmt.Errorf("located voxel %v lies outside %v", v, r.Size)
				}
			}
		}
	}
	return nil
}
