package tiles

import (
	"context"
	"errors"
	"iter"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/goldentest"
)

func TestGoldenStarts(t *testing.T) {
	var table []struct {
		Image, Tile []int
		Step        float64
		Starts      [][]int
	}
	goldentest.JSON(t, "nnunet/tables/sliding_steps.json", &table)
	for _, e := range table {
		for d := range e.Image {
			if got := Starts(e.Image[d], e.Tile[d], e.Step); !slices.Equal(got, e.Starts[d]) {
				t.Errorf("%d voxels, tile %d, step %g: %v, want %v", e.Image[d], e.Tile[d], e.Step, got, e.Starts[d])
			}
		}
	}
}

func TestGoldenImportance(t *testing.T) {
	for name, want := range goldentest.Arrays(t, "nnunet/sliding/gaussian.safetensors") {
		sizes, ok := strings.CutSuffix(name, "_f32")
		if !ok {
			continue
		}
		w := Window{Patch: [3]int{1, 1, 1}}
		parts := strings.Split(sizes, "x")
		for i, s := range parts {
			n, err := strconv.Atoi(s)
			if err != nil {
				t.Fatalf("name %q: %v", name, err)
			}
			w.Patch[3-len(parts)+i] = n
		}
		g := [3][]float64{w.importance(0), w.importance(1), w.importance(2)}
		o := 0
		for _, a := range g[0] {
			for _, b := range g[1] {
				for _, c := range g[2] {
					const maximum = 10 // nnU-Net's scale of the map
					if got := maximum * a * b * c; math.Abs(got-want.Data[o]) > 1e-6*max(1, want.Data[o]) {
						t.Fatalf("%s voxel %d: %g, want %g", name, o, got, want.Data[o])
					}
					o++
				}
			}
		}
	}
}

// convolution is the fake network of the reference values: a 3×3×3 (2-D: 3×3) cross-correlation padded with zeros.
type convolution struct {
	channels, heads int
	patch           [3]int
	flat            bool
	fold            int
	calls           []int // patches per call
}

func (c *convolution) Scores(patches []float32, n int) ([]float32, error) {
	c.calls = append(c.calls, n)
	size := c.patch[0] * c.patch[1] * c.patch[2]
	out := make([]float32, 0, n*c.heads*size)
	sum := make([]float64, size)
	for b := range n {
		for o := range c.heads {
			for i := range sum {
				sum[i] = 0.25*float64(o-1) + 0.125*float64(c.fold)
			}
			for ch := range c.channels {
				in := patches[(b*c.channels+ch)*size:][:size]
				for i := range 27 {
					tap := [3]int{i / 9, i / 3 % 3, i % 3}
					s := 1*(tap[0]+1) + 2*(tap[1]+1) + 3*(tap[2]+1)
					if c.flat {
						if tap[0] != 1 {
							continue
						}
						s = 1*(tap[1]+1) + 2*(tap[2]+1)
					}
					k := float64(((o+1)*7+(ch+1)*3+5*s)%11)/16 - 0.3125
					c.add(sum, in, k*(1+0.25*float64(c.fold)), tap)
				}
			}
			for _, v := range sum {
				out = append(out, float32(v))
			}
		}
	}
	return out, nil
}

// add adds the patch, moved by one tap of the kernel and multiplied by its weight.
func (c *convolution) add(sum []float64, in []float32, weight float64, tap [3]int) {
	var lo, hi [3]int // of the voxels whose neighbour at the tap is inside
	for a := range tap {
		lo[a], hi[a] = max(0, 1-tap[a]), min(c.patch[a], c.patch[a]+1-tap[a])
	}
	shift := ((tap[0]-1)*c.patch[1]+tap[1]-1)*c.patch[2] + tap[2] - 1
	for z := lo[0]; z < hi[0]; z++ {
		for y := lo[1]; y < hi[1]; y++ {
			row := (z*c.patch[1] + y) * c.patch[2]
			for i := row + lo[2]; i < row+hi[2]; i++ {
				sum[i] += weight * float64(in[i+shift])
			}
		}
	}
}

// all adds the mean over tiles and flips of the scores of a whole image to its sums (K, Size).
func (w Window) all(ctx context.Context, networks []Network, image Image, sum []float32, tick func(passes int)) error {
	s := whole(w, image.Size, sum)
	return w.Accumulate(ctx, networks, image, s, s.Legs[0], tick)
}

// whole are sums (K, size) of which all stay.
func whole(w Window, size [3]int, data []float32) *Sums {
	o := w.Order(size)
	return &Sums{Sweep: o.Whole(1), heads: len(data) / (size[0] * size[1] * size[2]), plane: size[1] * size[2], Data: data}
}

// batches gives the passes of an image in order, w.Batch at a time.
func (w Window) batches(size [3]int) iter.Seq[[]pass] {
	return func(yield func([]pass) bool) {
		o := w.Order(size)
		for b := range o.batches() {
			if !yield(o.of(b)) {
				return
			}
		}
	}
}

func TestGoldenAggregate(t *testing.T) { goldentest.Each(t, "nnunet/sliding", goldenAggregate) }

