package convert_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"go.uber.org/goleak"

	"masksam/internal/atomicfile"
	"masksam/internal/convert"
	"masksam/internal/dataset"
	"masksam/internal/goldentest"
	"masksam/internal/imageio"
	"masksam/internal/pyjson"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// grid of the images here; its axes differ in length and spacing.
var grid = volume.NewGrid([3]int{2, 3, 4}, [3]float64{3, 1.5, 1.25})

// image writes a small NIfTI file of so many channels whose voxels tell it from others.
func image(t *testing.T, path string, channels int) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	data := make([][]float32, channels)
	for c := range data {
		data[c] = make([]float32, grid.Len())
		for i := range data[c] {
			data[c][i] = float32(100*c + i + len(path))
		}
	}
	if err := imageio.WriteFloat(path, data, imageio.Meta{Grid: grid, Dims: 3}); err != nil {
		t.Fatal(err)
	}
}

// label writes a label map of the values in turn, 0 and 1 where none are given.
func label(t *testing.T, path string, values ...int) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	if values == nil {
		values = []int{0, 1}
	}
	data := make([]int, grid.Len())
	for i := range data {
		data[i] = values[i%len(values)]
	}
	if err := imageio.WriteLabel(path, data, imageio.Meta{Grid: grid, Dims: 3}); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tree lists the files below a folder, relative to it.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			files = append(files, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// options of a conversion of a source into a fresh raw folder.
func options(t *testing.T, source string) convert.Options {
	return convert.Options{Source: source, Roots: dataset.Roots{Raw: filepath.Join(t.TempDir(), "raw")}}
}

// made runs a conversion and gives the dataset's folder.
func made(t *testing.T, run func(context.Context, convert.Options) (*convert.Result, error), o convert.Options) (string, *convert.Result) {
	t.Helper()
	r, err := run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if names := dirNames(t, o.Roots.Raw); !slices.Equal(names, []string{r.Name}) {
		t.Errorf("the raw folder holds %v, want only %s", names, r.Name)
	}
	return r.Dir, r
}

func dirNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// refused runs a conversion that must fail with all of the texts, having written nothing.
func refused(t *testing.T, run func(context.Context, convert.Options) (*convert.Result, error), o convert.Options, want ...string) {
	t.Helper()
	_, err := run(t.Context(), o)
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error\n%v\ndoes not say %q", err, w)
		}
	}
	if _, err := os.Stat(o.Roots.Raw); err == nil {
		t.Errorf("written: %v", tree(t, o.Roots.Raw))
	}
}

// sound reads the dataset as the other commands do, and checks it in full.
func sound(t *testing.T, dir string, cases int) *dataset.Dataset {
	t.Helper()
	d, err := dataset.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := d.Cases()
	if err != nil || len(list) != cases || d.NumTraining != cases {
		t.Errorf("%d cases, numTraining %d, want %d: %v", len(list), d.NumTraining, cases, err)
	}
	return d
}

