package predict

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/model"
	"masksam/internal/model/modeltest"
	"masksam/internal/remedy"
	"masksam/internal/tiles"
	"masksam/internal/torch"
	"masksam/internal/torch/torchtest"
)

// narrow is a network that has no memory for more than so many patches.
type narrow struct {
	patches int
	tried   []int
}

func (n *narrow) Scores(patches []float32, count int) ([]float32, error) {
	n.tried = append(n.tried, count)
	if count > n.patches {
		return nil, &torch.OutOfMemory{Device: torch.CUDA(1), Err: &torch.Error{Op: "Attention", Msg: "no room"}}
	}
	scores := slices.Clone(patches)
	for i := range scores {
		scores[i] *= 2
	}
	return scores, nil
}

// accumulate adds a network's scores of a whole image to sums (K, Size).
func accumulate(ctx context.Context, w tiles.Window, net tiles.Network, image tiles.Image, sum []float32, tick func(int)) error {
	voxels := image.Size[0] * image.Size[1] * image.Size[2]
	s := tiles.NewSums(w.Order(image.Size).Whole(1), len(sum)/voxels, image.Size)
	s.Data = sum
	return w.Accumulate(ctx, []tiles.Network{net}, image, s, s.Legs[0], tick)
}

// logged is what fn writes into the log.
func logged(fn func()) string {
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(old)
	fn()
	return log.String()
}

// A pass that takes too much memory is made of half as many patches, with one notice; the scores are the same, and later
// passes begin with what is known to fit. One patch that does not fit is an error that says what helps.
func TestSparing(t *testing.T) {
	w := tiles.Window{Patch: [3]int{1, 2, 2}, Step: 0.5, Mirror: []int{1, 2}, Batch: 6}
	image := tiles.Image{Channels: 1, Size: [3]int{2, 5, 4}, Data: make([]float32, 40)}
	for i := range image.Data {
		image.Data[i] = float32(i)
	}
	want := make([]float32, len(image.Data))
	if err := accumulate(t.Context(), w, &narrow{patches: 6}, image, want, nil); err != nil {
		t.Fatal(err)
	}
	net := &narrow{patches: 2}
	var most atomic.Int64
	log := logged(func() {
		for range 2 { // cases
			got := make([]float32, len(image.Data))
			if err := accumulate(t.Context(), w, &sparing{net, &most}, image, got, nil); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("scores in halves %v, whole %v", got, want)
			}
		}
	})
	if n := strings.Count(log, "level=WARN"); n != 1 || !strings.Contains(log, "patches=6") || !strings.Contains(log, "cuda:1") {
		t.Errorf("%d notices, want one with the number of patches and the device:\n%s", n, log)
	}
	if !slices.Equal(net.tried[:3], []int{6, 3, 1}) || slices.Max(net.tried[2:]) > 1 || most.Load() != 1 {
		t.Errorf("tried %v, remembered %d; want 6, 3, then one at a time", net.tried, most.Load())
	}
	net.patches = 0
	_, err := (&sparing{net, &most}).Scores(image.Data[:8], 2)
	var short *torch.OutOfMemory
	if !errors.As(err, &short) || !strings.Contains(err.Error(), "one patch") || remedy.As(err) == nil {
		t.Errorf("no room for one patch: %v, advice %v", err, remedy.As(err))
	}
}

// A model predicts in the precision of its training unless another one is asked for; where the device lacks it, in float32,
// with one notice. A checkpoint that tells none means float32.
func TestPrecision(t *testing.T) {
	c := newConstant(t)
	d, fast, half := torchtest.Device(t), "float32", "float32"
	if d.HasFastBF16() {
		fast = "bf16"
	}
	if d.HasFloat16() {
		half = "float16"
	}
	for _, c2 := range []struct{ trained, asked, want string }{
		{"", "", "float32"}, {"float32", "", "float32"}, {"bf16", "", fast}, {"bf16", "float32", "float32"}, {"float32", "bf16", fast},
		{"float16", "", half}, {"bf16", "float16", half},
	} {
		c.meta.Precision = c2.trained
		c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
		m := open(t, c, "0")
		asked := c2.asked
		if asked == "" {
			asked = c2.trained
		}
		log := logged(func() {
			for range 2 {
				if got := m.precision(c2.asked); got != c2.want {
					t.Errorf("trained in %q, asked for %q: %s, want %s", c2.trained, c2.asked, got, c2.want)
				}
			}
		})
		if lacks := asked != "" && c2.want != asked; (strings.Count(log, asked) == 1) != lacks && asked != "" {
			t.Errorf("trained in %q, asked for %q: the log is %q", c2.trained, c2.asked, log)
		}
	}
}

