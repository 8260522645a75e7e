package demo

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"masksam/internal/draw"
	"masksam/internal/imageio"
)

// phantom is the head that the tests share.
var phantom = sync.OnceValue(func() *head { return phantomHead(1) })

func TestPhantom(t *testing.T) {
	h := phantom()
	for side, half := range map[string]hemisphere{"left": h.left, "right": h.right} {
		counts := make([]int, len(Structures))
		for _, v := range half.untouched().labels {
			counts[v]++
		}
		for v, n := range counts {
			if ml := float64(n) * spacing * spacing * spacing / 1000; ml < 1 {
				t.Errorf("%s %s has %.2f ml", side, Structures[v], ml)
			}
		}
	}
	if d := meanDice(h.right.untouched().labels, h.left.untouched().labels); d < 0.6 || d > 0.95 {
		t.Errorf("the hemispheres overlap with a Dice of %.3f, unlike real ones", d)
	}
}

// Every case must hold every structure whole enough to learn from, and differ from the others.
func TestVaried(t *testing.T) {
	left := phantom().left
	plain := left.untouched()
	count := func(s sampled) []int {
		n := make([]int, len(Structures))
		for _, v := range s.labels {
			n[v]++
		}
		return n
	}
	want := count(plain)
	for i := range 6 {
		s := left.varied(rand.New(rand.NewPCG(7, uint64(i))))
		for v, n := range count(s) {
			if ratio := float64(n) / float64(want[v]); ratio < 0.5 || ratio > 2 {
				t.Errorf("case %d: %s has %.2f of its volume", i, Structures[v], ratio)
			}
		}
		if d := meanDice(plain.labels, s.labels); d > 0.95 || d < 0.2 {
			t.Errorf("case %d overlaps the undeformed one with a Dice of %.3f", i, d)
		}
		for _, v := range s.image {
			if v < 0 || math.IsNaN(float64(v)) {
				t.Fatalf("case %d holds %v", i, v)
			}
		}
	}
}

func TestSamplingIsLinear(t *testing.T) {
	h := hemisphere{make([]float32, wide.Len()), make([]uint8, wide.Len())}
	size := wide.Size()
	// Linear interpolation reproduces a ramp anywhere, so it tells whether positions and weights are right.
	for i := range h.image {
		z, y, x := i/(size[1]*size[2]), i/size[2]%size[1], i%size[2]
		h.image[i] = float32(z) + 2*float32(y) + 3*float32(x)
	}
	s := h.untouched()
	for _, at := range [][3]int{{0, 0, 0}, {10, 20, 30}, {caseSize[0] - 1, caseSize[1] - 1, caseSize[2] - 1}} {
		want := position(0, at[0]) + 2*position(1, at[1]) + 3*position(2, at[2])
		got := float64(s.image[(at[0]*caseSize[1]+at[1])*caseSize[2]+at[2]])
		if math.Abs(got-want) > 1e-3 {
			t.Errorf("voxel %v reads %v, want %v", at, got, want)
		}
	}
}

func build(t *testing.T, opt BuildOptions) *Data {
	t.Helper()
	d, err := Build(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestBuildIsDeterministic(t *testing.T) {
	a := build(t, BuildOptions{Raw: t.TempDir(), Cases: 3, Seed: 5, Phantom: true})
	b := build(t, BuildOptions{Raw: t.TempDir(), Cases: 3, Seed: 5, Phantom: true})
	if a.Source != Phantom || a.Baseline != b.Baseline {
		t.Errorf("%+v and %+v", a, b)
	}
	files, err := filepath.Glob(filepath.Join(a.Folder, "*", "*.nii.gz"))
	if err != nil || len(files) != 8 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, f := range append(files, filepath.Join(a.Folder, "dataset.json")) {
		rel, _ := filepath.Rel(a.Folder, f)
		one, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(filepath.Join(b.Folder, rel))
		if err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s differs between two runs with one seed (%v)", rel, err)
		}
	}
	im, err := imageio.Read(a.Image)
	if err != nil {
		t.Fatal(err)
	}
	if im.Grid.Size != caseSize || im.Grid.Spacing != [3]float64{spacing, spacing, spacing} {
		t.Errorf("the test case has the grid %+v", im.Grid)
	}
	l, err := imageio.ReadLabel(a.Label)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Max(l.Data) != int32(len(Structures)-1) {
		t.Errorf("largest label %d", slices.Max(l.Data))
	}
}

func TestBuildUnwritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	_, err := Build(t.Context(), BuildOptions{Raw: file, Cases: 1, Phantom: true})
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a folder below a file: %v", err)
	}
}

// The real head needs the package, from the cache that DEMO_CACHE names or from apt's registry.
func TestColin(t *testing.T) {
	cache := os.Getenv("DEMO_CACHE")
	if cache == "" {
		t.Skip("DEMO_CACHE names no folder to keep the package mricron-data in")
	}
	d := build(t, BuildOptions{Raw: t.TempDir(), Cache: cache, Cases: 2, Seed: 1})
	if d.Source != Colin27 {
		t.Fatalf("source %s", d.Source)
	}
	// On the package's own 1 mm grid the mirrored left labels score 0.814; the demo's grid is coarser.
	if math.Abs(d.Baseline-0.81) > 0.02 {
		t.Errorf("baseline %.3f", d.Baseline)
	}
	t.Logf("baseline %.4f, cases of %v voxels", d.Baseline, caseSize)
	if dir := os.Getenv("VIEW_OUT"); dir != "" {
		for _, name := range []string{"Ts/right", "Tr/left_001", "Tr/left_002"} {
			part, id := name[:2], name[3:]
			im, err := imageio.Read(filepath.Join(d.Folder, "images"+part, id+"_0000.nii.gz"))
			if err != nil {
				t.Fatal(err)
			}
			l, err := imageio.ReadLabel(filepath.Join(d.Folder, "labels"+part, id+".nii.gz"))
			if err != nil {
				t.Fatal(err)
			}
			cuts, err := draw.Case{Size: im.Grid.Size, Spacing: im.Grid.Spacing, Image: im.Channels[0], Truth: l.Data}.Slices(1, 5)
			if err != nil {
				t.Fatal(err)
			}
			if err := draw.Overlay(filepath.Join(dir, id+".png"), draw.Montage{Title: name, Slices: cuts, Name: structure}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
