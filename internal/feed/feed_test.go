package feed

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
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
		Augment: recipe.Small().Train.Augment, Foreground: 0.33, Labels: 2, Seed: [2]uint64{3, 0}}
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

// The labels of the stage before become channels behind the image's: where they are the reference's, so are the channels,
// and varying them changes those channels alone, whichever samples of the batch are made here.
func TestPreviousStage(t *testing.T) {
	plain := loader(t, true)
	l := *plain
	l.Cases, l.Previous, l.Augment.PMasks = nil, []int16{1, 7}, 0
	for _, c := range plain.Cases {
		l.Cases = append(l.Cases, &Source{Case: c.Case, Previous: c.Case})
	}
	varied := l
	varied.Augment.PMasks = 0.5
	last := varied
	last.Range = [2]int{2, 3}
	const voxels = 4 * 16 * 16
	changed := 0
	for n := range 20 {
		want, err := plain.Batch(n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Batch(n)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Seg, want.Seg) || len(got.Image) != 3*len(want.Image) {
			t.Fatalf("batch %d: other labels, or %d values in place of %d", n, len(got.Image), 3*len(want.Image))
		}
		for sample := range 3 {
			at := got.Image[3*sample*voxels:][:3*voxels]
			if !slices.Equal(at[:voxels], want.Image[sample*voxels:][:voxels]) {
				t.Fatalf("batch %d: the image differs", n)
			}
			for i, label := range want.Seg[sample*voxels:][:voxels] {
				if at[voxels+i] != float32(label) || at[2*voxels+i] != 0 {
					t.Fatalf("batch %d, voxel %d of label %d: channels %v, %v", n, i, label, at[voxels+i], at[2*voxels+i])
				}
			}
		}
		a, err := varied.Batch(n)
		if err != nil {
			t.Fatal(err)
		}
		b, err := last.Batch(n)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(b.Image, a.Image[6*voxels:]) {
			t.Fatalf("batch %d: its last sample alone differs", n)
		}
		if !slices.Equal(a.Image[:voxels], got.Image[:voxels]) {
			t.Fatalf("batch %d: varying the channels changes the first sample's image", n)
		}
		if !slices.Equal(a.Image[voxels:3*voxels], got.Image[voxels:3*voxels]) {
			changed++
		}
	}
	if changed == 0 {
		t.Error("nothing was varied")
	}
}

// Channels are 0 outside a case's mask in samples that are augmented, and what they were in others, as in validation.
func TestMask(t *testing.T) {
	s, err := store.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	r := &store.Record{ID: "a", Channels: 2, Size: [3]int{6, 20, 20}, Classes: []store.ClassVoxels{{Labels: []int{1}}}}
	r.Image = slices.Repeat([]float32{1}, 2*6*20*20)
	r.Seg = slices.Concat(slices.Repeat([]int16{-1}, 3*20*20), slices.Repeat([]int16{0}, 3*20*20))
	if err := s.Put(r); err != nil {
		t.Fatal(err)
	}
	c, err := s.Case("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, augmented := range []bool{false, true} {
		l := &Loader{Cases: []*Source{{Case: c}}, Size: 1, Patch: [3]int{6, 8, 8}, Labels: 2, Mask: []int{1}}
		if augmented {
			l.Augment.Mirror = []int{2}
		}
		b, err := l.Batch(0)
		if err != nil {
			t.Fatal(err)
		}
		zeros := func(channel int) (n int) {
			for _, v := range b.Image[channel*6*8*8:][:6*8*8] {
				if v == 0 {
					n++
				}
			}
			return n
		}
		want := 0
		if augmented {
			want = 3 * 8 * 8
		}
		if zeros(0) != 0 || zeros(1) != want || slices.Max(b.Seg) != 0 {
			t.Errorf("augmented %v: %d and %d voxels are 0, want none and %d", augmented, zeros(0), zeros(1), want)
		}
	}
}

// A stream gives the batches in order, whatever is made ahead, and its goroutines end.
func TestStream(t *testing.T) {
	l := loader(t, true)
	for _, w := range []Workers{{0, 0, 0}, {1, 1, 1}, {1, 1, 4}, {3, 3, 3}, {1, 4, 4}} {
		s := l.Stream(4, w)
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
				t.Fatalf("%+v: batch %d comes out of order", w, n)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v: a cancelled wait gives %v", w, err)
		}
		s.Close()
	}
}

// Late batches bring workers up to the most, batches in time take them away down to the least; a fixed number stays.
func TestWorkersAdapt(t *testing.T) {
	after := func(w Workers, late, inTime int) int {
		s := loader(t, true).Stream(0, w)
		defer s.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for range late {
			s.adapt(true)
		}
		for range inTime {
			s.adapt(false)
		}
		return s.limit
	}
	for _, c := range []struct {
		w                  Workers
		late, inTime, want int
	}{
		{Workers{1, 1, 8}, 2, 0, 1}, {Workers{1, 1, 8}, 3, 0, 2}, {Workers{1, 1, 8}, 100, 0, 8}, {Workers{1, 4, 8}, 0, 99, 4},
		{Workers{1, 4, 8}, 0, 100, 3}, {Workers{1, 4, 8}, 0, 1000, 1}, {Workers{3, 3, 3}, 100, 0, 3}, {Workers{3, 3, 3}, 0, 1000, 3},
		{Workers{1, 1, 8}, 30, 1000, 1},
	} {
		if got := after(c.w, c.late, c.inTime); got != c.want {
			t.Errorf("%+v after %d late and %d batches in time: %d workers, want %d", c.w, c.late, c.inTime, got, c.want)
		}
	}
}

// No more batches are made at a time than there are workers, nor further ahead than said.
func TestWorkersAreBounded(t *testing.T) {
	s := loader(t, true).Stream(0, Workers{2, 2, 2})
	defer s.Close()
	for range 5 {
		if _, err := s.Next(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != 2 || s.next-s.taken > Ahead || len(s.ready) > Ahead {
		t.Errorf("%d workers, %d batches ahead, %d ready", s.running, s.next-s.taken, len(s.ready))
	}
}

func TestNewWorkers(t *testing.T) {
	for _, c := range []struct {
		variable string
		cpu      bool
		want     Workers
	}{{"", true, Workers{1, 1, 16}}, {"", false, Workers{1, 4, 16}}, {"12", true, Workers{12, 12, 12}}, {"40", false, Workers{16, 16, 16}},
		{"0", false, Workers{}}} {
		got, err := NewWorkers(c.variable, 16, c.cpu)
		if err != nil || got != c.want {
			t.Errorf("%q, CPU %v: %+v, %v; want %+v", c.variable, c.cpu, got, err, c.want)
		}
	}
	for _, wrong := range []string{"many", "-1", "1.5", " "} {
		if _, err := NewWorkers(wrong, 16, true); err == nil || !strings.Contains(err.Error(), "nnUNet_n_proc_DA") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if got := (Workers{1, 5, 16}).Half(); got != (Workers{1, 2, 8}) {
		t.Errorf("half is %+v", got)
	}
	if got := (Workers{}).Half(); got != (Workers{}) {
		t.Errorf("half of none is %+v", got)
	}
}

func TestLabelOutsideClasses(t *testing.T) {
	l := loader(t, true)
	l.Labels, l.Foreground = 1, 1
	if _, err := l.Batch(0); err == nil {
		t.Error("label 1 passes where the dataset has label 0 alone")
	}
}