func goldenAggregate(t *testing.T, root string) {
	var table struct {
		Cases []struct {
			Name     string
			Image    []int `json:"image_shape"`
			Patch    []int
			Heads    int   `json:"num_heads"`
			Mirror   []int `json:"mirror_axes"`
			Gaussian bool
			Step     float64
			Folds    int
			Every    int // of the part: the distance of the voxels that it holds, along every axis
		}
	}
	goldentest.ReadJSON(t, filepath.Join(root, "aggregate.json"), &table)
	arrays := goldentest.ReadArrays(t, filepath.Join(root, "aggregate.safetensors"))
	for _, c := range table.Cases {
		t.Run(c.Name, func(t *testing.T) {
			image := Image{Channels: c.Image[0], Size: [3]int(c.Image[1:])}
			voxels := image.Size[0] * image.Size[1] * image.Size[2]
			state := uint32(123456789)
			for range image.Channels * voxels {
				state = 1664525*state + 1013904223
				image.Data = append(image.Data, float32(float64(state>>8)/(1<<24)*4-2))
			}
			w := Window{Patch: [3]int{1, 1, 1}, Step: c.Step, Uniform: !c.Gaussian, Batch: 3}
			flat := len(c.Patch) == 2
			copy(w.Patch[3-len(c.Patch):], c.Patch)
			for _, axis := range c.Mirror {
				w.Mirror = append(w.Mirror, axis+3-len(c.Patch))
			}
			sum := make([]float32, c.Heads*voxels)
			passes := 0
			for fold := range c.Folds {
				net := &convolution{channels: image.Channels, heads: c.Heads, patch: w.Patch, flat: flat, fold: fold}
				if err := w.all(context.Background(), []Network{net}, image, sum, func(n int) { passes += n }); err != nil {
					t.Fatal(err)
				}
			}
			if want := c.Folds * w.Passes(image.Size); passes != want {
				t.Errorf("%d passes, announced %d", passes, want)
			}
			want := arrays[c.Name+".logits_f64"].Data
			worst, compared := 0.0, 0
			for i := range sum {
				x, y, z := i%image.Size[2], i/image.Size[2]%image.Size[1], i/(image.Size[1]*image.Size[2])%image.Size[0]
				if every := max(1, c.Every); x%every == 0 && y%every == 0 && z%every == 0 && compared < len(want) {
					worst = max(worst, math.Abs(float64(sum[i])/float64(c.Folds)-want[compared]))
					compared++
				}
			}
			if compared == 0 || compared < len(want) || c.Every == 0 && compared < len(sum) {
				t.Fatalf("compared %d of %d scores with %d", compared, len(sum), len(want))
			}
			t.Logf("differs by at most %.2g", worst)
			if !(worst <= 1e-5) {
				t.Errorf("differs by %g, tolerance 1e-5", worst)
			}
		})
	}
}

// ones scores every voxel of class k with k+1.
type ones struct{ heads, size int }

func (o ones) Scores(_ []float32, n int) ([]float32, error) {
	s := make([]float32, n*o.heads*o.size)
	for i := range s {
		s[i] = float32(i/o.size%o.heads + 1)
	}
	return s, nil
}

// Whatever the sizes, each voxel's shares sum to one, so constant scores come back as they are.
func TestAccumulateConstant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w Window
		image := Image{Channels: 1}
		for d := range 3 {
			w.Patch[d] = rapid.IntRange(1, 9).Draw(t, "patch")
			image.Size[d] = rapid.IntRange(1, 14).Draw(t, "size")
			if rapid.Bool().Draw(t, "mirror") {
				w.Mirror = append(w.Mirror, d)
			}
		}
		w.Step = rapid.Float64Range(0.2, 1).Draw(t, "step")
		w.Uniform = rapid.Bool().Draw(t, "uniform")
		w.Batch = rapid.IntRange(0, 5).Draw(t, "batch")
		voxels := image.Size[0] * image.Size[1] * image.Size[2]
		image.Data = make([]float32, voxels)
		sum := make([]float32, 2*voxels)
		net := ones{2, w.Patch[0] * w.Patch[1] * w.Patch[2]}
		if err := w.all(context.Background(), []Network{net}, image, sum, nil); err != nil {
			t.Fatal(err)
		}
		for i, v := range sum {
			// float32 rounds at every pass, of which short steps on small patches make thousands.
			if want := float64(i/voxels + 1); math.Abs(float64(v)-want) > (1e-6+float64(w.Passes(image.Size))/(1<<24))*want {
				t.Fatalf("score %d is %g, want %g", i, v, want)
			}
		}
	})
}

func TestAccumulateStops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	w := Window{Patch: [3]int{2, 2, 2}, Step: 0.5}
	image := Image{Channels: 1, Size: [3]int{6, 6, 6}, Data: make([]float32, 216)}
	calls := 0
	err := w.all(ctx, []Network{ones{1, 8}}, image, make([]float32, 216), func(int) {
		if calls++; calls == 3 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || calls != 3 {
		t.Errorf("error %v after %d calls, want a cancelled context after 3", err, calls)
	}
}
