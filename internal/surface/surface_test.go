package surface_test

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/goldentest"
	"masksam/internal/surface"
)

// TestGolden compares with what three public packages gave (golden surface): every figure of each.
func TestGolden(t *testing.T) {
	type values = map[string]any
	var golden struct {
		Cases []struct {
			Name            string
			Spacing         [3]float64
			SurfaceDistance values `json:"surface_distance"`
			MONAI, MedPy    values
		}
		Spheres []map[string]any `json:"spheres_99"`
	}
	goldentest.JSON(t, "nnunet/surface/surface.json", &golden)
	masks := goldentest.Arrays(t, "nnunet/surface/surface.safetensors")
	for _, c := range golden.Cases {
		t.Run(c.Name, func(t *testing.T) {
			p := pair(masks[c.Name+".gt"].Size(), c.Spacing, masks[c.Name+".gt"].Data, masks[c.Name+".pred"].Data)
			voxels, surfels := p.Boundaries(), p.Surfels()
			check := func(what string, got float64, want any, tol float64) {
				t.Helper()
				if w := number(t, want); !same(got, w, tol) {
					t.Errorf("%s is %v, not %v", what, got, w)
				}
			}
			bothEmpty := len(voxels.ToPrediction)+len(voxels.ToReference) == 0
			oneEmpty := !bothEmpty && len(voxels.ToPrediction)*len(voxels.ToReference) == 0

			d := c.SurfaceDistance
			check("asd_gt_to_pred", average(surfels.ToPrediction), d["asd_gt_to_pred"], 1e-6)
			check("asd_pred_to_gt", average(surfels.ToReference), d["asd_pred_to_gt"], 1e-6)
			check("surface_area_gt", area(surfels.ToPrediction), d["surface_area_gt"], 1e-6)
			check("surface_area_pred", area(surfels.ToReference), d["surface_area_pred"], 1e-6)
			for tolerance, want := range d["nsd"].(map[string]any) {
				check("nsd at "+tolerance, surfels.Dice(number(t, tolerance)), want, 1e-6)
			}
			overlap := d["surface_overlap_1"].(map[string]any)
			check("surface_overlap_1.gt", share(surfels.ToPrediction, 1), overlap["gt"], 1e-6)
			check("surface_overlap_1.pred", share(surfels.ToReference, 1), overlap["pred"], 1e-6)
			if !bothEmpty { // infinite there, here not defined
				check("hd100", surfels.Hausdorff(), d["hd100"], 1e-6)
				check("hd95", max(weighted(surfels.ToPrediction, 0.95), weighted(surfels.ToReference, 0.95)), d["hd95"], 1e-6)
			}

			m := c.MONAI
			check("MONAI's hd", voxels.Hausdorff(), m["hd"], 1e-6)
			check("MONAI's assd", voxels.Average(), m["assd"], 1e-6)
			if oneEmpty { // MONAI's hd95 is then NaN, its directed figures infinite both ways
				if got := voxels.Percentile(95); !math.IsInf(got, 1) {
					t.Errorf("hd95 with one empty mask is %v", got)
				}
			} else {
				check("MONAI's hd95", voxels.Percentile(95), m["hd95"], 1e-6)
				check("MONAI's asd_pred_to_gt", average(voxels.ToReference), m["asd_pred_to_gt"], 1e-6)
				one := surface.Distances{ToReference: voxels.ToReference}
				check("MONAI's hd_directed", one.Hausdorff(), m["hd_directed_pred_to_gt"], 1e-6)
			}
			for tolerance, want := range m["surface_dice"].(map[string]any) {
				check("MONAI's surface_dice at "+tolerance, voxels.Dice(number(t, tolerance)), want, 1e-6)
			}

			if m = c.MedPy; m["error"] != nil {
				return
			}
			check("MedPy's hd", voxels.Hausdorff(), m["hd"], 1e-6)
			check("MedPy's assd", voxels.Average(), m["assd"], 1e-6)
			check("MedPy's asd", average(voxels.ToReference), m["asd_pred_to_gt"], 1e-6)
			check("MedPy's hd95", together(voxels).Percentile(95), m["hd95"], 1e-6)
		})
	}
	for i, centres := range [][2][4]float64{{{20, 20, 20, 20}, {20, 19, 19, 19}}, {{20, 20, 33, 22}, {40, 20, 33, 22}},
		{{20, 20, 20, 20}, {20, 19, 19, 19}}} {
		w := golden.Spheres[i]
		var spacing [3]float64
		for a, s := range w["spacing"].([]any) {
			spacing[a] = number(t, s)
		}
		p := surface.Pair{Size: [3]int{99, 99, 99}, Spacing: spacing, Flat: -1, Set: make([]uint8, 99*99*99)}
		ball(&p, surface.Prediction, centres[0])
		ball(&p, surface.Reference, centres[1])
		d := p.Boundaries()
		directed := surface.Distances{ToReference: d.ToReference}
		for key, got := range map[string]float64{"hd": d.Hausdorff(), "hd95": d.Percentile(95), "assd": d.Average(),
			"hd_directed": directed.Hausdorff(), "hd95_directed": directed.Percentile(95),
			"medpy_hd95": together(d).Percentile(95), "medpy_assd": d.Average()} {
			if want := number(t, w[key]); !same(got, want, 1e-6) {
				t.Errorf("%v: %s is %v, not %v", w["what"], key, got, want)
			}
		}
	}
}

