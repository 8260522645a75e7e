package nn

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"masksam/internal/torch"
)

func do(t *testing.T, fn func(s *torch.Scope) error) {
	t.Helper()
	if err := torch.Do(torch.Mode{}, fn); err != nil {
		t.Fatal(err)
	}
}

// build makes a tree and gives its values by name; the tree is freed.
func build(t *testing.T, seed uint64, make func(b *Builder)) map[string][]float32 {
	t.Helper()
	values := map[string][]float32{}
	do(t, func(s *torch.Scope) error {
		var p Params
		defer p.Free()
		make(NewBuilder(s, &p, torch.CPU, seed, func(string) bool { return true }))
		for _, q := range p.All() {
			values[q.Name] = q.Value.Float32s()
		}
		return nil
	})
	return values
}

// TestBuilderOrder: random values depend on the seed and the name alone.
func TestBuilderOrder(t *testing.T) {
	conv := func(b *Builder) { NewConv2d(b.At("conv"), 2, 3, 3, 1, 1, true) }
	linear := func(b *Builder) { NewLinear(b.At("layers.%d", 4), 3, 2) }
	one := build(t, 7, func(b *Builder) { conv(b); linear(b) })
	other := build(t, 7, func(b *Builder) { linear(b); b.Buffer("more", Normal(1), 5); conv(b) })
	for name, values := range one {
		if !slices.Equal(values, other[name]) {
			t.Errorf("%s is %v and, made in another order, %v", name, values, other[name])
		}
	}
	if len(one) != 4 || len(one["layers.4.weight"]) != 6 {
		t.Errorf("made %v", one)
	}
	if again := build(t, 8, linear); slices.Equal(again["layers.4.weight"], one["layers.4.weight"]) {
		t.Error("two seeds give the same values")
	}
	if slices.Equal(one["layers.4.weight"][:2], one["layers.4.bias"]) {
		t.Error("two names give the same values")
	}
}

func TestParams(t *testing.T) {
	do(t, func(s *torch.Scope) error {
		var p Params
		b := NewBuilder(s, &p, torch.CPU, 1, func(name string) bool { return strings.HasSuffix(name, "weight") })
		NewLinear(b.At("a"), 3, 2)
		b.Buffer("weight", Const(2), 4)
		if all, trained := p.Count(); all != 12 || trained != 6 {
			t.Errorf("%d parameters, %d trained, want 12 and 6", all, trained)
		}
		if got := p.Trainable(); len(got) != 1 || got[0] != p.Lookup("a.weight").Value {
			t.Errorf("trainable are %v", got)
		}
		if p.Lookup("weight").Trainable || p.Lookup("none") != nil || p.All()[2].Name != "weight" {
			t.Error("a buffer trains, or a name is found that nobody made")
		}
		p.Free()
		if len(p.All()) != 0 {
			t.Error("parameters after Free")
		}
		return nil
	})
}

// TestLoad: every parameter of an empty tree is set, with the file's values; what lacks or differs is named.
func TestLoad(t *testing.T) {
	files := map[string][]float32{"a.weight": {1, 2, 3, 4, 5, 6}, "a.bias": {7, 8}, "more": {9}}
	shapes := map[string][]int{"a.weight": {2, 3}, "a.bias": {2}, "more": {1}}
	source := func(name string) ([]float32, []int, error) {
		if files[name] == nil {
			return nil, nil, fs.ErrNotExist
		}
		return files[name], shapes[name], nil
	}
	do(t, func(s *torch.Scope) error {
		var p Params
		defer p.Free()
		l := NewLinear(NewBuilder(s, &p, torch.CPU, 1, func(string) bool { return true }).Empty().At("a"), 3, 2)
		if err := p.Load(source); err != nil {
			return err
		}
		if got := l.Forward(s, s.Float32s(torch.CPU, []float32{1, 0, -1}, 1, 3)).Float32s(); !slices.Equal(got, []float32{5, 6}) {
			t.Errorf("the loaded layer gives %v, want 5 and 6", got)
		}
		shapes["a.bias"] = []int{1, 2}
		if err := p.Load(source); err == nil || !strings.Contains(err.Error(), "a.bias") ||
			!strings.Contains(err.Error(), "[1 2]") || !strings.Contains(err.Error(), "[2]") {
			t.Errorf("another shape: %v", err)
		}
		delete(files, "a.bias")
		if err := p.Load(source); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "a.bias") {
			t.Errorf("a missing tensor: %v", err)
		}
		return nil
	})
}