func TestDatasetJSONGolden(t *testing.T) {
	raw, err := os.ReadFile(goldentest.Path(t, "nnunet/misc/generate_dataset_json.json"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := pyjson.ParseObject(raw)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := doc.Get("text")
	got, err := convert.DatasetJSON(convert.Description{
		Channels: []string{"CT"}, Labels: pyjson.NewObject("background", 0, "w", []int{1, 2}, "c", 2), NumTraining: 7,
		FileEnding: ".nii.gz", Licence: "x", ConvertedBy: "me", Name: "n", Release: "1", Citation: "c", RegionsClassOrder: []int{1, 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
}

func TestDatasetJSON(t *testing.T) {
	got, err := convert.DatasetJSON(convert.Description{Channels: []string{"a", "b"}, Labels: pyjson.NewObject("background", 0),
		FileEnding: ".tif", Citation: "paper", Reader: "R", Extra: pyjson.NewObject("more", 1)})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"channel_names":{"0":"a","1":"b"},"labels":{"background":0},"numTraining":0,"file_ending":".tif","licence":"",` +
		`"converted_by":"","citation":"paper","overwrite_image_reader_writer":"R","more":1}`
	var compact bytes.Buffer
	if err := json.Compact(&compact, got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, compact.String()); d != "" {
		t.Error(d)
	}
	for _, d := range []convert.Description{{}, {Labels: pyjson.NewObject("background", 0, "whole", []int{1, 2})}} {
		if _, err := convert.DatasetJSON(d); err == nil {
			t.Errorf("%+v: no error", d)
		}
	}
}

// TestMSDGolden rebuilds nnU-Net's example and compares text and files. Of its cases, toy_002 lacks a channel, which
// nnU-Net does not see: such a source is refused, and with the channel the result is the example's.
func TestMSDGolden(t *testing.T) {
	var g struct {
		Files  []string       `json:"source_files"`
		FourD  map[string]int `json:"source_4d_files"`
		Folder string         `json:"target_folder"`
		Text   string         `json:"target_dataset_json_text"`
		Target []string       `json:"target_files"`
	}
	goldentest.JSON(t, "nnunet/misc/msd.json", &g)
	for _, name := range []string{"Task77_Toy", "Task077_Toy"} {
		source := filepath.Join(t.TempDir(), name)
		for _, f := range g.Files {
			path := filepath.Join(source, f)
			switch {
			case f == dataset.FileName:
				put(t, path, goldenSource(t, "nnunet/misc/msd.json", "source_dataset_json"))
			case strings.HasPrefix(filepath.Base(f), "."):
				put(t, path, "rubbish")
			case strings.HasPrefix(f, "labels"):
				label(t, path)
			default:
				image(t, path, max(1, g.FourD[f]))
			}
		}
		log := logged(t)
		dir, r := made(t, convert.MSD, options(t, source+"/"))
		if !strings.Contains(log.String(), "imagesTr/toy_002.nii.gz: 1 channels, but the data set has 2 (FLAIR, T1w)") {
			t.Errorf("no warning of the image with one channel: %s", log)
		}
		if r.Name != g.Folder || r.Training != 2 || r.Test != 1 {
			t.Errorf("made %+v, want %s", r, g.Folder)
		}
		if d := cmp.Diff(g.Text, text(t, filepath.Join(dir, dataset.FileName))); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(g.Target, tree(t, dir)); d != "" {
			t.Error(d)
		}
		same(t, filepath.Join(source, "labelsTr/toy_001.nii.gz"), filepath.Join(dir, "labelsTr/toy_001.nii.gz"))
		whole, err := imageio.Read(filepath.Join(source, "imagesTr/toy_001.nii.gz"))
		if err != nil {
			t.Fatal(err)
		}
		one, err := imageio.Read(filepath.Join(dir, "imagesTr/toy_001_0001.nii.gz"))
		if err != nil {
			t.Fatal(err)
		}
		if one.Grid != whole.Grid || !slices.Equal(one.Channels[0], whole.Channels[1]) {
			t.Error("toy_001_0001 is not the second channel at the same place")
		}
	}
}

// logged gives what is logged until the test ends.
func logged(t *testing.T) *strings.Builder {
	t.Helper()
	var text strings.Builder
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&text, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &text
}

// goldenSource is the text of a golden's dataset.json with its order of keys.
func goldenSource(t *testing.T, file, key string) string {
	t.Helper()
	doc, err := pyjson.ParseObject([]byte(text(t, goldentest.Path(t, file))))
	if err != nil {
		t.Fatal(err)
	}
	v, _ := doc.Get(key)
	out, err := pyjson.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func same(t *testing.T, a, b string) {
	t.Helper()
	if text(t, a) != text(t, b) {
		t.Errorf("%s and %s differ", a, b)
	}
}

const msdJSON = `{"name": "Toy", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, "numTraining": 41, "training": [], "test": []}`

func msdSource(t *testing.T, name string) string { return msdSourceOf(t, name, 1) }

// msdSourceOf is a task whose images have so many channels.
func msdSourceOf(t *testing.T, name string, channels int) string {
	source := filepath.Join(t.TempDir(), name)
	modality := []string{`"0": "CT"`, `"1": "T1"`, `"2": "T2"`}
	put(t, filepath.Join(source, dataset.FileName), strings.Replace(msdJSON, modality[0], strings.Join(modality[:channels], ", "), 1))
	for _, id := range []string{"a", "b"} {
		image(t, filepath.Join(source, "imagesTr", id+".nii.gz"), channels)
		label(t, filepath.Join(source, "labelsTr", id+".nii.gz"))
	}
	image(t, filepath.Join(source, "imagesTs", "c.nii"), channels)
	return source
}

func TestMSD(t *testing.T) {
	source := msdSource(t, "Task09_Spleen")
	image(t, filepath.Join(source, "imagesTr", "_hidden.nii.gz"), 1)
	put(t, filepath.Join(source, "imagesTr", "notes.txt"), "")
	o := options(t, source)
	o.ID, o.Name = 201, "Mine"
	dir, r := made(t, convert.MSD, o)
	if r.Name != "Dataset201_Mine" || r.Training != 2 || r.Test != 1 {
		t.Errorf("%+v", r)
	}
	sound(t, dir, 2) // numTraining was wrong
	// A plain file is compressed, its content kept.
	z, err := gzip.NewReader(strings.NewReader(text(t, filepath.Join(dir, "imagesTs/c_0000.nii.gz"))))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(z); err != nil || b.String() != text(t, filepath.Join(source, "imagesTs/c.nii")) {
		t.Errorf("the compressed file holds something else: %v", err)
	}
}

func TestMSDRefuses(t *testing.T) {
	refused(t, convert.MSD, options(t, msdSource(t, "Spleen")), "Task05_Prostate", "choose number and name")
	refused(t, convert.MSD, options(t, msdSource(t, "Task09_Sp_leen")), "Task05_Prostate")
	refused(t, convert.MSD, options(t, msdSource(t, "Task1234_Spleen")), "1 to 999")

	empty := filepath.Join(t.TempDir(), "Task01_X")
	mkdir(t, empty)
	refused(t, convert.MSD, options(t, empty), "dataset.json", "imagesTr: the folder is missing",
		"imagesTs: the folder is missing", "labelsTr: the folder is missing")

	// All at once.
	source := msdSource(t, "Task09_Spleen")
	os.Remove(filepath.Join(source, "labelsTr/a.nii.gz"))
	os.Remove(filepath.Join(source, "imagesTr/b.nii.gz"))
	put(t, filepath.Join(source, "imagesTr/bad.nii.gz"), "no image")
	label(t, filepath.Join(source, "labelsTr/bad.nii.gz"))
	image(t, filepath.Join(source, "imagesTs/c.nii.gz"), 1) // beside c.nii
	put(t, filepath.Join(source, dataset.FileName), `{"modality": "CT", "labels": {"0": "background", "x": "y", "2": "background"}}`)
	refused(t, convert.MSD, options(t, source), "imagesTr/a.nii.gz: its label map is missing",
		"labelsTr/b.nii.gz: a label map without an image",
		"imagesTr/bad.nii.gz", "imagesTs/c.nii.gz are the same case; remove one", `"modality"`, `"x"`, `two labels are called "background"`, "7 problems")

	put(t, filepath.Join(source, dataset.FileName), `{`)
	refused(t, convert.MSD, options(t, source), "dataset.json: ")
}

// TestTargetTaken: a number that is in use anywhere is refused, and what is there stays.
func TestTargetTaken(t *testing.T) {
	source := msdSource(t, "Task09_Spleen")
	for root, name := range map[string]string{"raw": "Dataset009_Spleen", "preprocessed": "Dataset009_Other",
		"results": "Dataset009_Other"} {
		fault := "taken by Dataset009_Other"
		if root == "raw" {
			fault = "Dataset009_Spleen is there already"
		}
		base := t.TempDir()
		o := convert.Options{Source: source, Roots: dataset.Roots{Raw: filepath.Join(base, "raw"),
			Preprocessed: filepath.Join(base, "preprocessed"), Results: filepath.Join(base, "results")}}
		there := filepath.Join(base, root, name, "file")
		put(t, there, "x")
		_, err := convert.MSD(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), fault) || !slices.Contains(remedy.As(err), any(remedy.ID)) {
			t.Errorf("%s: %v", root, err)
		}
		if text(t, there) != "x" || len(tree(t, base)) != 1 {
			t.Errorf("%s: changed to %v", root, tree(t, base))
		}
	}
	refused(t, convert.MSD, convert.Options{Source: source}, "nnUNet_raw")
	o := options(t, source)
	o.Name = "a__b"
	refused(t, convert.MSD, o, `"a__b" cannot name a dataset`)
}

// TestStopped: a conversion that is cancelled, or fails half-way, leaves no dataset and no half of one.
func TestStopped(t *testing.T) {
	o := options(t, msdSourceOf(t, "Task09_Spleen", 3))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := convert.MSD(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := os.Stat(o.Roots.Raw); err == nil {
		t.Errorf("cancelled: left %v", dirNames(t, o.Roots.Raw))
	}

	image(t, filepath.Join(o.Source, "imagesTr/z.nii.gz"), 3)
	label(t, filepath.Join(o.Source, "labelsTr/z.nii.gz"))
	whole := text(t, filepath.Join(o.Source, "imagesTr/z.nii.gz"))
	put(t, filepath.Join(o.Source, "imagesTr/z.nii.gz"), whole[:len(whole)-9])
	if _, err := convert.MSD(t.Context(), o); err == nil || !strings.Contains(err.Error(), "imagesTr/z.nii.gz") {
		t.Errorf("a file that ends early: %v", err)
	}
	if left := dirNames(t, o.Roots.Raw); len(left) > 0 {
		t.Errorf("a failure left %v", left)
	}

	// What a killed run left is no dataset and goes with the next run.
	put(t, filepath.Join(o.Source, "imagesTr/z.nii.gz"), whole)
	put(t, filepath.Join(o.Roots.Raw, ".Dataset009_Spleen"+atomicfile.Suffix, "imagesTr", "old.nii.gz"), "x")
	if _, err := o.Roots.Name("9"); err == nil {
		t.Error("what a killed run left counts as a dataset")
	}
	dir, _ := made(t, convert.MSD, o)
	if files := tree(t, dir); slices.Contains(files, "imagesTr/old.nii.gz") || !slices.Contains(files, "imagesTr/z_0002.nii.gz") {
		t.Errorf("made %v", files)
	}
}

// TestFaults: whatever is wrong with a source is told at once, by rule, and nothing is written.
func TestFaults(t *testing.T) {
	mods := msdSourceOf(t, "Task23_Mods", 2) // four are named
	put(t, filepath.Join(mods, dataset.FileName), strings.Replace(msdJSON, `"0": "CT"`,
		`"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"`, 1))
	refused(t, convert.MSD, options(t, mods), "imagesTr/a.nii.gz: 2 channels, but the data set has 4 (FLAIR, T1w, t1gd, T2w)",
		"imagesTr/b.nii.gz: 2", "imagesTs/c.nii: 2", "channels (3):", "3 problems")

	source := msdSource(t, "Task09_Spleen")
	put(t, filepath.Join(source, dataset.FileName), `{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "x"}, "numTraining": 3,
		"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, {"image": "./imagesTr/lost.nii.gz", "label": "./labelsTr/lost.nii.gz"}],
		"test": ["./imagesTs/c.nii", "./imagesTs/gone.nii.gz"]}`)
	label(t, filepath.Join(source, "labelsTr/a.nii.gz"), 0, 1, 255)
	image(t, filepath.Join(source, "imagesTr/wide.nii.gz"), 2)
	label(t, filepath.Join(source, "labelsTr/wide.nii.gz"))
	cut := text(t, filepath.Join(source, "labelsTr/b.nii.gz"))
	put(t, filepath.Join(source, "labelsTr/b.nii.gz"), cut[:len(cut)-20])
	image(t, filepath.Join(source, "imagesTr/small.nii.gz"), 1)
	other := volume.NewGrid([3]int{2, 3, 5}, grid.Spacing)
	if err := imageio.WriteLabel(filepath.Join(source, "labelsTr/small.nii.gz"), make([]int, other.Len()),
		imageio.Meta{Grid: other, Dims: 3}); err != nil {
		t.Fatal(err)
	}
	image(t, filepath.Join(source, "imagesTr/half.nii.gz"), 1)
	half := make([][]float32, 1)
	half[0] = make([]float32, grid.Len())
	half[0][3] = 0.5
	if err := imageio.WriteFloat(filepath.Join(source, "labelsTr/half.nii.gz"), half, imageio.Meta{Grid: grid, Dims: 3}); err != nil {
		t.Fatal(err)
	}
	refused(t, convert.MSD, options(t, source), "8 problems", "missing files and folders (3):", "imagesTr/lost.nii.gz: the file is missing",
		"labelsTr/lost.nii.gz: the file is missing", "imagesTs/gone.nii.gz: the file is missing", "labelsTr/a.nii.gz: holds the values [255]",
		"imagesTr/wide.nii.gz: 2 channels", "labelsTr/b.nii.gz", "labelsTr/small.nii.gz: the label map has [2 3 5] voxels (z, y, x)",
		"holds 0.5")

	// Without the names, channels are compared with one another.
	put(t, filepath.Join(source, dataset.FileName), `{"labels": {"0": "background", "1": "x"}}`)
	refused(t, convert.MSD, options(t, source), `"modality"`,
		"imagesTr/wide.nii.gz: 2 channels, but "+filepath.Join(source, "imagesTr/a.nii.gz")+" has 1")
	put(t, filepath.Join(source, dataset.FileName), `{"modality": {"0": "CT"}, "labels": {"1": "x", "2": "y"}}`)
	refused(t, convert.MSD, options(t, source), "background")

	old := v1Source(t, "Task005_Toy")
	image(t, filepath.Join(old, "imagesTr/a_1_0000.nii.gz"), 2)
	put(t, filepath.Join(old, "imagesTr/b_2_0001.nii.gz"), "")
	label(t, filepath.Join(old, "labelsTr/b_2.nii.gz"), 7)
	refused(t, convert.NNUNetV1, options(t, old), "a_1_0000.nii.gz: 2 channels, but each channel has a file of its own",
		"b_2_0001.nii.gz", "b_2.nii.gz: holds the values [7]")

	heart := acdcSource(t, 2)
	image(t, filepath.Join(heart, "training/patient001/patient001_frame01.nii.gz"), 2)
	label(t, filepath.Join(heart, "training/patient002/patient002_frame01_gt.nii.gz"), 4)
	refused(t, convert.ACDC, options(t, heart),
		"patient001_frame01.nii.gz: 2 channels, but the data set has 1 (cineMRI)", "frame01_gt.nii.gz: holds the values [4]")

	organs := amosSource(t)
	label(t, filepath.Join(organs, "labelsVa/amos_0008.nii.gz"), 3)
	put(t, filepath.Join(organs, "imagesTs/amos_0002.nii.gz"), "\x1f\x8b")
	list := text(t, filepath.Join(organs, dataset.FileName))
	put(t, filepath.Join(organs, dataset.FileName), strings.Replace(list, `"validation":[`,
		`"validation":[{"image":"./imagesVa/amos_0008.nii.gz"},`, 1))
	refused(t, amos(false), options(t, organs), "amos_0008.nii.gz: holds the values [3]", "amos_0002.nii.gz",
		"amos_0008.nii.gz is listed twice")
}

// TestFaultsAdvice: the advice about the number is that of the whole error.
func TestFaultsAdvice(t *testing.T) {
	o := options(t, msdSource(t, "Task09_Spleen"))
	o.ID = 1000
	os.Remove(filepath.Join(o.Source, "imagesTr/a.nii.gz"))
	_, err := convert.MSD(t.Context(), o)
	if advice := remedy.As(err); !slices.Contains(advice, any(remedy.ID)) {
		t.Errorf("%v: advice %v", err, advice)
	}
}

func TestNNUNetV1Golden(t *testing.T) {
	var g struct {
		Text string `json:"after_text"`
	}
	goldentest.JSON(t, "nnunet/misc/old_nnunet_dataset_json.json", &g)
	source := v1Source(t, "Task005_Toy")
	put(t, filepath.Join(source, dataset.FileName), goldenSource(t, "nnunet/misc/old_nnunet_dataset_json.json", "before"))
	dir, r := made(t, convert.NNUNetV1, options(t, source))
	if r.Name != "Dataset005_Toy" {
		t.Errorf("made %s", r.Name)
	}
	if d := cmp.Diff(g.Text, text(t, filepath.Join(dir, dataset.FileName))); d != "" {
		t.Error(d)
	}
}

func v1Source(t *testing.T, name string) string {
	source := filepath.Join(t.TempDir(), name)
	put(t, filepath.Join(source, dataset.FileName),
		`{"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "x"}, "numTraining": 2}`)
	for _, id := range []string{"a_1", "b_2"} {
		image(t, filepath.Join(source, "imagesTr", id+"_0000.nii.gz"), 1)
		image(t, filepath.Join(source, "imagesTr", id+"_0001.nii.gz"), 1)
		label(t, filepath.Join(source, "labelsTr", id+".nii.gz"))
	}
	return source
}

func TestNNUNetV1(t *testing.T) {
	source := v1Source(t, "Task005_Toy")
	for _, part := range []string{"imagesTs", "imagesVal"} {
		image(t, filepath.Join(source, part, "c_0000.nii.gz"), 1)
		image(t, filepath.Join(source, part, "c_0001.nii.gz"), 1)
	}
	label(t, filepath.Join(source, "labelsVal", "c.nii.gz"))
	put(t, filepath.Join(source, "imagesTr", "._a_1_0000.nii.gz"), "x")
	dir, _ := made(t, convert.NNUNetV1, options(t, source)) // the legacy keys are absent
	want := []string{"dataset.json", "imagesTr/a_1_0000.nii.gz", "imagesTr/a_1_0001.nii.gz", "imagesTr/b_2_0000.nii.gz",
		"imagesTr/b_2_0001.nii.gz",
		"imagesTs/c_0000.nii.gz", "imagesTs/c_0001.nii.gz", "imagesVal/c_0000.nii.gz", "imagesVal/c_0001.nii.gz",
		"labelsTr/a_1.nii.gz", "labelsTr/b_2.nii.gz", "labelsVal/c.nii.gz"}
	if d := cmp.Diff(want, tree(t, dir)); d != "" {
		t.Error(d)
	}
	for _, f := range want[1:] {
		same(t, filepath.Join(source, f), filepath.Join(dir, f))
	}
	if d := sound(t, dir, 2); !slices.Equal(d.Channels, []string{"T1", "T2"}) {
		t.Errorf("channels %v", d.Channels)
	}
}

func TestNNUNetV1Refuses(t *testing.T) {
	refused(t, convert.NNUNetV1, options(t, v1Source(t, "Toy")), "Task005_Prostate")

	source := v1Source(t, "Task005_Toy")
	os.Remove(filepath.Join(source, "labelsTr/a_1.nii.gz"))
	os.Remove(filepath.Join(source, "imagesTr/b_2_0001.nii.gz"))
	image(t, filepath.Join(source, "imagesTr/c.nii.gz"), 1)
	image(t, filepath.Join(source, "imagesTr/a_1_0002.nii.gz"), 1)
	label(t, filepath.Join(source, "labelsTr/d.nii.gz"))
	refused(t, convert.NNUNetV1, options(t, source), "imagesTr/a_1_0000.nii.gz: its label map is missing",
		"b_2_0001.nii.gz of case b_2 is missing",
		"imagesTr/c.nii.gz: an image is named CASE_0000.nii.gz", "a_1_0002.nii.gz: channel 2", "labelsTr/d.nii.gz: a label map without an image")

	put(t, filepath.Join(source, dataset.FileName), `{"channel_names": 3, "labels": []}`)
	refused(t, convert.NNUNetV1, options(t, source), `"modality"`, `"labels"`)
}

func TestParseName(t *testing.T) {
	if id, name, err := convert.ParseName("Dataset007_A_b"); id != 7 || name != "A_b" || err != nil {
		t.Errorf("%d %q %v", id, name, err)
	}
	for _, text := range []string{"", "Task007_A", "Dataset7_A", "Dataset000_A", "Dataset0071_A", "Dataset007", "Dataset007_"} {
		if _, _, err := convert.ParseName(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// acdcSource has the patients of ACDC's training with their frames, and two for testing.
func acdcSource(t *testing.T, patients int) string {
	source := t.TempDir()
	for p := 1; p <= patients+2; p++ {
		name, part := fmt.Sprintf("patient%03d", p), "training"
		if p > patients {
			part = "testing"
		}
		dir := filepath.Join(source, part, name)
		put(t, filepath.Join(dir, "Info.cfg"), "ED: 1")
		put(t, filepath.Join(dir, name+"_4d.nii.gz"), "4d")
		for _, frame := range []int{1, 7 + p%8} {
			base := filepath.Join(dir, fmt.Sprintf("%s_frame%02d", name, frame))
			image(t, base+".nii.gz", 1)
			if part == "training" || p%2 == 0 {
				label(t, base+"_gt.nii.gz")
			}
		}
	}
	put(t, filepath.Join(source, "training", "MANDATORY_CITATION.md"), "")
	return source
}

func TestACDC(t *testing.T) {
	source := acdcSource(t, 100)
	for _, p := range []int{101, 102} { // the first release has no label maps for testing
		old, _ := filepath.Glob(filepath.Join(source, "testing", fmt.Sprintf("patient%d", p), "*_gt.nii.gz"))
		for _, path := range old {
			os.Remove(path)
		}
	}
	dir, r := made(t, convert.ACDC, options(t, source))
	if r.Name != "Dataset027_ACDC" || r.Training != 200 || r.Test != 4 {
		t.Errorf("%+v", r)
	}
	d := sound(t, dir, 200)
	if classes := d.Labels.Foreground(); !slices.Equal(classes, []int{1, 2, 3}) {
		t.Errorf("labels %v", classes)
	}
	same(t, filepath.Join(source, "training/patient003/patient003_frame10.nii.gz"),
		filepath.Join(dir, "imagesTr/patient003_frame10_0000.nii.gz"))
	same(t, filepath.Join(source, "training/patient003/patient003_frame10_gt.nii.gz"),
		filepath.Join(dir, "labelsTr/patient003_frame10.nii.gz"))
	same(t, filepath.Join(source, "testing/patient101/patient101_frame01.nii.gz"),
		filepath.Join(dir, "imagesTs/patient101_frame01_0000.nii.gz"))
	for _, f := range tree(t, dir) {
		if strings.Contains(f, "4d") || strings.HasPrefix(f, "labelsTs") {
			t.Errorf("made %s", f)
		}
	}

	// The SHA-256 of what nnU-Net 2.8.1's create_ACDC_split gives for these names, written by json.dump(…, indent=4).
	const want = "8e7085d48f3208d765d7646052c3df42b1096df605aa10a6abd3db36480e72a9"
	if got := fmt.Sprintf("%x", sha256.Sum256([]byte(text(t, filepath.Join(dir, dataset.SplitsName))))); got != want {
		t.Errorf("splits_final.json: SHA-256 %s, want %s", got, want)
	}

	// The recipe's own split fits the names.
	cases, err := d.Cases()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range cases {
		ids = append(ids, c.ID)
	}
	if train, val, ok := recipe.ACDC().Split.Match(ids); !ok || len(train) != 140 || len(val) != 20 {
		t.Errorf("the published split: %v, %d and %d cases", ok, len(train), len(val))
	}
}

func TestACDCTestLabels(t *testing.T) {
	source := acdcSource(t, 5)
	for _, frame := range []string{"01", "14"} { // patient006 has its label maps already
		label(t, filepath.Join(source, "testing/patient007/patient007_frame"+frame+"_gt.nii.gz"))
	}
	// Unpacked, the archive has a folder database.
	outer := t.TempDir()
	if err := os.Rename(source, filepath.Join(outer, "database")); err != nil {
		t.Fatal(err)
	}
	dir, r := made(t, convert.ACDC, options(t, outer))
	if r.Training != 10 || r.Test != 4 {
		t.Errorf("%+v", r)
	}
	if names := dirNames(t, filepath.Join(dir, "labelsTs")); len(names) != 4 || names[3] != "patient007_frame14.nii.gz" {
		t.Errorf("labelsTs %v", names)
	}
}

func TestACDCRefuses(t *testing.T) {
	source := acdcSource(t, 3)
	os.Remove(filepath.Join(source, "training/patient001/patient001_frame01_gt.nii.gz"))
	os.Remove(filepath.Join(source, "training/patient002/patient002_frame01.nii.gz"))
	put(t, filepath.Join(source, "training/patient002/patient001_frame05.nii.gz"), "x")
	put(t, filepath.Join(source, "training/patient003/heart.nii.gz"), "x")
	put(t, filepath.Join(source, "training/patient003/patient003_frame01.nii"), "x")
	mkdir(t, filepath.Join(source, "training/patient009"))
	refused(t, convert.ACDC, options(t, source), "patient001_frame01.nii.gz: its label map is missing",
		"patient002_frame01_gt.nii.gz: a label map without an image",
		"patient001_frame05.nii.gz", "heart.nii.gz", "patient009: no frame", "are the same", "patient005_frame12.nii.gz: its label map is missing")
	refused(t, convert.ACDC, options(t, t.TempDir()), "training: the folder is missing")
	mkdir(t, filepath.Join(source, "training/patient001/x"))
	strange := t.TempDir()
	mkdir(t, filepath.Join(strange, "training", "p1"))
	refused(t, convert.ACDC, options(t, strange), "no folder patient001")
}

func TestPatientFolds(t *testing.T) {
	var cases []string
	for p := 1; p <= 7; p++ {
		cases = append(cases, fmt.Sprintf("patient%03d_frame01", p), fmt.Sprintf("patient%03d_frame%02d", p, 7+p%8))
	}
	splits := convert.PatientFolds(cases)
	// From nnU-Net 2.8.1's create_ACDC_split.
	want := [][]string{
		{"patient003_frame01", "patient003_frame10", "patient006_frame01", "patient006_frame13"},
		{"patient002_frame01", "patient002_frame09", "patient004_frame01", "patient004_frame11"},
		{"patient007_frame01", "patient007_frame14"}, {"patient001_frame01",
			"patient001_frame08"}, {"patient005_frame01", "patient005_frame12"},
	}
	for f, s := range splits {
		if !slices.Equal(s.Val, want[f]) || len(s.Train)+len(s.Val) != len(cases) {
			t.Errorf("fold %d: %+v", f, s)
		}
	}
	if n := len(convert.PatientFolds(cases[:6])); n != 3 {
		t.Errorf("three patients make %d folds", n)
	}
	if s := convert.PatientFolds(cases[:2]); s != nil {
		t.Errorf("one patient: %v", s)
	}
}

// synapseSource has the published cases: 30 with labels, 2 for testing. Label maps hold all 14 values.
func synapseSource(t *testing.T, base, img, maps, test string) string {
	source := t.TempDir()
	var values []int
	for v := range 14 {
		values = append(values, v)
	}
	for n := 1; n <= 40; n++ {
		if n > 10 && n <= 20 {
			continue
		}
		image(t, filepath.Join(source, base, img, fmt.Sprintf("img%04d.nii.gz", n)), 1)
		label(t, filepath.Join(source, base, maps, fmt.Sprintf("label%04d.nii.gz", n)), values...)
	}
	for n := 61; n <= 62; n++ {
		image(t, filepath.Join(source, test, fmt.Sprintf("img%04d.nii.gz", n)), 1)
	}
	return source
}

func synapse(eight bool) func(context.Context, convert.Options) (*convert.Result, error) {
	return func(ctx context.Context, o convert.Options) (*convert.Result, error) {
		return convert.Synapse(ctx, o, eight)
	}
}

func TestSynapse(t *testing.T) {
	for _, layout := range [][4]string{
		{"RawData/Training", "img", "label", "RawData/Testing/img"}, {"Training", "img", "label", "Testing/img"},
		{".", "img", "label", "Testing/img"}, {".", "imagesTr", "labelsTr", "imagesTs"},
	} {
		source := synapseSource(t, layout[0], layout[1], layout[2], layout[3])
		dir, r := made(t, synapse(false), options(t, source))
		if r.Name != "Dataset028_Synapse" || r.Training != 30 || r.Test != 2 {
			t.Errorf("%v: %+v", layout, r)
		}
		d := sound(t, dir, 30)
		if n := len(d.Labels.Foreground()); n != 13 || !slices.Equal(d.Channels, []string{"CT"}) {
			t.Errorf("%d labels, channels %v", n, d.Channels)
		}
		same(t, filepath.Join(source, layout[0], layout[1], "img0007.nii.gz"), filepath.Join(dir, "imagesTr/img0007_0000.nii.gz"))
		same(t, filepath.Join(source, layout[0], layout[2], "label0007.nii.gz"), filepath.Join(dir, "labelsTr/img0007.nii.gz"))
		cases, err := d.Cases()
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, c := range cases {
			ids = append(ids, c.ID)
		}
		if train, val, ok := recipe.Synapse().Split.Match(ids); !ok || len(train) != 18 || len(val) != 12 {
			t.Errorf("the published split: %v, %d and %d cases", ok, len(train), len(val))
		}
	}
}

func TestSynapseEightOrgans(t *testing.T) {
	dir, _ := made(t, synapse(true), options(t, synapseSource(t, ".", "img", "label", "Testing/img")))
	d := sound(t, dir, 30)
	doc, _ := d.Doc.Get("labels")
	got, err := pyjson.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"background":0,"spleen":1,"right kidney":2,"left kidney":3,"gallbladder":4,"liver":5,"stomach":6,"aorta":7,"pancreas":8}`
	if text := regexp.MustCompile(`\n +|\n`).ReplaceAllString(strings.ReplaceAll(string(got), ": ", ":"), ""); text != want {
		t.Errorf("labels %s", text)
	}
	l, err := imageio.ReadLabel(filepath.Join(dir, "labelsTr/img0001.nii.gz"))
	if err != nil {
		t.Fatal(err)
	}
	table := []int32{0, 1, 2, 3, 4, 0, 5, 6, 7, 0, 0, 8, 0, 0}
	for i, v := range l.Data {
		if v != table[i%14] {
			t.Fatalf("voxel of organ %d became %d, want %d", i%14, v, table[i%14])
		}
	}
	if l.Grid != grid {
		t.Errorf("grid %+v", l.Grid)
	}
}

func TestSynapseRefuses(t *testing.T) {
	refused(t, synapse(false), options(t, t.TempDir()), "no folders img and label")
	other := t.TempDir()
	put(t, filepath.Join(other, "averaged-training-images/DET0000101_avg.nii.gz"), "x")
	refused(t, synapse(false), options(t, other), "another data set", "RawData")

	source := synapseSource(t, ".", "img", "label", "Testing/img")
	os.Remove(filepath.Join(source, "label/label0002.nii.gz"))
	os.Remove(filepath.Join(source, "img/img0003.nii.gz"))
	put(t, filepath.Join(source, "img/image4.nii.gz"), "x")
	refused(t, synapse(false), options(t, source), "img0002.nii.gz: its label map is missing",
		"label0003.nii.gz: a label map without an image", "image4.nii.gz")

	source = synapseSource(t, ".", "img", "label", "Testing/img")
	label(t, filepath.Join(source, "label/label0004.nii.gz"), 0, 14)
	refused(t, synapse(true), options(t, source), "label0004.nii.gz: holds the values [14], but the labels of the data set are [0 1 2")
}

func amosSource(t *testing.T) string {
	source := t.TempDir()
	type entry struct {
		Image string `json:"image"`
		Label string `json:"label,omitempty"`
	}
	doc := map[string]any{"labels": map[string]string{"0": "background", "1": "spleen", "2": "right kidney"}}
	for key, part := range map[string]struct {
		suffix string
		ids    []int
		labels bool
	}{"training": {"Tr", []int{1, 410, 411, 507}, true}, "validation": {"Va", []int{8, 409, 410}, true}, "test": {"Ts",
		[]int{2, 500, 501}, false}} {
		var list []entry
		for _, id := range part.ids {
			name := fmt.Sprintf("amos_%04d.nii.gz", id)
			e := entry{Image: "./images" + part.suffix + "/" + name}
			image(t, filepath.Join(source, "images"+part.suffix, name), 1)
			if part.labels {
				e.Label = "./labels" + part.suffix + "/" + name
				label(t, filepath.Join(source, "labels"+part.suffix, name))
			}
			list = append(list, e)
		}
		doc[key] = list
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(source, dataset.FileName), string(raw))
	return source
}

func amos(all bool) func(context.Context, convert.Options) (*convert.Result, error) {
	return func(ctx context.Context, o convert.Options) (*convert.Result, error) {
		return convert.AMOS(ctx, o, all)
	}
}

func TestAMOS(t *testing.T) {
	source := amosSource(t)
	dir, r := made(t, amos(false), options(t, source))
	if r.Name != "Dataset052_AMOS22_OnlyCT" || r.Training != 4 || r.Test != 2 {
		t.Errorf("%+v", r)
	}
	want := []string{"dataset.json", "imagesTr/amos_0001_0000.nii.gz", "imagesTr/amos_0008_0000.nii.gz", "imagesTr/amos_0409_0000.nii.gz",
		"imagesTr/amos_0410_0000.nii.gz", "imagesTs/amos_0002_0000.nii.gz", "imagesTs/amos_0500_0000.nii.gz",
		"labelsTr/amos_0001.nii.gz", "labelsTr/amos_0008.nii.gz", "labelsTr/amos_0409.nii.gz", "labelsTr/amos_0410.nii.gz"}
	if d := cmp.Diff(want, tree(t, dir)); d != "" {
		t.Error(d)
	}
	same(t, filepath.Join(source, "imagesTr/amos_0410.nii.gz"), filepath.Join(dir, "imagesTr/amos_0410_0000.nii.gz"))
	same(t, filepath.Join(source, "labelsVa/amos_0409.nii.gz"), filepath.Join(dir, "labelsTr/amos_0409.nii.gz"))
	if d := sound(t, dir, 4); d.Reader != "NibabelIOWithReorient" || !slices.Equal(d.Channels, []string{"CT"}) ||
		!slices.Equal(d.Labels.Foreground(), []int{1, 2}) {
		t.Errorf("%+v", d)
	}
}

func TestAMOSAll(t *testing.T) {
	source := amosSource(t)
	// Two cases of one name cannot both be kept; the real data set has none.
	refused(t, amos(true), options(t, source), "imagesTr/amos_0410.nii.gz and", "imagesVa/amos_0410.nii.gz would both become")
	put(t, filepath.Join(source, dataset.FileName), strings.ReplaceAll(strings.ReplaceAll(text(t, filepath.Join(source, dataset.FileName)),
		`{"image":"./imagesVa/amos_0410.nii.gz","label":"./labelsVa/amos_0410.nii.gz"}`, `{"image":"./imagesVa/amos_0508.nii.gz"}`),
		`{"image":"./imagesTs/amos_0501.nii.gz"}`, `"./imagesTs/amos_0501.nii.gz"`)) // the challenge listed paths for test
	for _, kind := range []string{"images", "labels"} {
		if err := os.Rename(filepath.Join(source, kind+"Va/amos_0410.nii.gz"),
			filepath.Join(source, kind+"Va/amos_0508.nii.gz")); err != nil {
			t.Fatal(err)
		}
	}
	dir, r := made(t, amos(true), options(t, source))
	if r.Name != "Dataset053_AMOS22" || r.Training != 7 || r.Test != 3 {
		t.Errorf("%+v", r)
	}
	if d := sound(t, dir, 7); !slices.Equal(d.Channels, []string{"either_CT_or_MR"}) {
		t.Errorf("channels %v", d.Channels)
	}
}

func TestAMOSRefuses(t *testing.T) {
	source := amosSource(t)
	os.Remove(filepath.Join(source, "labelsVa/amos_0008.nii.gz"))
	os.Remove(filepath.Join(source, "imagesTs/amos_0500.nii.gz"))
	os.Remove(filepath.Join(source, "imagesTr/amos_0411.nii.gz")) // MR: not wanted, not missed
	put(t, filepath.Join(source, dataset.FileName), strings.ReplaceAll(text(t, filepath.Join(source, dataset.FileName)),
		"./imagesTr/amos_0001.nii.gz", "scan.nii.gz"))
	refused(t, amos(false), options(t, source), "labelsVa/amos_0008.nii.gz: the file is missing",
		"imagesTs/amos_0500.nii.gz: the file is missing", `"scan.nii.gz"`, "3 problems")

	put(t, filepath.Join(source, dataset.FileName), `{"training": [3, {"label": "x"}], "test": 5}`)
	refused(t, amos(false), options(t, source), `"labels"`, `entry 1 of "training"`, `entry 2 of "training"`,
		`"test" is not a list`, "lists no case")
	put(t, filepath.Join(source, dataset.FileName), `{"labels": {"0": "background"}}`)
	refused(t, amos(false), options(t, source), `"training" is not a list`)
	refused(t, amos(false), options(t, t.TempDir()), "dataset.json")
}