// TestAreas compares the areas of all 256 cubes, and the lengths of all 16 squares of a picture, with surface-distance's
// tables.
func TestAreas(t *testing.T) {
	arrays := goldentest.Arrays(t, "nnunet/surface/surface.safetensors")
	code := func(bits int, kernel []float64) (set []uint8) {
		for _, k := range kernel {
			if bits&int(k) != 0 {
				set = append(set, surface.Reference)
			} else {
				set = append(set, 0)
			}
		}
		return set
	}
	for name, spacing := range map[string][3]float64{"area_256_spacing_1_1_1": {1, 1, 1}, "area_256_spacing_2_1_1": {2, 1, 1},
		"area_256_spacing_1.5_1_0.8": {1.5, 1, 0.8}, "area_256_spacing_3_1_2": {3, 1, 2}} {
		table := surface.Areas(spacing)
		for bits, want := range arrays[name].Data {
			at := 0
			for i, set := range code(bits, arrays["kernel3d"].Data) {
				at |= int(set) << i
			}
			if !same(table[at], want, 1e-12) {
				t.Errorf("%s: the area of code %d is %v, not %v", name, bits, table[at], want)
			}
		}
	}
	table := surface.Areas([3]float64{1, 1, 1}) // of a picture each plane is twice there
	for bits, want := range arrays["length_16_spacing_1_1"].Data {
		at := 0
		for i, set := range code(bits, []float64{8, 4, 2, 1}) {
			at |= int(set) * 0b10001 << i
		}
		if !same(table[at], want, 1e-12) {
			t.Errorf("the length of code %d is %v, not %v", bits, table[at], want)
		}
	}
}

