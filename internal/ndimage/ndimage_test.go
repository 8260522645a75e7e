package ndimage

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func noise(n int, seed uint64) []float32 {
	rng := rand.New(rand.NewPCG(seed, 2))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(rng.NormFloat64())
	}
	return out
}

func voxels(size [3]int) int { return size[0] * size[1] * size[2] }

func drawSize(t *rapid.T, name string) [3]int {
	edge := rapid.IntRange(1, 9)
	return [3]int{edge.Draw(t, name), edge.Draw(t, name), edge.Draw(t, name)}
}

// direct evaluates the interpolation as it is defined: every axis's line is prefiltered over 12 voxels of padding with
// the mirrored start of scipy.ndimage, and every result is a sum over its whole neighbourhood.
func direct(src []float32, from, to [3]int, order int) []float64 {
	const pad = 12
	padded := [3]int{from[0] + 2*pad, from[1] + 2*pad, from[2] + 2*pad}
	c := make([]float64, voxels(padded))
	clamp := func(i, n int) int { return min(max(i, 0), n-1) }
	at := func(i, j, k int) int { return (i*padded[1]+j)*padded[2] + k }
	for i := range padded[0] {
		for j := range padded[1] {
			for k := range padded[2] {
				z, y, x := clamp(i-pad, from[0]), clamp(j-pad, from[1]), clamp(k-pad, from[2])
				c[at(i, j, k)] = float64(src[(z*from[1]+y)*from[2]+x])
			}
		}
	}
	if order == 3 {
		stride := [3]int{padded[1] * padded[2], padded[2], 1}
		for a := range 3 {
			for i := range c {
				if i/stride[a]%padded[a] == 0 {
					spline(c[i:], padded[a], stride[a])
				}
			}
		}
	}
	out := make([]float64, 0, voxels(to))
	weights := func(k, n, m int) (int, []float64) {
		at := (float64(k)+0.5)*(float64(n)/float64(m)) - 0.5
		base := math.Floor(at)
		x := at - base
		y := 1 - x
		switch order {
		case 0:
			return int(math.Floor(at+0.5)) + pad, []float64{1}
		case 1:
			return int(base) + pad, []float64{y, 1 - y}
		}
		w := []float64{y * y * y / 6, (3*x*x*(x-2) + 4) / 6, (3*y*y*(y-2) + 4) / 6, 0}
		w[3] = 1 - w[0] - w[1] - w[2]
		return int(base) - 1 + pad, w
	}
	for i := range to[0] {
		z0, wz := weights(i, from[0], to[0])
		for j := range to[1] {
			y0, wy := weights(j, from[1], to[1])
			for k := range to[2] {
				x0, wx := weights(k, from[2], to[2])
				sum := 0.0
				for a := range wz {
					for b := range wy {
						for d := range wx {
							sum += c[at(z0+a, y0+b, x0+d)] * wz[a] * wy[b] * wx[d]
						}
					}
				}
				out = append(out, sum)
			}
		}
	}
	lo, hi := bounds(src)
	for i := range out {
		out[i] = min(max(out[i], float64(lo)), float64(hi))
	}
	return out
}

// spline is the prefilter of scipy.ndimage over one line, with mode "reflect".
func spline(c []float64, n, stride int) {
	z := pole
	for i := range n {
		c[i*stride] *= 6
	}
	zn := math.Pow(z, float64(n))
	first, zi := c[0], z
	sum := first + zn*c[(n-1)*stride]
	for i := 1; i < n; i++ {
		sum += zi * (c[i*stride] + zn*c[(n-1-i)*stride])
		zi *= z
	}
	c[0] = first + sum*z/(1-zn*zn)
	for i := 1; i < n; i++ {
		c[i*stride] += z * c[(i-1)*stride]
	}
	c[(n-1)*stride] *= z / (z - 1)
	for i := n - 2; i >= 0; i-- {
		c[i*stride] = z * (c[(i+1)*stride] - c[i*stride])
	}
}

func TestResizeAgainstDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := drawSize(t, "from"), drawSize(t, "to")
		order := rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "order")
		src := noise(voxels(from), rapid.Uint64().Draw(t, "seed"))
		got := make([]float32, voxels(to))
		Resize(got, src, from, to, Method{Order: order, Workers: rapid.IntRange(0, 3).Draw(t, "workers")})
		if from == to {
			if !slices.Equal(got, src) {
				t.Fatal("equal sizes changed the image")
			}
			return
		}
		for i, want := range direct(src, from, to, order) {
			if math.Abs(float64(got[i])-want) > 1e-6 {
				t.Fatalf("%v to %v, order %d: voxel %d is %v, want %v", from, to, order, i, got[i], want)
			}
		}
	})
}

func drawMethod(t *rapid.T) Method {
	order := rapid.SampledFrom([]int{0, 1, 3})
	m := Method{
		Order: order.Draw(t, "order"), OrderZ: order.Draw(t, "order_z"), Separate: rapid.Bool().Draw(t, "separate"),
		Axis: rapid.IntRange(0, 2).Draw(t, "axis"), Workers: rapid.IntRange(0, 3).Draw(t, "workers"),
		Torch: rapid.Bool().Draw(t, "torch"), Labels: Vote(rapid.IntRange(0, 2).Draw(t, "labels")),
	}
	if m.Torch {
		m.Order, m.OrderZ = 1, 0
	}
	return m
}

// permute turns an array so that axis a of the result is axis order[a] of the source.
func permute[T any](v []T, size, order [3]int) []T {
	stride := [3]int{size[1] * size[2], size[2], 1}
	out := make([]T, 0, len(v))
	for z := range size[order[0]] {
		for y := range size[order[1]] {
			for x := range size[order[2]] {
				out = append(out, v[z*stride[order[0]]+y*stride[order[1]]+x*stride[order[2]]])
			}
		}
	}
	return out
}

// turned gives two sizes and a method in another order of the axes.
func turned(from, to [3]int, m Method, order [3]int) ([3]int, [3]int, Method) {
	var f, g [3]int
	for a, o := range order {
		f[a], g[a] = from[o], to[o]
	}
	m.Axis = slices.Index(order[:], m.Axis)
	return f, g, m
}

var orders = [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}

func TestResizeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to, m := drawSize(t, "from"), drawSize(t, "to"), drawMethod(t)
		src := noise(voxels(from), rapid.Uint64().Draw(t, "seed"))
		got := make([]float32, voxels(to))
		Resize(got, src, from, to, m)

		if !m.Torch && (!m.Separate || m.OrderZ == 0 || from[m.Axis] == to[m.Axis]) { // along the axis nothing is clipped
			lo, hi := bounds(src)
			if l, h := bounds(got); l < lo || h > hi {
				t.Fatalf("[%v, %v] became [%v, %v]", lo, hi, l, h)
			}
		}

		again, other := make([]float32, len(got)), m
		other.Workers = (m.Workers + 1) % 4
		Resize(again, src, from, to, other)
		if !slices.Equal(again, got) {
			t.Fatal("the number of workers changed the result")
		}

		order := rapid.SampledFrom(orders).Draw(t, "axes")
		f, g, n := turned(from, to, m, order)
		Resize(again, permute(src, from, order), f, g, n)
		for i, want := range permute(got, to, order) {
			if math.Abs(float64(again[i]-want)) > 1e-6 {
				t.Fatalf("axes %v: voxel %d is %v, want %v", order, i, again[i], want)
			}
		}

		for i := range src {
			src[i] = 1000.1
		}
		Resize(got, src, from, to, m)
		for i, v := range got {
			if math.Abs(float64(v-src[0])) > 2e-4 { // a step of float32 here is 6e-5, and Torch's weights add up to 1 ± 3e-8
				t.Fatalf("voxel %d of a constant is %v", i, v)
			}
		}
	})
}