// TestInits: the bounds and spreads that the initial values promise.
func TestInits(t *testing.T) {
	const n = 20000
	values := build(t, 3, func(b *Builder) {
		b.Param("normal", Normal(0.02), n)
		b.Param("fan", FanIn(25), n)
		b.Param("he", He(50, 0.01), n)
		b.Param("const", Const(3), 2)
	})
	spread := func(v []float32) float64 {
		sum := 0.0
		for _, x := range v {
			sum += float64(x) * float64(x)
		}
		return math.Sqrt(sum / float64(len(v)))
	}
	for name, want := range map[string]float64{"normal": 0.02, "fan": 0.2 / math.Sqrt(3), "he": math.Sqrt(2 / (1.0001 * 50)), "const": 3} {
		if got := spread(values[name]); math.Abs(got/want-1) > 0.03 {
			t.Errorf("%s has the spread %v, want %v", name, got, want)
		}
	}
	if lo, hi := slices.Min(values["fan"]), slices.Max(values["fan"]); lo < -0.2 || hi > 0.2 {
		t.Errorf("FanIn(25) gives %v to %v, want within 0.2", lo, hi)
	}
}

// TestBlock: parameters are named as nnU-Net's StackedConvBlocks, and a block is convolution, norm, activation.
func TestBlock(t *testing.T) {
	do(t, func(s *torch.Scope) error {
		var p Params
		defer p.Free()
		b := NewBuilder(s, &p, torch.CPU, 1, func(string) bool { return true })
		blk := NewBlock(b.At("stage"), 1, 2, BlockOptions{Kernel: [3]int{1, 1, 1}, Repeat: 2, Eps: 1e-5, Slope: 0.5})
		var names []string
		for _, q := range p.All() {
			names = append(names, fmt.Sprint(q.Name, q.Value.Shape()))
		}
		if diff := cmp.Diff([]string{
			"stage.convs.0.conv.weight[2 1 1 1 1]", "stage.convs.0.conv.bias[2]", "stage.convs.0.norm.weight[2]", "stage.convs.0.norm.bias[2]",
			"stage.convs.1.conv.weight[2 2 1 1 1]", "stage.convs.1.conv.bias[2]", "stage.convs.1.norm.weight[2]", "stage.convs.1.norm.bias[2]",
		}, names); diff != "" {
			t.Error(diff)
		}
		p.Lookup("stage.convs.0.conv.weight").Value.CopyFrom32([]float32{3, -3})
		p.Lookup("stage.convs.1.conv.weight").Value.CopyFrom32([]float32{1, 0, 0, 1})
		// ±1 after the first norm, whatever the scale; leaky ReLU makes 1 and -½ of it, which the second norm makes ±1
		// again.
		got := blk.Forward(s, s.Float32s(torch.CPU, []float32{10, 20, 10, 20}, 1, 1, 1, 2, 2)).Float32s()
		for i, want := range []float32{-0.5, 1, -0.5, 1, 1, -0.5, 1, -0.5} {
			if math.Abs(float64(got[i]-want)) > 1e-3 {
				t.Errorf("value %d is %v, want %v", i, got[i], want)
			}
		}
		return nil
	})
}

// TestConvs: output sizes, and values of the transposed convolution, whose windows do not overlap.
func TestConvs(t *testing.T) {
	do(t, func(s *torch.Scope) error {
		var p Params
		defer p.Free()
		b := NewBuilder(s, &p, torch.CPU, 1, func(string) bool { return true })
		flat, deep := s.Float32s(torch.CPU, make([]float32, 2*6*8), 1, 2, 6, 8), s.Float32s(torch.CPU,
			make([]float32, 2*3*4*5), 1, 2, 3, 4, 5)
		for name, c := range map[string]struct {
			got  *torch.Tensor
			want []int
		}{
			"stride": {NewConv2d(b.At("1"), 2, 5, 2, 2, 0, true).Forward(s, flat), []int{1, 5, 3, 4}},
			"same":   {NewConv3d(b.At("2"), 2, 5, [3]int{1, 3, 5}, false, FanIn).Forward(s, deep), []int{1, 5, 3, 4, 5}},
			"up":     {NewUp3d(b.At("3"), 2, 5).Forward(s, deep), []int{1, 5, 3, 8, 10}},
			"up 2-D": {NewUp2d(b.At("4"), 2, 5).Forward(s, flat), []int{1, 5, 12, 16}},
		} {
			if diff := cmp.Diff(c.want, c.got.Shape()); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
		up := NewUp2d(b.At("5"), 1, 1)
		up.W.CopyFrom32([]float32{1, 2, 3, 4})
		up.B.CopyFrom32([]float32{0.5})
		got := up.Forward(s, s.Float32s(torch.CPU, []float32{1, 10}, 1, 1, 1, 2)).Float32s()
		if want := []float32{1.5, 2.5, 10.5, 20.5, 3.5, 4.5, 30.5, 40.5}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		return nil
	})
}