// TestClosedForms has masks whose figures can be told without a program.
func TestClosedForms(t *testing.T) {
	for _, c := range []struct {
		name           string
		size           [3]int
		spacing        [3]float64
		ref, pred      func(z, y, x int) bool
		hd, hd95, assd float64
		tolerance, nsd float64
	}{
		{name: "two voxels 2 mm apart", size: [3]int{5, 5, 5}, spacing: [3]float64{1, 1, 2},
			ref: at(2, 2, 2), pred: at(2, 2, 3), hd: 2, hd95: 2, assd: 2, tolerance: 2, nsd: 1},
		// Of a voxel's eight corners four lie on the other's side: half of the area is at distance 0, half at 2.
		{name: "two voxels 2 mm apart, within 1 mm", size: [3]int{5, 5, 5}, spacing: [3]float64{1, 1, 2},
			ref: at(2, 2, 2), pred: at(2, 2, 3), hd: 2, hd95: 2, assd: 2, tolerance: 1, nsd: 0.5},
		// A cube of 5³ has 98 boundary voxels. After a step of one along x the 25 of the face behind and the 9 within the
		// face in front lie 1 from the other's boundary, the others on it.
		{name: "a cube moved by one", size: [3]int{9, 9, 9}, spacing: [3]float64{1, 1, 1},
			ref: box(2, 2, 2, 5), pred: box(2, 2, 3, 5), hd: 1, hd95: 1, assd: (9 + 25) / 98.0, tolerance: 1, nsd: 1},
		{name: "a cube far away", size: [3]int{4, 4, 40}, spacing: [3]float64{1, 1, 0.5},
			ref: box(1, 1, 1, 1), pred: box(1, 1, 31, 1), hd: 15, hd95: 15, assd: 15, tolerance: 14, nsd: 0},
		{name: "a picture: squares moved by one", size: [3]int{1, 9, 9}, spacing: [3]float64{7, 1, 1},
			ref: box(0, 2, 2, 5), pred: box(0, 2, 3, 5), hd: 1, hd95: 1, assd: (3 + 5) / 16.0, tolerance: 1, nsd: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := formula(c.size, c.spacing, c.ref, c.pred)
			d := p.Boundaries()
			for what, v := range map[string][2]float64{"HD": {d.Hausdorff(), c.hd}, "HD95": {d.Percentile(95), c.hd95},
				"ASSD": {d.Average(), c.assd}, "NSD": {p.Surfels().Dice(c.tolerance), c.nsd}} {
				if !same(v[0], v[1], 1e-12) {
					t.Errorf("%s is %v, not %v", what, v[0], v[1])
				}
			}
		})
	}
}

// TestBalls: of two concentric balls every surface point lies as far from the other as the radii differ, up to the voxels'
// size, and the area is that of the sphere.
func TestBalls(t *testing.T) {
	p := surface.Pair{Size: [3]int{64, 80, 64}, Spacing: [3]float64{1, 0.8, 1}, Flat: -1, Set: make([]uint8, 64*80*64)}
	ball(&p, surface.Reference, [4]float64{20, 31, 31, 31})
	ball(&p, surface.Prediction, [4]float64{26, 31, 31, 31})
	d := p.Boundaries()
	for what, got := range map[string]float64{"HD": d.Hausdorff(), "HD95": d.Percentile(95), "ASSD": d.Average()} {
		if math.Abs(got-6) > 0.9 {
			t.Errorf("%s of balls whose radii differ by 6 is %v", what, got)
		}
	}
	s := p.Surfels()
	if got, want := area(s.ToPrediction), 4*math.Pi*400; math.Abs(got/want-1) > 0.1 {
		t.Errorf("the area of a ball of radius 20 is %v, not about %v", got, want)
	}
	if s.Dice(4) != 0 || s.Dice(7.5) != 1 {
		t.Errorf("surface Dice is %v at 4 mm and %v at 7.5 mm", s.Dice(4), s.Dice(7.5))
	}
}