// Slices made some at a time, of their sources alone, are those of the whole, to the last bit, for every method; where no
// spline is involved, a slice has two sources at most.
func TestSlices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to, m := drawSize(t, "from"), drawSize(t, "to"), drawMethod(t)
		if rapid.Bool().Draw(t, "same slices") {
			to[0] = from[0]
		}
		src := noise(voxels(from), rapid.Uint64().Draw(t, "seed"))
		want, got := make([]float32, voxels(to)), make([]float32, 0, voxels(to))
		Resize(want, src, from, to, m)
		sources := Sources(from, to, m)
		if len(sources) != to[0] || sources[to[0]-1][1] > from[0] {
			t.Fatalf("sources %v of %v for %v", sources, from, to)
		}
		plane := voxels(from) / from[0]
		for lo := 0; lo < to[0]; {
			hi := rapid.IntRange(lo+1, to[0]).Draw(t, "hi")
			first, end := sources[lo][0], sources[hi-1][1]
			if m.Order < 3 && m.OrderZ < 3 && hi == lo+1 && end-first > 2 {
				t.Fatalf("slice %d is made of %d slices", lo, end-first)
			}
			part := make([]float32, voxels(to)/to[0]*(hi-lo))
			ResizeSlices(part, slices.Clone(src[first*plane:end*plane]), from, to, m, lo, hi)
			got, lo = append(got, part...), hi
		}
		for i, v := range got {
			if math.Float32bits(v) != math.Float32bits(want[i]) {
				t.Fatalf("%+v from %v to %v: voxel %d is %v, in the whole %v", m, from, to, i, v, want[i])
			}
		}
	})
}

// Sizes are doubled or kept, so that ties are many and the weights exact, in whatever order they are added.
func TestLabelProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, m := drawSize(t, "from"), drawMethod(t)
		m.Order, m.OrderZ = min(m.Order, 1), min(m.OrderZ, 1)
		to := from
		for a := range to {
			to[a] *= rapid.IntRange(1, 2).Draw(t, "factor")
		}
		src := rapid.SliceOfN(rapid.Int16Range(-1, 3), voxels(from), voxels(from)).Draw(t, "labels")
		got := make([]int16, voxels(to))
		ResizeLabels(got, src, from, to, m)
		for i, v := range got {
			if v != 0 && !slices.Contains(src, v) {
				t.Fatalf("voxel %d has label %d, which was not there", i, v)
			}
		}

		order := rapid.SampledFrom(orders).Draw(t, "axes")
		f, g, n := turned(from, to, m, order)
		n.Workers = (m.Workers + 1) % 4
		again := make([]int16, len(got))
		ResizeLabels(again, permute(src, from, order), f, g, n)
		if want := permute(got, to, order); !slices.Equal(again, want) {
			t.Fatalf("axes %v: %v, want %v", order, again, want)
		}

		for i := range src {
			src[i] = -1
		}
		ResizeLabels(got, src, from, to, m)
		if slices.ContainsFunc(got, func(v int16) bool { return v != -1 }) {
			t.Fatalf("a constant became %v", got)
		}
	})
}

// Slices on their own: each is what it would be alone.
func TestSeparateSlices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := drawSize(t, "from"), drawSize(t, "to")
		axis := rapid.IntRange(0, 2).Draw(t, "axis")
		order := rapid.SampledFrom([]int{1, 3}).Draw(t, "order")
		src := noise(voxels(from), rapid.Uint64().Draw(t, "seed"))
		got := make([]float32, voxels(to))
		Resize(got, src, from, to, Method{Order: order, Separate: true, Axis: axis})
		if from == to {
			return
		}
		nearest := Method{}.taps(from[axis], to[axis], 0)
		alone, result := from, to
		alone[axis], result[axis] = 1, 1
		for k := range to[axis] {
			slice := pick(src, from, axis, nearest.first[k])
			want := make([]float32, voxels(result))
			Resize(want, slice, alone, result, Method{Order: order})
			for i, v := range pick(got, to, axis, k) {
				if math.Abs(float64(v-want[i])) > 1e-6 {
					t.Fatalf("axis %d, slice %d, voxel %d: %v, want %v", axis, k, i, v, want[i])
				}
			}
		}
	})
}

// pick takes slice k across an axis.
func pick[T any](v []T, size [3]int, axis, k int) (out []T) {
	stride := 1
	for a := axis + 1; a < 3; a++ {
		stride *= size[a]
	}
	for i := range v {
		if i/stride%size[axis] == k {
			out = append(out, v[i])
		}
	}
	return out
}

