package feed

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"masksam/internal/recipe"
	"masksam/internal/store"
)

// No test may leave a goroutine of its streams behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cases are some of the given size: noise, and a box of label 1.
func cases(t testing.TB, size [3]int, keep bool, ids ...string) (list []*Source) {
	t.Helper()
	s, err := store.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for _, id := range ids {
		r := &store.Record{ID: id, Channels: 1, Size: size}
		box := store.ClassVoxels{Labels: []int{1}}
		for z := range size[0] {
			for y := range size[1] {
				for x := range size[2] {
					label := int16(0)
					if y > size[1]/2 && x > size[2]/3 {
						label = 1
						box.Voxels = append(box.Voxels, [3]int32{int32(z), int32(y), int32(x)})
					}
					r.Image, r.Seg = append(r.Image, float32(rng.NormFloat64())), append(r.Seg, label)
				}
			}
		}
		r.Classes = []store.ClassVoxels{box}
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
		c, err := s.Case(id)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, &Source{Case: c, Keep: keep})
	}
	return list
}

func loader(t testing.TB, keep bool) *Loader {
	return &Loader{Cases: cases(t, [3]int{5, 18, 14}, keep, "a", "b", "c"), Size: 3, Patch: [3]int{4, 16, 16},
		Augment: recipe.Small().Train.Augment, Foreground: 0.33, Classes: 2, Seed: [2]uint64{3, 0}}
}

// Reading patches from the store gives the batches that cases in memory give.
func TestSources(t *testing.T) {
	held, read := loader(t, true), loader(t, false)
	forced := 0
	for n := range 30 {
		a, err := held.Batch(n)
		if err != nil {
			t.Fatal(err)
		}
		b, err := read.Batch(n)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(a.Image, b.Image) || !slices.Equal(a.Seg, b.Seg) || !slices.Equal(a.Cases, b.Cases) {
			t.Fatalf("batch %d differs between memory and store", n)
		}
		if slices.Contains(a.Seg[2*len(a.Seg)/3:], 1) {
			forced++
		}
	}
	if forced < 28 { // a rotated or scaled patch may lose its voxel
		t.Errorf("the last sample of a batch shows foreground in %d of 30 batches", forced)
	}
}

// A stream gives the batches in order, whatever is made ahead, and its goroutines end.
func TestStream(t *testing.T) {
	l := loader(t, true)
	s := l.Stream(4, 3)
	defer s.Close()
	for n := 4; n < 12; n++ {
		want, err := l.Batch(n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Image, want.Image) || !slices.Equal(got.Cases, want.Cases) {
			t.Fatalf("batch %d comes out of order", n)
		}
	}
}

func TestLabelOutsideClasses(t *testing.T) {
	l := loader(t, true)
	l.Classes, l.Foreground = 1, 1
	if _, err := l.Batch(0); err == nil {
		t.Error("label 1 passes where the dataset has label 0 alone")
	}
}