// TestProperties compares small masks with a search over all pairs of elements, and holds what every pair of masks must
// fulfil.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		surface.SetPatience(rapid.SampledFrom([]int{8, 0}).Draw(t, "patience"))
		defer surface.SetPatience(8)
		var p surface.Pair
		p.Flat = -1
		for a := range p.Size {
			p.Size[a] = rapid.IntRange(1, 6).Draw(t, "size")
			p.Spacing[a] = rapid.SampledFrom([]float64{0.5, 0.7, 1, 1.3, 3, 5}).Draw(t, "spacing")
			if p.Size[a] == 1 && p.Flat < 0 {
				p.Flat = a
			}
		}
		n := p.Size[0] * p.Size[1] * p.Size[2]
		p.Set = rapid.SliceOfN(rapid.SampledFrom([]uint8{0, 0, 1, 2, 3, 3}), n, n).Draw(t, "set")
		swapped, equal := p, p
		swapped.Set, equal.Set = make([]uint8, n), make([]uint8, n)
		for i, s := range p.Set {
			swapped.Set[i], equal.Set[i] = s>>1|s&1<<1, s&1*3
		}
		tolerances := []float64{0, 0.5, 1, 2, 4, 100}
		for name, of := range map[string]func(*surface.Pair) surface.Distances{
			"voxels": (*surface.Pair).Boundaries, "surfels": (*surface.Pair).Surfels} {
			d, e := of(&p), of(&swapped)
			brute(t, name, p, d)
			for what, f := range map[string]func(surface.Distances) float64{"HD": surface.Distances.Hausdorff,
				"HD95": func(d surface.Distances) float64 { return d.Percentile(95) }, "average": surface.Distances.Average,
				"dice": func(d surface.Distances) float64 { return d.Dice(1) }} {
				if !same(f(d), f(e), 1e-12) {
					t.Fatalf("%s of %s changes from %v to %v when the masks change places", what, name, f(d), f(e))
				}
			}
			if hd := d.Hausdorff(); d.Percentile(95) > hd || d.Average() > hd {
				t.Fatalf("of %s the Hausdorff distance %v is less than HD95 or the average", name, hd)
			}
			last := math.Inf(-1)
			for _, tolerance := range tolerances {
				if now := d.Dice(tolerance); now < last {
					t.Fatalf("surface Dice of %s falls from %v to %v as the tolerance grows to %v", name, last, now, tolerance)
				} else {
					last = now
				}
			}
			if e := of(&equal); len(e.ToReference) > 0 && (e.Hausdorff() != 0 || e.Average() != 0 || e.Dice(0) != 1) {
				t.Fatalf("equal masks have %s apart", name)
			}
		}
	})
}

// brute compares the distances with those by all pairs, for elements found by their definition.
func brute(t *rapid.T, name string, p surface.Pair, got surface.Distances) {
	set := func(at [3]int, mask uint8) bool {
		for a := range at {
			if at[a] < 0 || at[a] >= p.Size[a] {
				return false
			}
		}
		return p.Set[(at[0]*p.Size[1]+at[1])*p.Size[2]+at[2]]&mask != 0
	}
	points := func(mask uint8) (out [][3]int) {
		for z := range p.Size[0] + 1 {
			for y := range p.Size[1] + 1 {
				for x := range p.Size[2] + 1 {
					at := [3]int{z, y, x}
					in, n := 0, 0
					if name == "voxels" {
						if !set(at, mask) {
							continue
						}
						for a := range at {
							for _, step := range []int{-1, 1} {
								if next := at; a != p.Flat {
									next[a] += step
									n++
									if set(next, mask) {
										in++
									}
								}
							}
						}
						if in < n || n == 0 {
							out = append(out, at)
						}
						continue
					}
					if p.Flat >= 0 && at[p.Flat] > 0 {
						continue
					}
					for k := range 8 {
						next := [3]int{z - k>>2, y - k>>1&1, x - k&1}
						if p.Flat >= 0 {
							next[p.Flat] = 0
						}
						if n++; set(next, mask) {
							in++
						}
					}
					if in > 0 && in < n {
						out = append(out, at)
					}
				}
			}
		}
		return out
	}
	ref, pred := points(surface.Reference), points(surface.Prediction)
	for _, side := range []struct {
		from, to [][3]int
		got      []surface.Elements
	}{{ref, pred, got.ToPrediction}, {pred, ref, got.ToReference}} {
		var got []float64
		for _, e := range side.got {
			got = append(got, slices.Repeat([]float64{e.Distance}, e.Count)...)
		}
		if len(side.from) != len(got) {
			t.Fatalf("%d %s, not %d", len(got), name, len(side.from))
		}
		var want []float64
		for _, a := range side.from {
			best := math.Inf(1)
			for _, b := range side.to {
				sum := 0.0
				for k := range a {
					step := float64(a[k]-b[k]) * p.Spacing[k]
					sum += step * step
				}
				best = min(best, math.Sqrt(sum))
			}
			want = append(want, best)
		}
		slices.Sort(want)
		for i, w := range want {
			if !same(got[i], w, 1e-12) {
				t.Fatalf("the distance of %s %d is %v, not %v", name, i, got[i], w)
			}
		}
	}
}