// The label of a voxel is the largest whose resized mask reaches one half.
func TestLabelsAgainstMasks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := drawSize(t, "from"), drawSize(t, "to")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
		src := make([]int16, voxels(from))
		for i := range src {
			src[i] = int16(rng.IntN(4)) - 1
		}
		got := make([]int16, voxels(to))
		ResizeLabels(got, src, from, to, Method{Order: 1, Workers: 2})
		if from == to {
			return
		}
		want := make([]int16, voxels(to))
		for _, label := range []int16{-1, 0, 1, 2} {
			mask := make([]float32, len(src))
			for i, v := range src {
				if v == label {
					mask[i] = 1
				}
			}
			for i, v := range direct(mask, from, to, 1) {
				if v >= 0.5 {
					want[i] = label
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v to %v: %v, want %v", from, to, got, want)
		}
	})
}

func TestFillHoles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := drawSize(t, "size")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 4))
		share := rapid.Float64Range(0.2, 0.9).Draw(t, "share")
		mask := make([]bool, voxels(size))
		for i := range mask {
			mask[i] = rng.Float64() < share
		}
		want := reachable(mask, size)
		FillHoles(mask, size)
		if !slices.Equal(mask, want) {
			t.Fatalf("got %v, want %v", mask, want)
		}
	})
}

// reachable spreads from the border until nothing changes; what it misses is set.
func reachable(mask []bool, size [3]int) []bool {
	out := make([]bool, len(mask))
	for i := range out {
		out[i] = true
	}
	for changed := true; changed; {
		changed = false
		for i := range out {
			z, y, x := i/(size[1]*size[2]), i/size[2]%size[1], i%size[2]
			if mask[i] || !out[i] {
				continue
			}
			free := z == 0 || y == 0 || x == 0 || z == size[0]-1 || y == size[1]-1 || x == size[2]-1
			for _, j := range []int{i - size[1]*size[2], i + size[1]*size[2], i - size[2], i + size[2], i - 1, i + 1} {
				free = free || !out[j]
			}
			if free {
				out[i], changed = false, true
			}
		}
	}
	return out
}

func TestNonzeroBox(t *testing.T) {
	size := [3]int{3, 4, 5}
	a, b := make([]float32, 60), make([]float32, 60)
	a[1*20+2*5+3] = 1
	b[2*20+1*5+1] = -1
	box := NonzeroBox([][]float32{a, b}, size)
	if box.Lo != [3]int{1, 1, 1} || box.Hi != [3]int{3, 3, 4} {
		t.Errorf("box %v", box)
	}
}

func benchmarkResize(b *testing.B, workers int) {
	from, to := [3]int{128, 256, 256}, [3]int{160, 320, 320}
	src, dst := noise(voxels(from), 1), make([]float32, voxels(to))
	for b.Loop() {
		Resize(dst, src, from, to, Method{Order: 3, Workers: workers})
	}
}

func BenchmarkResizeCubic(b *testing.B)         { benchmarkResize(b, 1) }
func BenchmarkResizeCubicParallel(b *testing.B) { benchmarkResize(b, 2) }

func BenchmarkResizeLabels(b *testing.B) {
	from, to := [3]int{128, 256, 256}, [3]int{160, 320, 320}
	src, dst := make([]int16, voxels(from)), make([]int16, voxels(to))
	for i := range src { // balls of labels
		z, y, x := i>>16-64, i>>8&255-128, i&255-128
		src[i] = int16(math.Sqrt(float64(4*z*z+y*y+x*x)) / 30)
	}
	for b.Loop() {
		ResizeLabels(dst, src, from, to, Method{Order: 1})
	}
}

func BenchmarkNonzero(b *testing.B) {
	size := [3]int{128, 256, 256}
	src := noise(voxels(size), 1)
	for i := range src {
		if y := i >> 8 & 255; y < 40 || i%7 == 0 {
			src[i] = 0
		}
	}
	for b.Loop() {
		Nonzero([][]float32{src}, size)
	}
}
