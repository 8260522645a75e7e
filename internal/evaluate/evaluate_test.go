package evaluate_test

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"masksam/internal/evaluate"
	"masksam/internal/goldentest"
	"masksam/internal/imageio"
	"masksam/internal/volume"
	"masksam/internal/work"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// equalText writes the summary and compares it byte for byte with nnU-Net's.
func equalText(t *testing.T, s *evaluate.Summary, root, wantPath string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "summary.json")
	if err := s.WriteJSON(path); err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(read(t, path), root, "<ROOT>")
	if want := read(t, wantPath); got != want {
		t.Errorf("%s: text differs:\n%s", wantPath, got)
	}
}

func TestFolderGoldens(t *testing.T) {
	three := 3
	for name, opt := range map[string]evaluate.Options{
		"labels":         {Classes: []evaluate.Class{evaluate.Label(1), evaluate.Label(2), evaluate.Label(3)}},
		"absent_class":   {Classes: []evaluate.Class{evaluate.Label(1), evaluate.Label(2)}},
		"regions_ignore": {Classes: []evaluate.Class{evaluate.Class{Values: []int{1, 2}, Region: true}, evaluate.Label(2)}, Ignore: &three},
	} {
		t.Run(name, func(t *testing.T) {
			root := goldentest.Path(t, "nnunet/evaluation/"+name)
			opt.Ending = ".nii.gz"
			s, err := evaluate.Folder(context.Background(), filepath.Join(root, "gt"), filepath.Join(root, "pred"), opt)
			if err != nil {
				t.Fatal(err)
			}
			equalText(t, s, root, filepath.Join(root, "summary.json"))
		})
	}
}

// nnU-Net's evaluate_simple scores labels that are given by number.
func TestSimpleGoldens(t *testing.T) {
	root := goldentest.Path(t, "nnunet/evaluation/labels")
	three := 3
	for name, opt := range map[string]evaluate.Options{"summary_simple_l_1_2": {}, "summary_simple_l_1_2_il_3": {Ignore: &three}} {
		opt.Classes, opt.Ending = []evaluate.Class{evaluate.Label(1), evaluate.Label(2)}, ".nii.gz"
		s, err := evaluate.Folder(t.Context(), filepath.Join(root, "gt"), filepath.Join(root, "pred"), opt)
		if err != nil {
			t.Fatal(err)
		}
		equalText(t, s, root, filepath.Join(root, name+".json"))
	}
}

func TestMissingPrediction(t *testing.T) {
	root := goldentest.Path(t, "nnunet/evaluation/labels")
	fresh := t.TempDir()
	for _, folder := range []string{"gt", "pred"} {
		if err := os.CopyFS(filepath.Join(fresh, folder), os.DirFS(filepath.Join(root, folder))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(fresh, "pred", "case2.nii.gz")); err != nil {
		t.Fatal(err)
	}
	gt, pred := filepath.Join(fresh, "gt"), filepath.Join(fresh, "pred")
	opt := evaluate.Options{Classes: []evaluate.Class{evaluate.Label(1), evaluate.Label(2)}, Ending: ".nii.gz"}
	_, err := evaluate.Folder(t.Context(), gt, pred, opt)
	if err == nil || !strings.Contains(err.Error(), "case2.nii.gz") {
		t.Errorf("error %v, want one that names case2", err)
	}
	opt.Chill = true
	s, err := evaluate.Folder(t.Context(), gt, pred, opt)
	if err != nil {
		t.Fatal(err)
	}
	equalText(t, s, fresh, filepath.Join(root, "summary_simple_chill_without_case2.json"))
}

// Every summary.json of nnU-Net that is among the golden values survives being read and written.
func TestReadGoldenSummaries(t *testing.T) {
	root := goldentest.Path(t, "nnunet/evaluation")
	n := 0
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		name := filepath.Base(path)
		if err != nil || !strings.HasPrefix(name, "summary") || !strings.HasSuffix(name, ".json") || len(read(t, path)) < 10 {
			return err
		}
		n++
		s, err := evaluate.ReadSummary(path)
		if err != nil {
			return err
		}
		equalText(t, s, "no such folder", path)
		return nil
	})
	if err != nil || n < 8 {
		t.Errorf("%d files, error %v", n, err)
	}
}

