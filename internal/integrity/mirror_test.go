package integrity

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"masksam/internal/dataset"
	"masksam/internal/goldentest"
	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// flipped is an array mirrored along some axes.
func flipped[T volume.Sample](data []T, size [3]int, axes ...int) []T {
	t := volume.Reorientation{Axes: [3]int{0, 1, 2}}
	for _, a := range axes {
		t.Flip[a] = true
	}
	return volume.Reorient(t, data, size)
}

// TestMirroredHippocampi mirrors the label maps, and the images, of real cases: hardly one may pass, none of the sound ones
// be suspected, and the axes must be the right ones.
func TestMirroredHippocampi(t *testing.T) {
	t.Parallel()
	dir := goldentest.Path(t, "../data/Dataset004_Hippocampus")
	d, err := dataset.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	cases, err := d.Cases()
	if err != nil {
		t.Fatal(err)
	}
	const every = 4 // of the cases is mirrored
	found := map[string]int{}
	for i, c := range cases {
		im, label, _, err := d.Load(c)
		if err != nil {
			t.Fatal(err)
		}
		try := func(what string, image []float32, labels []int32, want [3]bool) {
			like := &imageio.Image{Meta: im.Meta, Channels: [][]float32{image}}
			_, box := regions(labels, im.Grid.Size)
			flip, asIs, asFlip, suspect := mirrored(like, &imageio.Label{Meta: label.Meta, Data: labels}, box, -1, 2)
			if !suspect {
				return
			}
			if found[what]++; flip != want {
				t.Errorf("%s, %s: mirrored along %v (%.1f, as it is %.1f)", c.ID, what, flip, asFlip, asIs)
			}
		}
		size := im.Grid.Size
		try("sound", im.Channels[0], label.Data, [3]bool{true, true, true}) // no way is right
		if i%every > 0 {
			continue
		}
		try("label", im.Channels[0], flipped(label.Data, size, 2), [3]bool{false, false, true})
		try("image", flipped(im.Channels[0], size, 2), label.Data, [3]bool{false, false, true})
		try("half a turn", im.Channels[0], flipped(label.Data, size, 1, 2), [3]bool{false, true, true})
	}
	if found["sound"] > 0 {
		t.Errorf("%d sound cases are suspected", found["sound"])
	}
	for _, what := range []string{"label", "image", "half a turn"} {
		if n := len(cases) / every; found[what] < n*9/10 {
			t.Errorf("%s mirrored: %d of %d found", what, found[what], n)
		}
	}
}

// TestUnrelatedLabels lays balls into noise that knows nothing of them.
func TestUnrelatedLabels(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	suspected := 0
	const trials = 200
	for range trials {
		size := [3]int{14 + rng.IntN(10), 14 + rng.IntN(10), 14 + rng.IntN(10)}
		meta := imageio.Meta{Grid: volume.NewGrid(size, [3]float64{1, 1, 1})}
		image, labels := make([]float32, meta.Grid.Len()), make([]int32, meta.Grid.Len())
		centre := [3]float64{4 + 6*rng.Float64(), 4 + 6*rng.Float64(), 4 + 6*rng.Float64()}
		for i := range image {
			image[i] = float32(rng.NormFloat64())
			square := 0.0
			for axis, at := range [3]int{i / (size[1] * size[2]), i / size[2] % size[1], i % size[2]} {
				square += (float64(at) - centre[axis]) * (float64(at) - centre[axis])
			}
			if square < 16 {
				labels[i] = 1
			}
		}
		_, box := regions(labels, size)
		if _, _, _, found := mirrored(&imageio.Image{Meta: meta, Channels: [][]float32{image}},
			&imageio.Label{Meta: meta, Data: labels}, box, -1, 2); found {
			suspected++
		}
	}
	if suspected > trials/50 {
		t.Errorf("%d of %d are suspected", suspected, trials)
	}
}

// TestMirroredDegenerate asks of images that can tell nothing.
func TestMirroredDegenerate(t *testing.T) {
	t.Parallel()
	for _, size := range [][3]int{{1, 1, 1}, {1, 1, 400}, {1, 30, 30}, {2, 2, 2}, {20, 20, 20}} {
		meta := imageio.Meta{Grid: volume.NewGrid(size, [3]float64{1, 1, 1})}
		labels := make([]int32, meta.Grid.Len())
		for i := range labels {
			labels[i] = int32(i % 2)
		}
		for _, fill := range []float32{0, 1} {
			image := make([]float32, meta.Grid.Len())
			image[0] = fill
			_, box := regions(labels, size)
			if _, _, _, found := mirrored(&imageio.Image{Meta: meta, Channels: [][]float32{image}},
				&imageio.Label{Meta: meta, Data: labels}, box, -1, 2); found {
				t.Errorf("%v, %v: suspected", size, fill)
			}
		}
	}
}

func TestRegions(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := func(what string) int { return rapid.IntRange(1, 5).Draw(t, what) }
		size := [3]int{n("z"), n("y"), n("x")}
		data := make([]int32, size[0]*size[1]*size[2])
		want := map[int32]*region{}
		box := volume.Box{Lo: size}
		for i := range data {
			v := rapid.Int32Range(0, 2).Draw(t, "label")
			data[i] = v
			if want[v] == nil {
				want[v] = &region{}
			}
			want[v].n++
			for axis, at := range [3]int{i / (size[1] * size[2]), i / size[2] % size[1], i % size[2]} {
				want[v].sum[axis] += float64(at)
				want[v].square[axis] += float64(at * at)
				if v > 0 {
					box.Lo[axis], box.Hi[axis] = min(box.Lo[axis], at), max(box.Hi[axis], at+1)
				}
			}
		}
		got, gotBox := regions(data, size)
		if d := cmp.Diff(want, got, cmp.AllowUnexported(region{})); d != "" || box != gotBox {
			t.Fatalf("box %v, want %v; %s", gotBox, box, d)
		}
	})
}

