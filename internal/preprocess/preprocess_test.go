package preprocess

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/ndimage"
	"masksam/internal/plan"
	"masksam/internal/pyjson"
	"masksam/internal/store"
	"masksam/internal/volume"
	"masksam/internal/work"
)

const describe = `{"channel_names": {"0": "CT", "1": "T1"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": %d, "file_ending": ".nii.gz"}`

// prepareCase checks an image and its label map (nil: none) and preprocesses them. The image is not changed.
func prepareCase(cfg *Config, im *imageio.Image, label *imageio.Label) (*store.Record, error) {
	files := []string{im.Path}
	if err := cfg.dataset.CheckCase(dataset.Case{Images: files}, im, label); err != nil {
		return nil, err
	}
	given := *im
	given.Channels = nil
	for _, data := range im.Channels {
		given.Channels = append(given.Channels, slices.Clone(data))
	}
	return cfg.run(&given, label, files)
}

func newDataset(t testing.TB, dir string, n int) *dataset.Dataset {
	t.Helper()
	path := filepath.Join(dir, dataset.FileName)
	if err := os.WriteFile(path, fmt.Appendf(nil, describe, n), 0o666); err != nil {
		t.Fatal(err)
	}
	ds, err := dataset.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return ds
}

// newPlans plans cases of one spacing (z, y, x), by the default planner or another.
func newPlans(t testing.TB, ds *dataset.Dataset, spacing [3]float64, planner ...string) *plan.Plans {
	t.Helper()
	fp := &plan.Fingerprint{
		Intensity:    []plan.Intensity{{Low: -1, High: 2, Mean: 0.5, Std: 2}, {}},
		RelativeSize: 0.5,
		Shapes:       [][3]int{{12, 14, 16}},
		Spacings:     [][3]float64{spacing},
	}
	p, err := plan.Make(ds, "Dataset001_A", fp, plan.Options{Planner: strings.Join(planner, "")})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newCase is noise in a box within zeros, with labels in it.
func newCase(size [3]int, spacing [3]float64, seed uint64) (*imageio.Image, *imageio.Label) {
	rng := rand.New(rand.NewPCG(seed, 5))
	meta := imageio.Meta{Path: "a.nii.gz", Grid: volume.NewGrid(size, spacing), Dims: 3}
	im := &imageio.Image{Meta: meta, Channels: [][]float32{make([]float32, meta.Grid.Len()), make([]float32, meta.Grid.Len())}}
	label := &imageio.Label{Meta: meta, Data: make([]int32, meta.Grid.Len())}
	for i := range label.Data {
		z, y, x := i/(size[1]*size[2]), i/size[2]%size[1], i%size[2]
		if z == 0 || y < 2 || x >= size[2]-2 {
			continue
		}
		im.Channels[0][i], im.Channels[1][i] = float32(rng.NormFloat64()), float32(rng.Float64()+1)
		label.Data[i] = int32(rng.IntN(3))
	}
	return im, label
}

func writeCase(t testing.TB, dir, id string, seed uint64) {
	t.Helper()
	im, label := newCase([3]int{8, 12, 14}, [3]float64{2, 1, 1}, seed)
	for _, sub := range []string{"imagesTr", "labelsTr"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for ch, data := range im.Channels {
		if err := imageio.WriteFloat(filepath.Join(dir, "imagesTr", fmt.Sprintf("%s_%04d.nii.gz", id, ch)),
			[][]float32{data}, im.Meta); err != nil {
			t.Fatal(err)
		}
	}
	if err := imageio.WriteLabel(filepath.Join(dir, "labelsTr", id+".nii.gz"), label.Data, label.Meta); err != nil {
		t.Fatal(err)
	}
}

// On a grid that is not resampled, scores that are a label map's one-hot masks give it back, whatever the transpose and
// the crop.
func TestThereAndBack(t *testing.T) {
	dir := t.TempDir()
	ds := newDataset(t, dir, 1)
	rapid.Check(t, func(rt *rapid.T) {
		spacings := []float64{1, 1, 1}
		spacings[rapid.IntRange(0, 2).Draw(rt, "coarse axis")] = 2
		spacing := [3]float64(spacings)
		planner := rapid.SampledFrom([]string{plan.DefaultPlanner, "nnUNetPlannerResEncL_torchres", "nnUNetPlannerResEncL_noResampling"}).Draw(rt, "planner")
		cfg, err := NewConfig(newPlans(t, ds, spacing, planner), rapid.SampledFrom([]string{"2d", "3d_fullres"}).Draw(rt, "configuration"), ds)
		if err != nil {
			rt.Fatal(err)
		}
		if strings.HasSuffix(planner, "noResampling") {
			spacing[0] *= 1.7
		}
		edge := rapid.IntRange(5, 12)
		size := [3]int{edge.Draw(rt, "z"), edge.Draw(rt, "y"), edge.Draw(rt, "x")}
		im, label := newCase(size, spacing, rapid.Uint64().Draw(rt, "seed"))
		before := slices.Clone(im.Channels[0])
		r, err := prepareCase(cfg, im, label)
		if err != nil {
			rt.Fatal(err)
		}
		if !slices.Equal(before, im.Channels[0]) {
			rt.Fatal("the image was changed")
		}
		n := len(r.Seg)
		scores := make([]float32, 3*n)
		for i, v := range r.Seg {
			scores[max(int(v), 0)*n+i] = 1
		}
		labels, err := Labels(cfg, scores, r.Size, r.Properties, false)
		if err != nil {
			rt.Fatal(err)
		}
		for i, v := range label.Data {
			if int32(labels[i]) != v {
				rt.Fatalf("voxel %d of %v: %d, want %d", i, size, labels[i], v)
			}
		}
		prob, err := Probabilities(cfg, scores, r.Size, r.Properties, false)
		if err != nil {
			rt.Fatal(err)
		}
		for i, v := range label.Data {
			for k := range 3 {
				if want := k == int(v); (prob[k*len(labels)+i] == 1) != want {
					rt.Fatalf("voxel %d, label %d has probability %v", i, k, prob[k*len(labels)+i])
				}
			}
		}
		for _, c := range r.Classes {
			for _, v := range c.Voxels {
				if at := (int(v[0])*r.Size[1]+int(v[1]))*r.Size[2] + int(v[2]); int(r.Seg[at]) != c.Labels[0] {
					rt.Fatalf("voxel %v holds %d, not %v", v, r.Seg[at], c.Labels)
				}
			}
		}
	})
}

// The plans' functions and arguments become ways to resize.
func TestMethods(t *testing.T) {
	ds := newDataset(t, t.TempDir(), 1)
	from, to := [3]float64{4, 1, 1}, [3]float64{3.5, 0.8, 0.8}
	for planner, want := range map[string][2]ndimage.Method{
		plan.DefaultPlanner:                  {{Order: 3, Separate: true}, {Order: 1, Separate: true}},
		"nnUNetPlanner_torchres":             {{Order: 1, Torch: true, Labels: ndimage.Most}, {Order: 1, Torch: true, Labels: ndimage.Most}},
		"nnUNetPlannerResEncL_torchres_sepz": {{Order: 1, Separate: true, Torch: true, Labels: ndimage.Most}, {Order: 1, Separate: true, Torch: true, Labels: ndimage.Most}},
	} {
		p := newPlans(t, ds, to, planner)
		cfg, err := NewConfig(p, "3d_fullres", ds)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]ndimage.Method{cfg.method(cfg.plan.Data, from, to), cfg.method(cfg.plan.Seg, from, to)}; got != want {
			t.Errorf("%s: %+v, want %+v", planner, got, want)
		}
	}
	p := newPlans(t, ds, to)
	if err := p.Put("3d_fullres", "resampling_fn_data_kwargs", map[string]any{"separate_z_anisotropy_threshold": 5, "force_separate_z": nil}); err != nil {
		t.Fatal(err)
	}
	cfg, err := NewConfig(p, "3d_fullres", ds)
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.method(cfg.plan.Data, from, to); got != (ndimage.Method{Order: 3}) {
		t.Errorf("a threshold of 5 with spacings of ratio 4: %+v", got)
	}
}

func TestThinImageKeepsOneSlice(t *testing.T) {
	ds := newDataset(t, t.TempDir(), 1)
	cfg, err := NewConfig(newPlans(t, ds, [3]float64{8, 8, 8}), "3d_fullres", ds)
	if err != nil {
		t.Fatal(err)
	}
	im, label := newCase([3]int{4, 20, 20}, [3]float64{1, 1, 1}, 1)
	r, err := prepareCase(cfg, im, label)
	if err != nil || r.Size != [3]int{1, 2, 2} {
		t.Errorf("size %v, %v", r.Size, err)
	}
}

// A spacing far too small is an error of the case before anything of that size is made, and its prediction does not
// overflow.
func TestTooManyVoxels(t *testing.T) {
	dir := t.TempDir()
	writeCase(t, dir, "a", 1) // 8 × 12 × 14, of which 7 × 10 × 12 are not zero, in 2 channels
	ds := newDataset(t, dir, 1)
	cases, err := ds.Cases()
	if err != nil {
		t.Fatal(err)
	}
	p := newPlans(t, ds, [3]float64{2, 1, 1})
	for _, c := range []struct {
		spacing []float64
		want    string // "": it fits
	}{
		{[]float64{1e-9, 1e-9, 1e-9}, "would be 1.4e+10 × 1e+10 × 1.2e+10 in 2 channels"},
		{[]float64{1e-300, 1e-9, 1}, "would be 1.4e+301 ×"}, // no int holds it
		{[]float64{1e-9, 1e300, 1e300}, "would be 1.4e+10 × 1 × 1 in 2 channels"},
		{[]float64{1.29e-8, 1e300, 1e300}, "1.08527e+09 × 1 × 1 in 2 channels, 2.17e+09 in all"},
		{[]float64{2e-3, 1, 1}, ""},
	} {
		if err := p.Put("3d_fullres", "spacing", c.spacing); err != nil {
			t.Fatal(err)
		}
		cfg, err := NewConfig(p, "3d_fullres", ds)
		if err != nil {
			t.Fatal(err)
		}
		if n := cfg.Bytes(cases[0]); n < cases[0].LoadBytes() || (c.want != "") != (n < 8<<20) {
			t.Errorf("%v: %d bytes predicted", c.spacing, n)
		}
		im, label, _, err := cfg.Load(cases[0])
		if err != nil {
			t.Fatal(err)
		}
		_, err = cfg.run(im, label, cases[0].Images)
		if c.want == "" && err == nil {
			continue
		}
		if err == nil || c.want == "" || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), cases[0].Images[0]) ||
			!strings.Contains(err.Error(), fmt.Sprintf("resampled to %v × %v × %v mm", c.spacing[0], c.spacing[1], c.spacing[2])) {
			t.Errorf("%v: %v", c.spacing, err)
		}
	}
}

