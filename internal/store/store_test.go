package store

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"masksam/internal/atomicfile"
	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// record is a case of random content.
func record(id string, channels int, size, chunk [3]int, seed uint64) *Record {
	rng := rand.New(rand.NewPCG(seed, 1))
	n := size[0] * size[1] * size[2]
	r := &Record{
		ID: id, Channels: channels, Size: size, Chunk: chunk, Digest: "d1",
		Image: make([]float32, channels*n), Seg: make([]int16, n),
		Properties: Properties{
			Meta:    imageio.Meta{Path: "a_0000.nii.gz", Grid: volume.NewGrid(size, [3]float64{3, 1, 1}), Dims: 3},
			Spacing: [3]float64{3, 1, 1}, ShapeBeforeCropping: size, ShapeAfterCropping: size,
			BBox: volume.Box{Hi: size}, Images: []string{"a_0000.nii.gz"}, Label: "a.nii.gz",
		},
	}
	for i := range r.Image {
		r.Image[i] = float32(rng.NormFloat64())
	}
	for i := range r.Seg {
		r.Seg[i] = int16(rng.IntN(5)) - 1
	}
	voxels := make([][3]int32, 7)
	for i := range voxels {
		for a := range 3 {
			voxels[i][a] = int32(rng.IntN(size[a]))
		}
	}
	r.Classes = []ClassVoxels{{Labels: []int{1}, Voxels: voxels}, {Labels: []int{2, 3}}, {Labels: []int{-1, 0}, Voxels: voxels[:1]}}
	return r
}

func put(t testing.TB, r *Record) *Store {
	t.Helper()
	s, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(r); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dim := rapid.IntRange(1, 20)
		size := [3]int{dim.Draw(t, "z"), dim.Draw(t, "y"), dim.Draw(t, "x")}
		chunk := [3]int{rapid.IntRange(0, 7).Draw(t, "cz"), rapid.IntRange(0, 7).Draw(t, "cy"), rapid.IntRange(0, 7).Draw(t, "cx")}
		r := record("a b.ü", rapid.IntRange(1, 3).Draw(t, "channels"), size, chunk, rapid.Uint64().Draw(t, "seed"))
		if rapid.Bool().Draw(t, "no labels") {
			r.Seg, r.Classes = nil, nil
		}
		s, err := Create(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(dir); err != nil {
			t.Fatal(err)
		}
		c, err := s.Case("a b.ü")
		if err != nil {
			t.Fatal(err)
		}
		if c.Shape() != [4]int{r.Channels, size[0], size[1], size[2]} || c.HasSeg() != (r.Seg != nil) {
			t.Fatalf("shape %v, labels %v", c.Shape(), c.HasSeg())
		}
		if d := cmp.Diff(r.Properties, c.Properties(), cmpopts.IgnoreUnexported(imageio.Meta{})); d != "" {
			t.Fatal(d)
		}

		var b volume.Box
		for a := range 3 {
			b.Lo[a] = rapid.IntRange(0, size[a]).Draw(t, "lo")
			b.Hi[a] = rapid.IntRange(b.Lo[a], size[a]).Draw(t, "hi")
		}
		n := size[0] * size[1] * size[2]
		image := make([]float32, r.Channels*b.Len())
		if err := c.Image(b.Lo, b.Hi, image); err != nil {
			t.Fatal(err)
		}
		for ch := range r.Channels {
			want := volume.Crop(r.Image[ch*n:(ch+1)*n], size, b)
			if d := cmp.Diff(want, image[ch*b.Len():(ch+1)*b.Len()]); d != "" {
				t.Fatalf("channel %d: %s", ch, d)
			}
		}
		if r.Seg == nil {
			if err := c.Seg(b.Lo, b.Hi, make([]int16, b.Len())); err == nil {
				t.Fatal("read labels of a case without")
			}
			return
		}
		seg := make([]int16, b.Len())
		if err := c.Seg(b.Lo, b.Hi, seg); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(volume.Crop(r.Seg, size, b), seg); d != "" {
			t.Fatal(d)
		}
		for i, want := range r.Classes {
			if got := c.Classes()[i]; !cmp.Equal(got, Class{want.Labels, len(want.Voxels)}) {
				t.Fatalf("class %d: %v", i, got)
			}
			got, err := c.Locations(i)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want.Voxels) || len(got) > 0 && !cmp.Equal(got, want.Voxels) {
				t.Fatalf("voxels of class %d: %v, want %v", i, got, want.Voxels)
			}
		}
	})
}