// Memory decides on the networks of a CPU and on the patches of their passes: a network for each thread where memory is
// no matter and there are batches for each, one with all threads where even two patches at a time are too many. What is
// asked for is kept.
func TestDivide(t *testing.T) {
	torchtest.OnCPU(t)
	c := newConstant(t)
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	m := open(t, c, "0")
	torch.SetThreads(4)
	defer torch.SetThreads(1)
	size := [3]int{7, 20, 22}
	want := func(t *testing.T, tiling Tiling, size [3]int, free machine.Bytes, want division) {
		t.Helper()
		got := m.divide(tiling, size, free, 12*voxels(size))
		if got.need <= 0 {
			t.Errorf("it takes %v of memory", got.need)
		}
		if got.need = 0; got != want {
			t.Errorf("%+v of %v in %v: %+v, want %+v", tiling, size, free, got, want)
		}
	}
	want(t, Tiling{Mirror: true}, size, math.MaxInt64, division{networks: 4, threads: 1, batch: 2})
	want(t, Tiling{}, [3]int{4, 16, 16}, math.MaxInt64, division{networks: 1, threads: 4, batch: 2})
	want(t, Tiling{Mirror: true}, size, 0, division{networks: 1, threads: 4, batch: 1})
	want(t, Tiling{Mirror: true, Batch: 3}, size, 0, division{networks: 1, threads: 4, batch: 3})
	one, two, more := usual(torch.CPU, 1e9), usual(torch.CPU, 1e7), usual(torch.CUDA(0), 1e9)
	if one != 1 || two != 2 || more != 4 {
		t.Errorf("%d, %d and %d patches of a pass, want 1 of a large patch, 2 of a small one, 4 on a GPU", one, two, more)
	}
	all := m.divide(Tiling{Mirror: true}, size, math.MaxInt64, 12*voxels(size)).need
	want(t, Tiling{Mirror: true}, size, all, division{networks: 4, threads: 1, batch: 1})
	half := m.divide(Tiling{Mirror: true}, size, all*9/20, 12*voxels(size))
	if half.networks != 2 || half.threads != 2 || half.batch != 1 {
		t.Errorf("in less than half of the memory: %+v, want two networks", half)
	}
}

// A U-Net's small patches are shared out as MaskSAM's; large ones go one after the other, each over all cores.
func TestDivideUNet(t *testing.T) {
	dir, err := modeltest.WriteUNet(t.TempDir(), "nnUNetTrainer", nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(dir, nil, model.Final, "", torch.CPU)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	torch.SetThreads(4)
	defer torch.SetThreads(1)
	for _, c := range []struct {
		patch    [3]int
		networks int
	}{{[3]int{4, 16, 16}, 4}, {[3]int{96, 256, 256}, 1}} {
		m.Meta.Recipe.Patch = c.patch
		if d := m.divide(Tiling{}, [3]int{300, 400, 400}, math.MaxInt64, 0); d.networks != c.networks || d.threads*d.networks != 4 {
			t.Errorf("patch %v: %+v, want %d networks", c.patch, d, c.networks)
		}
	}
}

// A case's scores do not depend on how many patches a pass has, but for rounding.
func TestBatchDoesNotMatter(t *testing.T) {
	c := newConstant(t)
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	m := open(t, c, "0")
	p, err := m.read(t.Context(), dataset.Case{Images: []string{image(t, t.TempDir(), "a")}})
	if err != nil {
		t.Fatal(err)
	}
	var want []float32
	for _, batch := range []int{1, 2, 5} {
		got, err := m.scores(t.Context(), p.image, Tiling{Mirror: true, Precision: "float32"}, division{1, 1, batch, 0}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		for i, v := range got {
			if math.Abs(float64(v-want[i])) > 1e-5 {
				t.Fatalf("batch %d: score %d is %v, one at a time %v", batch, i, v, want[i])
			}
		}
	}
}

// A model's scores are the same to the last bit for any number of networks that share its weights.
func TestNetworksDoNotMatter(t *testing.T) {
	c := newConstant(t)
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	c.fold(t, "1", 0.1, 0.2, 0.3, 0.4)
	m := open(t, c)
	p, err := m.read(t.Context(), dataset.Case{Images: []string{image(t, t.TempDir(), "a")}})
	if err != nil {
		t.Fatal(err)
	}
	var want []float32
	for _, networks := range []int{1, 2, 3} {
		got, err := m.scores(t.Context(), p.image, Tiling{Mirror: true}, division{networks, 1, 2, 0}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d networks score otherwise than one", networks)
		}
	}
}

// Where memory is short, reading, scoring and export of a folder's cases do not overlap, and all are labelled.
func TestFolderInLittleMemory(t *testing.T) {
	c := newConstant(t)
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	in, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	ids := []string{"a", "b", "c"}
	for _, id := range ids {
		image(t, in, id)
	}
	m := open(t, c, "0")
	p, err := m.read(t.Context(), dataset.Case{Images: []string{filepath.Join(in, "a_0000.nii.gz")}})
	if err != nil {
		t.Fatal(err)
	}
	x, err := m.export("a", p, Options{Output: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Input: in, Output: out, Tiling: Tiling{Step: 1}}
	m.memory.Limit = func() machine.Bytes { return 1e9 }
	plan, err := m.plan(t.Context(), p, x, o)
	if err != nil {
		t.Fatal(err)
	}
	m.memory.End(plan.need)
	little, looks := bytesOf(float64(plan.beside)+m.certain(o)), 0
	m.memory.Limit = func() machine.Bytes { // is asked while the admission is locked
		looks++
		return little
	}
	if err := m.Folder(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if left := m.memory.Left(); left != little {
		t.Errorf("after all %v are left of %v", left, little)
	}
	for _, id := range ids {
		all(t, filepath.Join(out, id+".nii.gz"), 1)
	}
	if looks < 2*len(ids) {
		t.Errorf("%d looks at the memory, want one for the reading and one for the scoring of each case", looks)
	}
}
