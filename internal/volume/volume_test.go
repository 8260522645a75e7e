package volume_test

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/volume"
)

func grid(t *rapid.T) volume.Grid {
	size := [3]int{rapid.IntRange(1, 5).Draw(t, "z"), rapid.IntRange(1, 5).Draw(t, "y"), rapid.IntRange(1, 5).Draw(t, "x")}
	mm := rapid.Float64Range(0.1, 10)
	g := volume.NewGrid(size, [3]float64{mm.Draw(t, "sz"), mm.Draw(t, "sy"), mm.Draw(t, "sx")})
	angle := rapid.Float64Range(-3, 3).Draw(t, "angle")
	sin, cos := math.Sincos(angle)
	for axis := range 3 {
		a, b := g.Affine[0][axis], g.Affine[1][axis]
		g.Affine[0][axis], g.Affine[1][axis] = cos*a-sin*b, sin*a+cos*b
		g.Affine[axis][3] = rapid.Float64Range(-100, 100).Draw(t, "origin")
	}
	return g
}

func box(t *rapid.T, size [3]int) volume.Box {
	var b volume.Box
	for a := range 3 {
		b.Lo[a] = rapid.IntRange(0, size[a]).Draw(t, "lo")
		b.Hi[a] = rapid.IntRange(b.Lo[a], size[a]).Draw(t, "hi")
	}
	return b
}

func TestCropPaste(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := grid(t)
		b := box(t, g.Size)
		if !b.In(g.Size) {
			t.Fatalf("%v not in %v", b, g.Size)
		}
		data := make([]float32, g.Len())
		for i := range data {
			data[i] = float32(i)
		}
		v := &volume.Volume{Grid: g, Data: data}
		c := v.Crop(b)
		if c.Size != b.Size() || len(c.Data) != b.Len() {
			t.Fatalf("crop of %v has size %v and %d voxels", b, c.Size, len(c.Data))
		}
		// A voxel keeps its value and its place in space.
		for z := range c.Size[0] {
			for y := range c.Size[1] {
				for x := range c.Size[2] {
					oz, oy, ox := z+b.Lo[0], y+b.Lo[1], x+b.Lo[2]
					if c.At(z, y, x) != v.At(oz, oy, ox) {
						t.Fatalf("voxel %d %d %d of the crop is %v", z, y, x, c.At(z, y, x))
					}
					for row := range 3 {
						here := place(c.Grid, row, z, y, x)
						if there := place(g, row, oz, oy, ox); math.Abs(here-there) > 1e-9 {
							t.Fatalf("voxel moves from %v to %v", there, here)
						}
					}
				}
			}
		}
		empty := make([]float32, len(data))
		volume.Paste(empty, g.Size, b.Lo, c.Data, b.Size(), [3]int{0, 1, 2})
		if !slices.Equal(volume.Crop(empty, g.Size, b), c.Data) {
			t.Fatal("Crop after Paste differs")
		}
		sum := 0
		for _, v := range empty {
			if v != 0 {
				sum++
			}
		}
		if sum > b.Len() {
			t.Fatal("Paste wrote outside its box")
		}
	})
}

func place(g volume.Grid, row, z, y, x int) float64 {
	return g.Affine[row][0]*float64(x) + g.Affine[row][1]*float64(y) + g.Affine[row][2]*float64(z) + g.Affine[row][3]
}

func TestITKAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := grid(t)
		spacing, origin, direction := g.ITK()
		for axis := range 3 {
			if n := math.Hypot(math.Hypot(direction[axis], direction[3+axis]), direction[6+axis]); math.Abs(n-1) > 1e-12 {
				t.Fatalf("axis %d of %v has length %v", axis, direction, n)
			}
		}
		back := volume.FromITK(g.Size, spacing, origin, direction)
		if !back.SameGrid(g) || !back.SameFrame(g) {
			t.Fatalf("%v, want %v", back, g)
		}
	})
}

func TestSame(t *testing.T) {
	a := volume.NewGrid([3]int{1, 2, 3}, [3]float64{3, 1, 2})
	near, far, size, moved := a, a, a, a
	near.Spacing[0] *= 1 + 0.9e-5
	far.Spacing[0] *= 1 + 1.1e-5
	size.Size[0] = 2
	moved.Affine[0][3] = 1
	if !a.SameGrid(a) || !near.SameGrid(a) || far.SameGrid(a) || size.SameGrid(a) || !moved.SameGrid(a) {
		t.Error("SameGrid")
	}
	if !a.SameFrame(a) || moved.SameFrame(a) {
		t.Error("SameFrame")
	}
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		a, b float64
		want bool
	}{{1, 1, true}, {0, 1e-8, true}, {0, 1.1e-8, false}, {1e9, 1e9 + 9e3, true}, {nan, nan, false}, {inf, inf,
		true}, {1, inf, false}, {inf, 1, false}} {
		if got := volume.AllClose([]float64{c.a}, []float64{c.b}); got != c.want {
			t.Errorf("AllClose(%v, %v) = %v", c.a, c.b, got)
		}
	}
	if volume.AllClose([]float64{1}, nil) {
		t.Error("lists of unequal length are close")
	}
}

func TestBoxIn(t *testing.T) {
	size := [3]int{2, 2, 2}
	for _, b := range []volume.Box{
		{Lo: [3]int{-1, 0, 0}, Hi: [3]int{1, 1, 1}}, {Hi: [3]int{3, 1, 1}}, {Lo: [3]int{1, 0, 0}, Hi: [3]int{0, 1, 1}},
	} {
		if b.In(size) {
			t.Errorf("%v lies in %v", b, size)
		}
	}
}