func TestSpecialValuesSurvive(t *testing.T) {
	r := record("a", 1, [3]int{1, 1, 4}, [3]int{}, 1)
	r.Image = []float32{float32(math.Inf(1)), -0, math.MaxFloat32, math.SmallestNonzeroFloat32}
	r.Seg = []int16{-1, math.MaxInt16, math.MinInt16, 300}
	c, err := put(t, r).Case("a")
	if err != nil {
		t.Fatal(err)
	}
	image, seg := make([]float32, 4), make([]int16, 4)
	if err := errors.Join(c.Image([3]int{}, r.Size, image), c.Seg([3]int{}, r.Size, seg)); err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(image, r.Image) || !cmp.Equal(seg, r.Seg) {
		t.Errorf("got %v %v", image, seg)
	}
}

func TestRefusals(t *testing.T) {
	r := record("a", 2, [3]int{3, 4, 5}, [3]int{}, 1)
	s := put(t, r)
	c, err := s.Case("a")
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"box outside":    c.Image([3]int{0, 0, 0}, [3]int{3, 4, 6}, make([]float32, 2*72)),
		"box negative":   c.Image([3]int{-1, 0, 0}, [3]int{3, 4, 5}, make([]float32, 2*80)),
		"box turned":     c.Image([3]int{2, 0, 0}, [3]int{1, 4, 5}, make([]float32, 0)),
		"short target":   c.Image([3]int{}, r.Size, make([]float32, 60)),
		"folder in id":   s.Put(&Record{ID: "a/b"}),
		"empty id":       s.Put(&Record{}),
		"empty case":     s.Put(&Record{ID: "e", Channels: 1}),
		"too few values": s.Put(&Record{ID: "e", Channels: 1, Size: [3]int{1, 1, 2}, Image: []float32{1}}),
		"too few labels": s.Put(&Record{ID: "e", Channels: 1, Size: [3]int{1, 1, 1}, Image: []float32{1}, Seg: []int16{}}),
		"voxel outside": s.Put(&Record{ID: "e", Channels: 1, Size: [3]int{1, 1, 1}, Image: []float32{1},
			Classes: []ClassVoxels{{Voxels: [][3]int32{{0, 0, 1}}}}}),
		"unknown case":    second(s.Case("b")),
		"unknown class":   second(c.Locations(3)),
		"store is absent": second(Open(filepath.Join(s.Dir(), "none"))),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestEveryByteCounts damages each byte in turn: reading must fail, never give other data.
func TestEveryByteCounts(t *testing.T) {
	r := record("a", 1, [3]int{2, 3, 4}, [3]int{2, 2, 2}, 1)
	s := put(t, r)
	path := filepath.Join(s.Dir(), "a.case")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	read := func() error {
		s, err := Open(s.Dir())
		if err != nil {
			return err
		}
		c, err := s.Case("a")
		if err != nil {
			return err
		}
		err = errors.Join(c.Image([3]int{}, r.Size, make([]float32, 24)), c.Seg([3]int{}, r.Size, make([]int16, 24)))
		for i := range c.Classes() {
			err = errors.Join(err, second(c.Locations(i)))
		}
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := append([]byte{}, good...)
		bad[i] ^= 0x10
		if err := os.WriteFile(path, bad, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := read(); err == nil {
			t.Errorf("a changed byte %d of %d went unseen", i, len(good))
		}
		if err := os.WriteFile(path, good[:i], 0o666); err != nil {
			t.Fatal(err)
		}
		if err := read(); err == nil {
			t.Errorf("a file cut at %d of %d went unseen", i, len(good))
		}
	}
}

func TestUnfinishedIsNotDone(t *testing.T) {
	s := put(t, record("b", 1, [3]int{2, 2, 2}, [3]int{}, 1))
	left := filepath.Join(s.Dir(), ".a.case.17.0"+atomicfile.Suffix)
	if err := os.WriteFile(left, []byte(magic), 0o666); err != nil {
		t.Fatal(err)
	}
	if ids, err := s.Cases(); err != nil || !cmp.Equal(ids, []string{"b"}) {
		t.Errorf("cases %v, %v", ids, err)
	}
	if _, ok := s.Digest("a"); ok {
		t.Error("an unfinished case has a digest")
	}
	if _, err := Create(s.Dir()); err == nil || !strings.Contains(err.Error(), "another process is preprocessing it") ||
		!strings.Contains(err.Error(), s.Dir()) {
		t.Errorf("created while another writes: %v", err)
	}
	if _, err := os.Stat(left); err != nil {
		t.Errorf("the other's file is gone: %v", err)
	}
	if r, err := Open(s.Dir()); err != nil || r.Close() != nil {
		t.Errorf("opened while another writes: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := Create(s.Dir()); err != nil || s.Close() != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished file stayed: %v", err)
	}
}

func TestReplace(t *testing.T) {
	r := record("a", 1, [3]int{2, 2, 2}, [3]int{}, 1)
	s := put(t, r)
	if d, ok := s.Digest("a"); !ok || d != "d1" {
		t.Errorf("digest %q %v", d, ok)
	}
	r.Digest = "d2"
	if err := s.Put(r); err != nil {
		t.Fatal(err)
	}
	if d, ok := s.Digest("a"); !ok || d != "d2" {
		t.Errorf("digest after replacing %q %v", d, ok)
	}
}

func TestConcurrentReaders(t *testing.T) {
	r := record("a", 2, [3]int{9, 30, 31}, [3]int{4, 8, 8}, 3)
	c, err := put(t, r).Case("a")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for k := range 10 {
				b := volume.Box{Lo: [3]int{g, k, k}, Hi: [3]int{g + 3, k + 9, k + 20}}
				got := make([]int16, b.Len())
				if err := c.Seg(b.Lo, b.Hi, got); err != nil || !cmp.Equal(got, volume.Crop(r.Seg, r.Size, b)) {
					t.Errorf("box %v: %v", b, err)
				}
			}
		})
	}
	wg.Wait()
}