func TestScoresWithoutSum(t *testing.T) {
	heads := [][]float32{{0, 1, 2}, {0, 1, 0}, {0, 2, 0}}
	share(heads)
	if d := cmp.Diff([][]float32{{1, 0.25, 1}, {0, 0.25, 0}, {0, 0.5, 0}}, heads); d != "" {
		t.Error(d)
	}
}

func TestCaseFaults(t *testing.T) {
	ds := newDataset(t, t.TempDir(), 1)
	cfg, err := NewConfig(newPlans(t, ds, [3]float64{1, 1, 1}), "3d_fullres", ds)
	if err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(im *imageio.Image, label *imageio.Label){
		"2 voxels that are NaN":      func(im *imageio.Image, _ *imageio.Label) { im.Channels[1][3], im.Channels[1][4] = nan, nan },
		"1 voxels that are infinite": func(im *imageio.Image, _ *imageio.Label) { im.Channels[0][3] = float32(math.Inf(-1)) },
		"holds -4 3, but dataset":    func(_ *imageio.Image, l *imageio.Label) { l.Data[7], l.Data[9] = 3, -4 },
		"1 channels, but":            func(im *imageio.Image, _ *imageio.Label) { im.Channels = im.Channels[:1] },
		"the label map has":          func(_ *imageio.Image, l *imageio.Label) { l.Grid.Size[0]--; l.Data = l.Data[:l.Grid.Len()] },
	} {
		im, label := newCase([3]int{6, 7, 8}, [3]float64{1, 1, 1}, 1)
		spoil(im, label)
		if _, err := prepareCase(cfg, im, label); err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "a.nii.gz") {
			t.Errorf("%s: %v", want, err)
		}
	}
	im, _ := newCase([3]int{6, 7, 8}, [3]float64{1, 1, 1}, 1)
	r, err := prepareCase(cfg, im, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Labels(cfg, make([]float32, 5), r.Size, r.Properties, false); err == nil {
		t.Error("5 scores were enough")
	}
	r.Properties.ShapeAfterCropping[0]++
	if _, err := Labels(cfg, make([]float32, 3*len(r.Seg)), r.Size, r.Properties, false); err == nil {
		t.Error("contradicting properties passed")
	}
}