// BenchmarkPair measures one class of a large pair: two balls of 200 mm in 1 mm voxels.
func BenchmarkPair(b *testing.B) {
	n := 224
	p := surface.Pair{Size: [3]int{n, n, n}, Spacing: [3]float64{1, 1, 1}, Flat: -1, Set: make([]uint8, n*n*n)}
	ball(&p, surface.Reference, [4]float64{100, 111, 111, 111})
	ball(&p, surface.Prediction, [4]float64{101, 111, 110, 111})
	b.Run("voxels", func(b *testing.B) {
		for b.Loop() {
			p.Boundaries()
		}
	})
	b.Run("surfels", func(b *testing.B) {
		for b.Loop() {
			p.Surfels()
		}
	})
}

func pair(size [3]int, spacing [3]float64, ref, pred []float64) *surface.Pair {
	p := &surface.Pair{Size: size, Spacing: spacing, Flat: -1, Set: make([]uint8, len(ref))}
	for i := range ref {
		p.Set[i] = uint8(ref[i]) | uint8(pred[i])<<1
	}
	return p
}

func formula(size [3]int, spacing [3]float64, ref, pred func(z, y, x int) bool) *surface.Pair {
	p := &surface.Pair{Size: size, Spacing: spacing, Flat: slices.Index(size[:], 1), Set: make([]uint8, size[0]*size[1]*size[2])}
	for i := range p.Set {
		z, y, x := i/(size[1]*size[2]), i/size[2]%size[1], i%size[2]
		if ref(z, y, x) {
			p.Set[i] |= surface.Reference
		}
		if pred(z, y, x) {
			p.Set[i] |= surface.Prediction
		}
	}
	return p
}

func at(z, y, x int) func(z, y, x int) bool { return box(z, y, x, 1) }

// box is a cube from its first corner on.
func box(z0, y0, x0, n int) func(z, y, x int) bool {
	return func(z, y, x int) bool {
		return (z >= z0 && z < z0+n) && (y >= y0 && y < y0+n) && (x >= x0 && x < x0+n)
	}
}

// ball sets the voxels within a radius of a centre in mm: radius, z, y, x.
func ball(p *surface.Pair, mask uint8, c [4]float64) {
	for i := range p.Set {
		at := [3]int{i / (p.Size[1] * p.Size[2]), i / p.Size[2] % p.Size[1], i % p.Size[2]}
		sum := 0.0
		for a, v := range at {
			d := float64(v)*p.Spacing[a] - c[a+1]
			sum += d * d
		}
		if sum <= c[0]*c[0] {
			p.Set[i] |= mask
		}
	}
}

func average(list []surface.Elements) float64 { return surface.Distances{ToReference: list}.Average() }

func share(list []surface.Elements, tolerance float64) float64 {
	return surface.Distances{ToReference: list}.Dice(tolerance)
}

func area(list []surface.Elements) (sum float64) {
	for _, e := range list {
		sum += e.Area
	}
	return sum
}

// weighted is surface-distance's percentile: the first distance within which that share of the area lies.
func weighted(list []surface.Elements, p float64) float64 {
	if len(list) == 0 {
		return math.Inf(1)
	}
	whole, sum := area(list), 0.0
	for _, e := range list {
		if sum += e.Area; sum/whole >= p {
			return e.Distance
		}
	}
	return list[len(list)-1].Distance
}

// together puts both sides into one list, as MedPy does.
func together(d surface.Distances) surface.Distances {
	all := slices.Concat(d.ToReference, d.ToPrediction)
	slices.SortFunc(all, func(a, b surface.Elements) int { return cmp.Compare(a.Distance, b.Distance) })
	return surface.Distances{ToReference: all}
}

func number(t testing.TB, v any) float64 {
	t.Helper()
	switch v := v.(type) {
	case float64:
		return v
	case string:
		f, err := strconv.ParseFloat(v, 64)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	t.Fatalf("%v is no number", v)
	return 0
}

func same(a, b, tol float64) bool {
	if math.IsNaN(a) || math.IsNaN(b) || math.IsInf(a, 0) || math.IsInf(b, 0) {
		return a == b || math.IsNaN(a) && math.IsNaN(b)
	}
	return math.Abs(a-b) <= tol*max(1, math.Abs(b))
}