// FuzzCase gives arbitrary heads a right checksum, so that what lies behind it is tried too.
func FuzzCase(f *testing.F) {
	s := put(f, record("a", 1, [3]int{2, 3, 4}, [3]int{2, 2, 2}, 1))
	good, err := os.ReadFile(filepath.Join(s.Dir(), "a.case"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:20])
	f.Fuzz(func(t *testing.T, data []byte) {
		if n := len(data); n > frontLen+footLen {
			copy(data, good[:frontLen])
			foot := data[n-footLen:]
			copy(foot[20:], magic)
			if at := binary.LittleEndian.Uint64(foot); at < uint64(n-footLen) {
				binary.LittleEndian.PutUint32(foot[16:], crc32.Checksum(data[at:n-footLen], castagnoli))
			}
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a.case"), data, 0o666); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Case("a")
		if err != nil {
			return
		}
		for i := range c.Classes() {
			_, _ = c.Locations(i)
		}
		if n := c.Size(); n[0]*n[1]*n[2]*c.Channels() < 1<<20 {
			_ = c.Image([3]int{}, n, make([]float32, c.Channels()*n[0]*n[1]*n[2]))
		}
	})
}

func BenchmarkPatch(b *testing.B) {
	r := record("a", 1, [3]int{40, 320, 320}, [3]int{}, 1)
	c, err := put(b, r).Case("a")
	if err != nil {
		b.Fatal(err)
	}
	lo, hi := [3]int{5, 31, 31}, [3]int{9, 287, 287}
	image, seg := make([]float32, 4*256*256), make([]int16, 4*256*256)
	b.SetBytes(int64(6 * len(image)))
	for b.Loop() {
		if err := errors.Join(c.Image(lo, hi, image), c.Seg(lo, hi, seg)); err != nil {
			b.Fatal(err)
		}
	}
}

func TestOrientations(t *testing.T) {
	t.Parallel()
	s, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	size := [3]int{2, 3, 4}
	turned := volume.NewGrid(size, [3]float64{3, 1, 1})
	turned.Affine[0][0] *= -1
	for id, meta := range map[string]imageio.Meta{
		"a": {Path: "a.nii.gz", Grid: volume.NewGrid(size, [3]float64{3, 1, 1})},
		"b": {Path: "b.nii.gz", Grid: turned},
		"c": {Path: "c.mha", Grid: turned},
		"d": {Path: "d.png", Grid: turned},
		"e": {Path: "e.nii", Grid: turned, NIfTI: &imageio.NIfTIGeometry{}}, // without a transform
	} {
		r := record(id, 1, size, size, 1)
		r.Properties.Meta = meta
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Orientations()
	if d := cmp.Diff(volume.Orientations{"RAS": 1, "LAS": 2, "": 2}, got); d != "" || err != nil {
		t.Errorf("%s, %v", d, err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), "f.case"), []byte("damaged"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Orientations(); err == nil {
		t.Error("a damaged case was counted")
	}
}