var nan = float32(math.NaN())

func TestConfigFaults(t *testing.T) {
	ds := newDataset(t, t.TempDir(), 1)
	p := newPlans(t, ds, [3]float64{1, 1, 1})
	if _, err := NewConfig(p, "4d", ds); err == nil {
		t.Error("unknown configuration")
	}
	if err := p.Put("2d", "normalization_schemes", []string{"CTNormalization", "Foo"}); err != nil {
		t.Fatal(err)
	}
	if _, err := NewConfig(p, "2d", ds); err == nil || !strings.Contains(err.Error(), "Foo") {
		t.Errorf("unknown normalisation: %v", err)
	}
	channels := ds.Channels
	ds.Channels = channels[:1]
	if _, err := NewConfig(p, "3d_fullres", ds); err != nil {
		t.Errorf("plans of more channels: %v", err)
	}
	ds.Channels = append(slices.Clone(channels), "T2")
	if _, err := NewConfig(p, "3d_fullres", ds); err == nil || !strings.Contains(err.Error(), "plan the dataset again") {
		t.Errorf("plans of other channels: %v", err)
	}
}

// A failed case is named, the others finish, and a second run does what is missing or stale.
func TestDatasetRuns(t *testing.T) {
	dir := t.TempDir()
	for i, id := range []string{"a", "b", "c", "d"} {
		writeCase(t, dir, id, uint64(i))
	}
	ds := newDataset(t, dir, 4)
	o := Options{Dataset: ds, Plans: newPlans(t, ds, [3]float64{2, 1, 1}), Configuration: "3d_fullres",
		Out: filepath.Join(dir, "out"), Work: work.Work{Workers: 2}}
	file := func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	if err := os.Remove(file("labelsTr/b.nii.gz")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file("imagesTr/d_0001.nii.gz"), 100); err != nil {
		t.Fatal(err)
	}
	report, err := Dataset(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "case b") || !strings.Contains(err.Error(), "labelsTr/b.nii.gz") ||
		!strings.Contains(err.Error(), "d_0001") {
		t.Errorf("error %v", err)
	}
	if d := cmp.Diff(Report{Done: []string{"a", "c"}, Failed: []string{"b", "d"}}, report); d != "" {
		t.Error(d)
	}

	writeCase(t, dir, "b", 9)
	writeCase(t, dir, "d", 9)
	report, err = Dataset(t.Context(), o)
	if d := cmp.Diff(Report{Done: []string{"b", "d"}, Kept: []string{"a", "c"}}, report); d != "" || err != nil {
		t.Error(d, err)
	}

	// A changed file, changed settings, a removed case.
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(file("labelsTr/c.nii.gz"), later, later); err != nil {
		t.Fatal(err)
	}
	report, err = Dataset(t.Context(), o)
	if d := cmp.Diff(Report{Done: []string{"c"}, Kept: []string{"a", "b", "d"}}, report); d != "" || err != nil {
		t.Error(d, err)
	}
	if err := o.Plans.Put("3d_fullres", "spacing", []float64{2, 1, 1.5}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a_0000", "a_0001"} {
		if err := os.Remove(file("imagesTr/" + name + ".nii.gz")); err != nil {
			t.Fatal(err)
		}
	}
	report, err = Dataset(t.Context(), o)
	if d := cmp.Diff(Report{Done: []string{"b", "c", "d"}, Removed: []string{"a"}}, report); d != "" || err != nil {
		t.Error(d, err)
	}
	// The patch does not matter to the data.
	if err := o.Plans.Put("3d_fullres", "patch_size", []int{4, 8, 8}); err != nil {
		t.Fatal(err)
	}
	report, err = Dataset(t.Context(), o)
	if len(report.Kept) != 3 || err != nil {
		t.Error(report, err)
	}
	o.Force = true
	report, err = Dataset(t.Context(), o)
	if len(report.Done) != 3 || err != nil {
		t.Error(report, err)
	}
	s, err := store.Open(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Case("b")
	if err != nil {
		t.Fatal(err)
	}
	if p := c.Properties(); len(p.Images) != 2 || p.Label != file("labelsTr/b.nii.gz") || p.Meta.Path != p.Images[0] {
		t.Errorf("sources %v %s", p.Images, p.Label)
	}
}

func TestDatasetStops(t *testing.T) {
	dir := t.TempDir()
	writeCase(t, dir, "a", 1)
	ds := newDataset(t, dir, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := Options{Dataset: ds, Plans: newPlans(t, ds, [3]float64{2, 1, 1}), Configuration: "2d", Out: filepath.Join(dir, "out")}
	if _, err := Dataset(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("a stopped run gave %v", err)
	}
	o.Out = filepath.Join(dir, dataset.FileName, "out")
	if _, err := Dataset(t.Context(), o); err == nil {
		t.Error("a store below a file")
	}
}

// While one preprocesses into a store, another is refused and leaves its unfinished cases alone.
func TestDatasetIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	writeCase(t, dir, "a", 1)
	ds := newDataset(t, dir, 1)
	o := Options{Dataset: ds, Plans: newPlans(t, ds, [3]float64{2, 1, 1}), Configuration: "3d_fullres", Out: filepath.Join(dir, "out")}
	first, err := store.Create(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	unfinished := filepath.Join(o.Out, ".a.case.7.0"+atomicfile.Suffix)
	if err := os.WriteFile(unfinished, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Dataset(t.Context(), o); err == nil || !strings.Contains(err.Error(), o.Out+": another process is preprocessing it") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(unfinished); err != nil {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if report, err := Dataset(t.Context(), o); err != nil || len(report.Done) != 1 {
		t.Error(report, err)
	}
}

// Parts preprocess their cases into one store beside each other, leave each other's unfinished cases alone, and together
// do what one process does.
func TestDatasetInParts(t *testing.T) {
	dir := t.TempDir()
	for i, id := range []string{"a", "b", "c"} {
		writeCase(t, dir, id, uint64(i))
	}
	ds := newDataset(t, dir, 3)
	o := Options{Dataset: ds, Plans: newPlans(t, ds, [3]float64{2, 1, 1}), Configuration: "3d_fullres", Out: filepath.Join(dir, "out")}
	other, err := store.Join(o.Out) // a part that is under way
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := filepath.Join(o.Out, ".b.case.7.0"+atomicfile.Suffix), filepath.Join(o.Out, ".c.case.7.0"+atomicfile.Suffix)
	for _, path := range []string{theirs, ours} {
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Dataset(t.Context(), o); err == nil || !strings.Contains(err.Error(), "another process is preprocessing it") {
		t.Errorf("the whole beside a part: %v", err)
	}
	o.Part = work.Part{Index: 0, Of: 2}
	if report, err := Dataset(t.Context(), o); err != nil || !slices.Equal(report.Done, []string{"a", "c"}) {
		t.Error(report, err)
	}
	if _, err := os.Stat(ours); err == nil {
		t.Error("what a killed process left of the part's own case stays")
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
	o.Part.Index = 1
	if report, err := Dataset(t.Context(), o); err != nil || !slices.Equal(report.Done, []string{"b"}) {
		t.Error(report, err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	o.Part = work.Part{}
	if report, err := Dataset(t.Context(), o); err != nil || len(report.Kept) != 3 {
		t.Errorf("after its parts the whole has something to do: %+v, %v", report, err)
	}
}

func TestRegionsAndIgnore(t *testing.T) {
	doc, err := pyjson.ParseObject([]byte(`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "w": [1, 2], "c": 2, "ignore": 3}, "regions_class_order": [1, 2], "numTraining": 1, "file_ending": ".nii.gz"}`))
	if err != nil {
		t.Fatal(err)
	}
	labels, found := dataset.ReadLabels(doc, "")
	if found != nil {
		t.Fatal(found)
	}
	cfg := &Config{dataset: &dataset.Dataset{Labels: labels}}
	seg := []int16{-1, 0, 1, 2, 3, 2}
	got := map[string]int{}
	for _, c := range cfg.locate(seg, [3]int{1, 2, 3}) {
		got[fmt.Sprint(c.Labels)] = len(c.Voxels)
		for _, v := range c.Voxels {
			if !slices.Contains(c.Labels, int(seg[v[1]*3+v[2]])) {
				t.Errorf("%v of %v", v, c.Labels)
			}
		}
	}
	if d := cmp.Diff(map[string]int{"[1 2]": 3, "[2]": 2, "[-1 0 1 2]": 5}, got); d != "" {
		t.Error(d)
	}
}

func BenchmarkCase(b *testing.B) {
	ds := newDataset(b, b.TempDir(), 1)
	cfg, err := NewConfig(newPlans(b, ds, [3]float64{2, 1, 1}), "3d_fullres", ds)
	if err != nil {
		b.Fatal(err)
	}
	im, label := newCase([3]int{40, 160, 160}, [3]float64{2.5, 1.3, 1.3}, 1)
	for b.Loop() {
		if _, err := prepareCase(cfg, im, label); err != nil {
			b.Fatal(err)
		}
	}
}

// Labels for a configuration that continues this one lie on its grid: where that is the case's own and nothing is
// resampled, they are the labels that the scores stand for, in the plan's order of axes.
func TestNextLabels(t *testing.T) {
	dir := t.TempDir()
	ds := newDataset(t, dir, 1)
	rapid.Check(t, func(rt *rapid.T) {
		spacings := []float64{1, 1, 1}
		spacings[rapid.IntRange(0, 2).Draw(rt, "coarse axis")] = 2
		cfg, err := NewConfig(newPlans(t, ds, [3]float64(spacings)), "3d_fullres", ds)
		if err != nil {
			rt.Fatal(err)
		}
		edge := rapid.IntRange(5, 12)
		im, label := newCase([3]int{edge.Draw(rt, "z"), edge.Draw(rt, "y"), edge.Draw(rt, "x")}, [3]float64(spacings), rapid.Uint64().Draw(rt, "seed"))
		r, err := prepareCase(cfg, im, label)
		if err != nil {
			rt.Fatal(err)
		}
		n := len(r.Seg)
		scores := make([]float32, 3*n)
		for i, v := range r.Seg {
			scores[max(int(v), 0)*n+i] = 1
		}
		to := r.Size
		double := rapid.IntRange(-1, 2).Draw(rt, "axis of twice the size")
		if double >= 0 {
			to[double] *= 2
		}
		e, err := cfg.NewNextExport(r.Size, r.Properties, to)
		if err == nil {
			err = e.all(scores)
		}
		if err != nil {
			rt.Fatal(err)
		}
		got := e.NextLabels()
		if len(got) != to[0]*to[1]*to[2] {
			rt.Fatalf("%d labels on a grid of %v", len(got), to)
		}
		for i, v := range got {
			at := [3]int{i / (to[1] * to[2]), i / to[2] % to[1], i % to[2]}
			if double >= 0 { // linear interpolation halfway between two voxels leaves each its own half
				at[double] /= 2
			}
			if want := max(r.Seg[(at[0]*r.Size[1]+at[1])*r.Size[2]+at[2]], 0); v != want {
				rt.Fatalf("voxel %d of %v is %d, want %d", i, to, v, want)
			}
		}
	})
}