// write stores a label map of size 1×1×n.
func write(t *testing.T, dir, name string, spacing float64, labels ...int) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	meta := imageio.Meta{Grid: volume.NewGrid([3]int{1, 1, len(labels)}, [3]float64{1, 1, spacing}), Dims: 3}
	if err := imageio.WriteLabel(path, labels, meta); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFiguresByHand(t *testing.T) {
	dir := t.TempDir()
	gt, pred := filepath.Join(dir, "gt"), filepath.Join(dir, "pred")
	write(t, gt, "é.nii.gz", 1, 1, 1, 0, 2, 9, 300)
	write(t, pred, "é.nii.gz", 1, 1, 0, 1, 2, 1, 300)
	nine := 9
	opt := evaluate.Options{Classes: []evaluate.Class{evaluate.Label(1), evaluate.Class{Values: []int{2, 300}, Region: true}, evaluate.Label(5)},
		Ignore: &nine, Ending: ".nii.gz"}
	bar := &counter{}
	opt.Progress = bar
	s, err := evaluate.Folder(context.Background(), gt, pred, opt)
	if err != nil {
		t.Fatal(err)
	}
	m := s.Cases[0].Metrics
	if want := (evaluate.Metrics{Dice: 0.5, IoU: 1.0 / 3, TP: 1, FP: 1, FN: 1, TN: 2, NPred: 2, NRef: 2}); m["1"] != want {
		t.Errorf("label 1: %+v, want %+v", m["1"], want)
	}
	if want := (evaluate.Metrics{Dice: 1, IoU: 1, TP: 2, TN: 3, NPred: 2, NRef: 2}); m["(2, 300)"] != want {
		t.Errorf("region: %+v, want %+v", m["(2, 300)"], want)
	}
	if !math.IsNaN(m["5"].Dice) || !math.IsNaN(s.ForegroundMean.Dice) || s.ForegroundMean.FP != 1.0/3 {
		t.Errorf("absent label: %+v, foreground mean %+v", m["5"], s.ForegroundMean)
	}
	if *bar != (counter{1, 1}) {
		t.Errorf("progress: %d of %d cases", bar.done, bar.of)
	}
}

// counter is a progress bar that counts.
type counter struct{ of, done int }

func (c *counter) Start(_ string, total int) { c.of += total }
func (c *counter) Advance(n int, _ string)   { c.done += n }
func (c *counter) Done()                     {}

// logged gives what is logged until the test ends.
func logged(t *testing.T) *strings.Builder {
	t.Helper()
	var text strings.Builder
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&text, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &text
}

// Label maps of other spacings are not compared, or are with a warning, as they are stored.
func TestOtherSpacings(t *testing.T) {
	dir := t.TempDir()
	gt, pred := filepath.Join(dir, "gt"), filepath.Join(dir, "pred")
	for folder, spacing := range map[string]float64{gt: 1, pred: 2} {
		if err := os.Mkdir(folder, 0o777); err != nil {
			t.Fatal(err)
		}
		meta := imageio.Meta{Grid: volume.NewGrid([3]int{1, 1, 2}, [3]float64{1, 1, spacing}), Dims: 3}
		if err := imageio.WriteLabel(filepath.Join(folder, "a.nii.gz"), []int{0, 1}, meta); err != nil {
			t.Fatal(err)
		}
	}
	opt := evaluate.Options{Classes: []evaluate.Class{evaluate.Label(1)}, Ending: ".nii.gz"}
	if _, err := evaluate.Folder(t.Context(), gt, pred, opt); err == nil || !strings.Contains(err.Error(), "spacings differ") {
		t.Errorf("error %v", err)
	}
	opt.AsStored = true
	text := logged(t)
	if s, err := evaluate.Folder(t.Context(), gt, pred, opt); err != nil || s.ForegroundMean.Dice != 1 ||
		!strings.Contains(text.String(), "other spacings") {
		t.Errorf("%+v, error %v, warned of %s", s, err, text)
	}
}