// around is a region of a box around x voxels from the left, whose axis x points right.
func around(x float64) *region {
	return &region{n: 100, sum: [3]float64{0, 0, 100 * x}, square: [3]float64{0, 0, 100 * (x*x + 4)}}
}

// sideWarnings runs sides over cases with labels a and b at the given places.
func sideWarnings(t *testing.T, a, b string, oriented bool, places [][2]float64) (ids []string) {
	t.Helper()
	dir := t.TempDir()
	broken{t, dir}.write(dataset.FileName,
		fmt.Sprintf(`{"channel_names": {"0": "CT"}, "labels": {"background": 0, %q: 1, %q: 2}, "numTraining": 1, "file_ending": ".nii.gz"}`, a, b))
	d, err := dataset.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := &checker{d: d}
	var cases []dataset.Case
	var all []seen
	for i, p := range places {
		cases = append(cases, dataset.Case{ID: fmt.Sprint("c", i)})
		all = append(all, seen{placed: true, oriented: oriented, labels: map[int32]*region{1: around(p[0]), 2: around(p[1])},
			grid: volume.NewGrid([3]int{1, 1, 100}, [3]float64{1, 1, 1})})
	}
	c.sides(cases, all)
	for _, f := range c.found {
		ids = append(ids, f.Case)
		if f.Code != "SIDES_SWAPPED" || f.Severity != dataset.Warning {
			t.Errorf("%v", f)
		}
	}
	return ids
}

func TestSides(t *testing.T) {
	t.Parallel()
	usual := func(n int, first ...[2]float64) [][2]float64 {
		for range n {
			first = append(first, [2]float64{70, 20})
		}
		return first
	}
	swapped := [2]float64{20, 70}
	for _, c := range []struct {
		name, a, b string
		oriented   bool
		places     [][2]float64
		want       string
	}{
		{"one case the other way round", "spleen", "liver", true, usual(30, swapped), "c0"},
		{"too few to tell", "spleen", "liver", true, usual(10, swapped), ""},
		{"either way is common", "femur", "patella", true, usual(30, swapped, swapped, swapped), ""},
		{"one above the other", "spleen", "liver", true, usual(30, [2]float64{50, 51}), ""},
		{"named, one case", "Kidney_right", "Kidney_left", true, usual(3, swapped), "c0"},
		{"named, all cases", "kidney L", "kidney R", true, usual(3), "c0 c1 c2"},
		{"named, header silent", "left_lung", "right_lung", false, usual(3, swapped), ""},
		{"German", "Niere links", "Niere rechts", true, [][2]float64{{20, 70}, {70, 20}}, "c1"},
		{"no pair", "left_lung", "liver", true, usual(3, swapped), ""},
	} {
		if got := strings.Join(sideWarnings(t, c.a, c.b, c.oriented, c.places), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestSpacings(t *testing.T) {
	t.Parallel()
	run := func(values ...[3]float64) (ids []string) {
		c := &checker{}
		var cases []dataset.Case
		var all []seen
		for i, s := range values {
			cases = append(cases, dataset.Case{ID: fmt.Sprint(i)})
			all = append(all, seen{orientation: "RAS", spacing: s})
		}
		c.spacings(cases, all, "RAS")
		for _, f := range c.found {
			ids = append(ids, f.Case)
		}
		return ids
	}
	z := func(z ...float64) (out [][3]float64) {
		for i, v := range z {
			out = append(out, [3]float64{v, 1.25 + 0.1*float64(i%4), 1.25})
		}
		return out
	}
	for _, c := range []struct {
		name   string
		values [][3]float64
		want   string
	}{
		{"ACDC", z(10, 10, 5, 10, 6.5, 10, 7, 10, 5, 10), ""},
		{"thin and thick CT", z(5, 5, 5, 1, 5, 1, 1.25, 5, 0.8, 5), ""},
		{"wide spread", z(0.7, 1, 5, 0.8, 2.5, 1.2, 4, 3, 1, 0.6), ""},
		{"one of ten", z(3, 3.3, 3, 3, 12, 3, 3, 2.7, 3, 3), "4"},
		{"metres", z(3, 3, 3, 3, 0.003), "4"},
		{"three cases", z(3, 3, 30), ""},
		{"swapped", append(z(3, 3, 3, 3, 3), [3]float64{1.3, 1.25, 3}), "5"},
		{"isotropic", [][3]float64{{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}}, ""},
	} {
		if got := strings.Join(run(c.values...), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestTurningReader takes no offence at orientations where the reader turns all images to one.
func TestTurningReader(t *testing.T) {
	t.Parallel()
	b := broken{t, sound(t)}
	b.grid(func(g *volume.Grid) { g.Affine[2][2] *= -1 }, c3...)
	b.json(`8`, `8, "overwrite_image_reader_writer": "NibabelIOWithReorient"`)
	report, err := Check(t.Context(), b.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		t.Errorf("%s: %v", f.Code, f)
	}
}