// TestOrientation compares the same places, stored from other corners: a reader class that turns files scores them as
// equal, one that does not compares them as stored and warns. That is what nnU-Net's compute_metrics does.
func TestOrientation(t *testing.T) {
	dir := t.TempDir()
	gt, pred := filepath.Join(dir, "gt"), filepath.Join(dir, "pred")
	labels := []int{1, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0}
	g := volume.NewGrid([3]int{1, 3, 4}, [3]float64{3, 1.5, 1.5})
	save := func(dir string, labels []int, g volume.Grid) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := imageio.WriteLabel(filepath.Join(dir, "a.nii.gz"), labels, imageio.Meta{Grid: g, Dims: 3}); err != nil {
			t.Fatal(err)
		}
	}
	flipped := slices.Clone(labels)
	slices.Reverse(flipped) // y and x
	other := g
	other.Affine[0][0], other.Affine[0][3] = -1.5, 4.5
	other.Affine[1][1], other.Affine[1][3] = -1.5, 3
	far := g
	far.Affine[2][3] = 40
	oblique := g
	sin, cos := math.Sincos(0.02)
	oblique.Affine[0][0], oblique.Affine[1][0], oblique.Affine[0][1], oblique.Affine[1][1] = 1.5*cos, 1.5*sin, -1.5*sin, 1.5*cos
	save(gt, labels, g)
	opt := evaluate.Options{Classes: []evaluate.Class{evaluate.Label(1), evaluate.Label(2)}, Ending: ".nii.gz"}
	for name, c := range map[string]struct {
		reader string
		labels []int
		grid   volume.Grid
		dice   float64
		warns  []string
	}{
		"the same":           {"", labels, g, 1, nil},
		"turned, reoriented": {"NibabelIOWithReorient", flipped, other, 1, nil},
		"turned, as stored": {"SimpleITKIO", flipped, other, 0,
			[]string{"different orientations", "SimpleITKIO", "point to LPS", "to RAS"}},
		"turned, reader chosen": {"", flipped, other, 0, []string{"different orientations"}},
		"origin":                {"SimpleITKIO", labels, far, 1, []string{"different origins"}},
		"oblique":               {"", labels, oblique, 1, []string{"different directions"}},
		"scaled values": {"", []int{255, 255, 0, 0, 0, 254, 0, 0, 0, 0, 0, 0}, g, 0,
			[]string{"none of the labels that are scored", "[254 255]"}},
	} {
		save(pred, c.labels, c.grid)
		opt.Reader = c.reader
		text := logged(t)
		s, err := evaluate.Folder(t.Context(), gt, pred, opt)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if s.ForegroundMean.Dice != c.dice {
			t.Errorf("%s: Dice %v, want %v", name, s.ForegroundMean.Dice, c.dice)
		}
		if c.warns == nil && text.String() != "" {
			t.Errorf("%s: warned of %s", name, text)
		}
		for _, want := range c.warns {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s: no warning says %q: %s", name, want, text)
			}
		}
	}

	// Axes in another order change the size: an error that says so, unless the class turns them.
	swapped := volume.NewGrid([3]int{1, 4, 3}, [3]float64{3, 1.5, 1.5})
	swapped.Affine[0], swapped.Affine[1] = swapped.Affine[1], swapped.Affine[0]
	var turned []int
	for x := range 4 {
		for y := range 3 {
			turned = append(turned, labels[4*y+x])
		}
	}
	save(pred, turned, swapped)
	opt.Reader = "NibabelIO"
	if _, err := evaluate.Folder(t.Context(), gt, pred, opt); err == nil || !strings.Contains(err.Error(), "the prediction's to ARS") {
		t.Errorf("axes in another order: %v", err)
	}
	opt.Reader = "NibabelIOWithReorient"
	if s, err := evaluate.Folder(t.Context(), gt, pred, opt); err != nil || s.ForegroundMean.Dice != 1 {
		t.Errorf("axes in another order, reoriented: %v", err)
	}
}

// TestNoGeometry: one file without a place of its own, of which the other has one.
func TestNoGeometry(t *testing.T) {
	dir := t.TempDir()
	gt, pred := filepath.Join(dir, "gt"), filepath.Join(dir, "pred")
	path := write(t, gt, "a.nii", 1, 0, 1, 2)
	write(t, pred, "a.nii", 1, 0, 1, 2)
	b := []byte(read(t, path))
	binary.LittleEndian.PutUint32(b[252:], 0) // qform_code, sform_code
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	text := logged(t)
	if _, err := evaluate.Folder(t.Context(), gt, pred, evaluate.Options{Classes: []evaluate.Class{evaluate.Label(1)},
		Ending: ".nii"}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), path+" has neither qform nor sform") {
		t.Errorf("no warning: %s", text)
	}
}

func TestMismatchNamesBothFiles(t *testing.T) {
	dir := t.TempDir()
	gt, pred := filepath.Join(dir, "gt"), filepath.Join(dir, "pred")
	var paths []string
	for _, c := range []struct {
		name    string
		spacing float64
		labels  []int
	}{{"size.nii.gz", 1, []int{0, 1}}, {"spacing.nii.gz", 1.1, []int{0, 1, 2}}} {
		paths = append(paths, write(t, gt, c.name, 1, 0, 1, 2), write(t, pred, c.name, c.spacing, c.labels...))
	}
	broken := write(t, pred, "broken.nii.gz", 1, 0, 1, 2)
	write(t, gt, "broken.nii.gz", 1, 0, 1, 2)
	if err := os.Truncate(broken, 60); err != nil {
		t.Fatal(err)
	}
	_, err := evaluate.Folder(context.Background(), gt, pred,
		evaluate.Options{Classes: []evaluate.Class{evaluate.Label(1)}, Ending: ".nii.gz"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, path := range append(paths, broken) {
		if !strings.Contains(err.Error(), path) {
			t.Errorf("error does not name %s:\n%v", path, err)
		}
	}
}

func TestRefusedFolders(t *testing.T) {
	dir := t.TempDir()
	gt, pred := filepath.Join(dir, "gt"), filepath.Join(dir, "pred")
	opt := evaluate.Options{Classes: []evaluate.Class{evaluate.Label(1)}, Ending: ".nii.gz", Chill: true}
	ctx := context.Background()
	if _, err := evaluate.Folder(ctx, gt, pred, opt); err == nil {
		t.Error("no folder: no error")
	}
	write(t, gt, "a.nii.gz", 1, 1)
	if err := os.Mkdir(pred, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := evaluate.Folder(ctx, gt, pred, opt); err == nil || !strings.Contains(err.Error(), "no predictions") {
		t.Errorf("empty folder: %v", err)
	}
	write(t, pred, "b.nii.gz", 1, 1)
	if _, err := evaluate.Folder(ctx, gt, pred, opt); err == nil || !strings.Contains(err.Error(), "b.nii.gz") {
		t.Errorf("prediction without a reference: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	write(t, pred, "a.nii.gz", 1, 1)
	write(t, gt, "b.nii.gz", 1, 1)
	if _, err := evaluate.Folder(cancelled, gt, pred, opt); err == nil {
		t.Error("cancelled: no error")
	}
}

// Parts together give the summary of the whole, with the last of them; a label map that has changed since makes its part
// wait again. A part may have no case.
func TestParts(t *testing.T) {
	gt, pred := t.TempDir(), t.TempDir()
	for i, name := range []string{"a", "b", "c"} {
		write(t, gt, name+".nii.gz", 1, 1, 1, 0, i%2)
		write(t, pred, name+".nii.gz", 1, 1, i%2, 1, 1)
	}
	opt := evaluate.Options{Classes: []evaluate.Class{evaluate.Label(1)}, Ending: ".nii.gz"}
	whole, err := evaluate.Folder(t.Context(), gt, pred, opt)
	if err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(t.TempDir(), "whole.json")
	if err := whole.WriteJSON(want); err != nil {
		t.Fatal(err)
	}
	for _, of := range []int{2, 4} {
		path := filepath.Join(t.TempDir(), "summary.json")
		score := func(part int, waits ...int) {
			t.Helper()
			opt.Part = work.Part{Index: part, Of: of}
			s, still, err := evaluate.FolderPart(t.Context(), gt, pred, opt, path)
			if err != nil || !slices.Equal(still, waits) {
				t.Fatalf("part %d of %d waits for %v, %v; want %v", part, of, still, err, waits)
			}
			if _, err := os.Stat(path); (err == nil) != (waits == nil) {
				t.Fatalf("part %d of %d: the whole summary: %v", part, of, err)
			}
			if waits == nil && (len(s.Cases) != 3 || read(t, path) != read(t, want)) {
				t.Errorf("in %d parts:\n%s\nwant\n%s", of, read(t, path), read(t, want))
			}
		}
		rest := []int{0, 1, 2, 3}[:of]
		for part := of - 1; part > 0; part-- {
			score(part, rest[:part]...)
		}
		score(0)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(time.Hour)
		if err := os.Chtimes(filepath.Join(pred, "b.nii.gz"), later, later); err != nil {
			t.Fatal(err)
		}
		score(0, 1)
		score(1)
	}
}

// Parts are joined only with those that were made of the same: earlier label maps, other ones, other classes and other labels
// to ignore are not.
func TestPartsOfOthers(t *testing.T) {
	gt, pred, other := t.TempDir(), t.TempDir(), t.TempDir()
	old := time.Now().Add(-time.Hour)
	for _, dir := range []string{gt, pred, other} {
		for _, name := range []string{"a", "b"} {
			write(t, dir, name+".nii.gz", 1, 1, 1, 0, 2)
			if err := os.Chtimes(filepath.Join(dir, name+".nii.gz"), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "summary.json")
	score := func(part int, predictions string, ignore *int, classes ...evaluate.Class) []int {
		t.Helper()
		opt := evaluate.Options{Classes: classes, Ignore: ignore, Ending: ".nii.gz", Part: work.Part{Index: part, Of: 2}}
		_, waits, err := evaluate.FolderPart(t.Context(), gt, predictions, opt, path)
		if err != nil {
			t.Fatal(err)
		}
		return waits
	}
	one, two, ignore := evaluate.Label(1), evaluate.Label(2), 2
	list := evaluate.Class{Values: []int{1}, Region: true}
	first := func() { score(0, pred, nil, one) }
	for what, waits := range map[string]func() []int{
		"other predictions": func() []int { first(); return score(1, other, nil, one) },
		"other classes":     func() []int { first(); return score(1, pred, nil, one, two) },
		"a region":          func() []int { first(); return score(1, pred, nil, list) },
		"an ignore label":   func() []int { first(); return score(1, pred, &ignore, one) },
		"an earlier version": func() []int {
			first()
			write(t, pred, "a.nii.gz", 1, 1, 2, 0, 2)
			earlier := old.Add(-time.Hour)
			if err := os.Chtimes(filepath.Join(pred, "a.nii.gz"), earlier, earlier); err != nil {
				t.Fatal(err)
			}
			return score(1, pred, nil, one)
		},
	} {
		if got := waits(); !slices.Equal(got, []int{0}) {
			t.Errorf("%s: the parts to come are %v, want 0", what, got)
		}
	}
	first()
	if got := score(1, pred+"/", nil, one); got != nil {
		t.Errorf("the same folder by another name: the parts to come are %v", got)
	}
}

func TestReadSummary(t *testing.T) {
	path := filepath.Join(t.TempDir(), "summary.json")
	for text, ok := range map[string]bool{
		`{"foreground_mean": {"Dice": null}, "mean": {"1": {"Dice": NaN, "TP": 3}}, "metric_per_case": []}`: true,
		``: false, `[]`: false, `{}`: false, `{"foreground_mean": 1, "mean": {}, "metric_per_case": []}`: false,
		`{"foreground_mean": {}, "mean": {"1": {"Dice": "x"}}, "metric_per_case": []}`: false,
		`{"foreground_mean": {}, "mean": {}, "metric_per_case": [1]}`:                  false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		s, err := evaluate.ReadSummary(path)
		if (err == nil) != ok {
			t.Errorf("%s: error %v", text, err)
		}
		if ok && (!math.IsNaN(s.ForegroundMean.Dice) || !math.IsNaN(s.Mean["1"].Dice) || s.Mean["1"].TP != 3) {
			t.Errorf("%s: read as %+v", text, s)
		}
	}
}

// The counts of a class are those of a plain count over voxels, whatever the labels.
func TestCountProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.SampledFrom([]int32{0, 1, 2, 3, 255, 256, -1, 70000})
		n := rapid.IntRange(0, 60).Draw(t, "voxels")
		ref := rapid.SliceOfN(value, n, n).Draw(t, "reference")
		pred := rapid.SliceOfN(value, n, n).Draw(t, "prediction")
		values := []int{}
		for _, v := range rapid.SliceOfNDistinct(value, 1, 4, rapid.ID).Draw(t, "class") {
			values = append(values, int(v))
		}
		var ignore *int
		if rapid.Bool().Draw(t, "ignoring") {
			v := int(value.Draw(t, "ignore"))
			ignore = &v
		}
		class := evaluate.Class{Values: values, Region: true}
		got := evaluate.Count(ref, pred, []evaluate.Class{evaluate.Label(1), class}, ignore)[class.Key()]
		var want evaluate.Metrics
		for i := range ref {
			if ignore != nil && int(ref[i]) == *ignore {
				continue
			}
			switch r, p := slices.Contains(values, int(ref[i])), slices.Contains(values, int(pred[i])); {
			case r && p:
				want.TP++
			case r:
				want.FN++
			case p:
				want.FP++
			default:
				want.TN++
			}
		}
		if got.TP != want.TP || got.FN != want.FN || got.FP != want.FP || got.TN != want.TN {
			t.Fatalf("%+v, want %+v", got, want)
		}
		if d := 2 * got.TP / (got.NPred + got.NRef); d != got.Dice && !(math.IsNaN(d) && math.IsNaN(got.Dice)) {
			t.Fatalf("Dice %v of %+v", got.Dice, got)
		}
	})
}

// Means are NumPy's to the last bit, which needs its order of summation. Figures by NumPy 2.4.6: np.mean of 1/(i+1), and
// np.nanmean of the same with every third value, from the first, replaced by NaN.
func TestMeansSumAsNumPyDoes(t *testing.T) {
	for _, want := range []struct {
		n             int
		mean, nanmean float64
	}{
		{7, 0.37040816326530607, 0.3},
		{8, 0.3397321428571428, 0.265},
		{20, 0.1798869828571841, 0.14714060449354568},
		{129, 0.042177511864912164, 0.03656327127049089},
		{300, 0.02094221293433168, 0.018520752585788926},
		{1000, 0.007485470860550345, 0.0067636319125703335},
	} {
		cases := make([]evaluate.Score, want.n)
		for i := range cases {
			v := 1 / float64(i+1)
			m := evaluate.Metrics{Dice: v, IoU: v}
			if i%3 == 0 {
				m.IoU = math.NaN()
			}
			cases[i].Metrics = map[string]evaluate.Metrics{"1": m}
		}
		got := evaluate.Summarize(cases, []evaluate.Class{evaluate.Label(1)}).Mean["1"]
		if got.Dice != want.mean || got.IoU != want.nanmean {
			t.Errorf("%d cases: means %v %v, want %v %v", want.n, got.Dice, got.IoU, want.mean, want.nanmean)
		}
	}
}

func FuzzReadSummary(f *testing.F) {
	f.Add([]byte(`{"foreground_mean": {"Dice": null}, "mean": {"(1, 2)": {"Dice": NaN, "TP": 3}}, "metric_per_case": [{"metrics": {"1": {"FP": 1}}, "prediction_file": "p", "reference_file": "r"}]}`))
	f.Add([]byte(`{"foreground_mean": {}, "mean": {}, "metric_per_case": [1]}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, strconv.Itoa(os.Getpid()))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := evaluate.ReadSummary(path)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Fatalf("error %q does not name the file", err)
			}
			return
		}
		if err := s.WriteJSON(path); err != nil {
			t.Fatal(err)
		}
		once := read(t, path)
		if s, err = evaluate.ReadSummary(path); err != nil {
			t.Fatal(err)
		}
		if err := s.WriteJSON(path); err != nil {
			t.Fatal(err)
		}
		if twice := read(t, path); twice != once {
			t.Fatalf("a summary changes by being read and written:\n%s\n%s", once, twice)
		}
	})
}
