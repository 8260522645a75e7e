package integrity

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
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/progress"
	"masksam/internal/volume"
	"masksam/internal/work"
)

const soundJSON = `{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz"}`

// base is a dataset without a fault, made once: tests copy it.
var base = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "masksam-integrity-")
	if err != nil {
		return "", err
	}
	return dir, makeSound(dir)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := base(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// sound copies the dataset without a fault.
func sound(t testing.TB) string {
	t.Helper()
	from, err := base()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copyTree(t, dir, from)
	return dir
}

// makeSound makes eight cases c0 … c7 of two channels in which two kidneys lie unevenly, one with a tumour, in noise.
func makeSound(dir string) error {
	for _, sub := range []string{"imagesTr", "labelsTr"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o777); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(soundJSON), 0o666); err != nil {
		return err
	}
	for i := range 8 {
		rng := rand.New(rand.NewPCG(7, uint64(i)))
		g := volume.NewGrid([3]int{12, 20, 24}, [3]float64{2.5, 1.5, 1.5})
		for row, mm := range []float64{-20, 31, 4} {
			g.Affine[row][3] = mm + rng.Float64()
		}
		label := make([]uint8, g.Len())
		images := [2][]float32{make([]float32, g.Len()), make([]float32, g.Len())}
		move := [2]float64{rng.Float64(), rng.Float64()}
		for v := range label {
			z, y, x := float64(v/480), float64(v/24%20), float64(v%24)
			ball := func(cz, cy, cx, r float64) bool {
				return math.Hypot(math.Hypot(1.6*(z-cz), y-cy-move[0]), x-cx-move[1]) < r
			}
			switch { // x runs to the right
			case ball(7, 5, 5, 1.8):
				label[v] = 3
			case ball(7, 6, 5, 4):
				label[v] = 1
			case ball(4, 13, 17, 4.6):
				label[v] = 2
			}
			images[0][v] = float32([]float64{100, 190, 180, 60}[label[v]] + 12*rng.NormFloat64())
			images[1][v] = float32([]float64{50, 20, 25, 90}[label[v]] + 8*rng.NormFloat64())
		}
		meta := imageio.Meta{Grid: g, Dims: 3}
		for c, image := range images {
			if err := imageio.WriteFloat(filepath.Join(dir, "imagesTr", fmt.Sprintf("c%d_%04d.nii.gz", i, c)),
				[][]float32{image}, meta); err != nil {
				return err
			}
		}
		if err := imageio.WriteLabel(filepath.Join(dir, "labelsTr", fmt.Sprintf("c%d.nii.gz", i)), label, meta); err != nil {
			return err
		}
	}
	return nil
}

func put(t testing.TB, path string, meta imageio.Meta, channels ...[]float32) {
	t.Helper()
	if err := imageio.WriteFloat(path, channels, meta); err != nil {
		t.Fatal(err)
	}
}

// broken is a copy of a dataset that a test breaks.
type broken struct {
	t   testing.TB
	dir string
}

func (b broken) path(name string) string { return filepath.Join(b.dir, filepath.FromSlash(name)) }

func (b broken) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b broken) write(name, text string) { b.check(os.WriteFile(b.path(name), []byte(text), 0o666)) }
func (b broken) rename(from, to string)  { b.check(os.Rename(b.path(from), b.path(to))) }
func (b broken) remove(name string)      { b.check(os.RemoveAll(b.path(name))) }
func (b broken) copy(from, to string) {
	text, err := os.ReadFile(b.path(from))
	b.check(err)
	b.check(os.WriteFile(b.path(to), text, 0o666))
}

// json replaces text in dataset.json.
func (b broken) json(old, new string) {
	if !strings.Contains(soundJSON, old) {
		b.t.Fatalf("dataset.json does not hold %s", old)
	}
	b.write(dataset.FileName, strings.Replace(soundJSON, old, new, 1))
}

// edit changes the voxels, or the grid, of a file.
func (b broken) edit(name string, change func(im *imageio.Image)) {
	im, err := imageio.Read(b.path(name))
	b.check(err)
	im.NIfTI = nil // the header follows the grid
	change(im)
	put(b.t, b.path(name), im.Meta, im.Channels...)
}

// value puts a value into one voxel.
func (b broken) value(name string, v float64) {
	b.edit(name, func(im *imageio.Image) { im.Channels[0][im.Grid.Index(4, 13, 17)] = float32(v) })
}

// grid changes where the voxels of a case's, or a file's, images lie.
func (b broken) grid(change func(g *volume.Grid), names ...string) {
	for _, name := range names {
		b.edit(name, func(im *imageio.Image) { change(&im.Grid) })
	}
}

// shrink takes a file's last slice away.
func (b broken) shrink(name string) {
	b.edit(name, func(im *imageio.Image) {
		im.Grid.Size[0]--
		im.Channels[0] = im.Channels[0][:im.Grid.Len()]
	})
}

// mirror turns the voxels of files left to right.
func (b broken) mirror(names ...string) {
	for _, name := range names {
		b.edit(name, func(im *imageio.Image) { im.Channels[0] = flipped(im.Channels[0], im.Grid.Size, 2) })
	}
}

func rescale(z, y, x float64) func(g *volume.Grid) {
	return func(g *volume.Grid) {
		for axis, by := range []float64{z, y, x} {
			g.Spacing[axis] *= by
			for row := range 3 {
				g.Affine[row][2-axis] *= by
			}
		}
	}
}

// c3 are all files of one case.
var c3 = []string{"imagesTr/c3_0000.nii.gz", "imagesTr/c3_0001.nii.gz", "labelsTr/c3.nii.gz"}

// faults are small edits of a sound dataset, each of which breaks one rule; the words must be in what is told of it.
var faults = []struct {
	name  string
	code  string
	words string
	edit  func(b broken)
}{
	{"no dataset.json", "DATASET_JSON_MISSING", dataset.FileName, func(b broken) { b.remove(dataset.FileName) }},
	{"no JSON", "DATASET_JSON_INVALID", dataset.FileName, func(b broken) { b.write(dataset.FileName, "{") }},
	{"a key is missing", "KEYS_MISSING", "numTraining", func(b broken) { b.json(`"numTraining": 8, `, "") }},
	{"channel_names is a list", "CHANNEL_NAMES_INVALID", dataset.FileName,
		func(b broken) { b.json(`{"0": "T1", "1": "T2"}`, `["T1", "T2"]`) }},
	{"numTraining is a word", "NUM_TRAINING_INVALID", "eight", func(b broken) { b.json(`8`, `"eight"`) }},
	{"file_ending is a number", "FILE_ENDING_INVALID", dataset.FileName, func(b broken) { b.json(`".nii.gz"`, `7`) }},
	{"a label is a fraction", "LABELS_INVALID", "tumour", func(b broken) { b.json(`"tumour": 3`, `"tumour": 2.5`) }},
	{"no background", "BACKGROUND_MISSING", "background", func(b broken) { b.json(`"background"`, `"outside"`) }},
	{"background is not 0", "BACKGROUND_NOT_ZERO", "background is 1",
		func(b broken) { b.json(`"background": 0, "left kidney": 1`, `"background": 1, "left kidney": 0`) }},
	{"background is a list", "BACKGROUND_NOT_SCALAR", "background", func(b broken) { b.json(`"background": 0`, `"background": [0]`) }},
	{"a gap in the labels", "LABELS_NOT_CONSECUTIVE", "before 4", func(b broken) { b.json(`"tumour": 3`, `"tumour": 4`) }},
	{"ignore is too high", "IGNORE_NOT_HIGHEST", "ignore", func(b broken) { b.json(`"tumour": 3`, `"tumour": 3, "ignore": 5`) }},
	{"ignore is a list", "IGNORE_NOT_INT", "ignore", func(b broken) { b.json(`"tumour": 3`, `"tumour": 3, "ignore": [4]`) }},
	{"regions without their order", "REGIONS_ORDER_MISSING", "regions_class_order",
		func(b broken) { b.json(`"tumour": 3`, `"tumour": [1, 3]`) }},
	{"too few in the regions' order", "REGIONS_ORDER_LENGTH", "2 entries for 3", func(b broken) {
		b.json(`"tumour": 3}`, `"tumour": [1, 3]}, "regions_class_order": [1, 2]`)
	}},
	{"numTraining is wrong", "CASE_COUNT", "found 8 cases, numTraining is 9", func(b broken) { b.json(`8`, `9`) }},
	{"no such reader", "READER_UNKNOWN", "NoSuchIO", func(b broken) { b.json(`8`, `8, "overwrite_image_reader_writer": "NoSuchIO"`) }},
	{"no imagesTr", "IMAGES_TR_MISSING", "imagesTr", func(b broken) {
		b.remove("imagesTr")
		b.remove("labelsTr")
		b.check(os.Mkdir(b.path("labelsTr"), 0o777))
	}},
	{"imagesTr is empty", "NO_CASES", "imagesTr", func(b broken) {
		b.remove("imagesTr")
		b.check(os.Mkdir(b.path("imagesTr"), 0o777))
	}},
	{"no labelsTr", "LABELS_TR_MISSING", "labelsTr", func(b broken) { b.remove("labelsTr") }},
	{"another ending", "FILE_ENDING", "c0_0000.nii.gz", func(b broken) { b.json(`.nii.gz`, `.mha`) }},
	{"an ending without a reader", "NO_READER", ".jpg", func(b broken) {
		b.json(`.nii.gz`, `.jpg`)
		for _, pattern := range []string{"imagesTr/*", "labelsTr/*"} {
			files, err := filepath.Glob(b.path(pattern))
			b.check(err)
			for _, f := range files {
				b.check(os.Rename(f, strings.TrimSuffix(f, ".nii.gz")+".jpg"))
			}
		}
	}},
	{"an ending in capitals", "FILE_PASSED_OVER", "imagesTr/c9_0000.NII.GZ", func(b broken) { b.copy(c3[0], "imagesTr/c9_0000.NII.GZ") }},
	{"an unzipped label", "FILE_PASSED_OVER", "labelsTr/c9.nii", func(b broken) { b.copy(c3[2], "labelsTr/c9.nii") }},
	{"a name without a channel", "BAD_FILE_NAME", "imagesTr/c9.nii.gz", func(b broken) { b.copy(c3[0], "imagesTr/c9.nii.gz") }},
	{"a label is missing", "LABEL_MISSING", "case c3, labelsTr/c3.nii.gz", func(b broken) { b.remove(c3[2]) }},
	{"a label without an image", "LABEL_WITHOUT_IMAGE", "labelsTr/c9.nii.gz", func(b broken) { b.copy(c3[2], "labelsTr/c9.nii.gz") }},
	{"names that differ in capitals", "CASE_NAME_COLLISION", "C3 and c3", func(b broken) {
		for i, from := range []string{"imagesTr/c4_0000.nii.gz", "imagesTr/c4_0001.nii.gz", "labelsTr/c4.nii.gz"} {
			b.rename(from, strings.Replace(c3[i], "c3", "C3", 1))
		}
	}},
	{"the first channel is missing", "CHANNEL_COUNT", "channel 0000 (T1) is missing", func(b broken) { b.remove(c3[0]) }},
	{"the last channel is missing", "CHANNEL_COUNT", "channel 0001 (T2) is missing", func(b broken) { b.remove(c3[1]) }},
	{"a third channel", "CHANNEL_COUNT", "channel 0002 is one too many", func(b broken) {
		b.copy(c3[1], "imagesTr/c3_0002.nii.gz")
		b.value("imagesTr/c3_0002.nii.gz", 5)
	}},
	{"a gap in the channels", "CHANNEL_GAP", "0000, 0003", func(b broken) { b.rename(c3[1], "imagesTr/c3_0003.nii.gz") }},
	{"an image of four dimensions", "IMAGE_DIMENSIONS", "case c3, imagesTr/c3_0000.nii.gz", func(b broken) {
		b.edit(c3[0], func(im *imageio.Image) {
			other := slices.Clone(im.Channels[0])
			other[0]++
			im.Channels = append(im.Channels, other)
		})
	}},
	{"a truncated image", "UNREADABLE", "case c3, imagesTr/c3_0001.nii.gz", func(b broken) { b.check(os.Truncate(b.path(c3[1]), 2000)) }},
	{"an empty image", "UNREADABLE", "case c3, imagesTr/c3_0000.nii.gz", func(b broken) { b.write(c3[0], "") }},
	{"a label that is no image", "UNREADABLE", "case c3, labelsTr/c3.nii.gz", func(b broken) { b.write(c3[2], "not here") }},
	{"a damaged image", "UNREADABLE", "case c3, imagesTr/c3_0000.nii.gz", func(b broken) {
		text, err := os.ReadFile(b.path(c3[0]))
		b.check(err)
		text[len(text)-6] ^= 1 // in the checksum
		b.write(c3[0], string(text))
	}},
	{"NaN", "IMAGE_NAN", "case c3, imagesTr/c3_0001.nii.gz: channel T2 has 1 voxels", func(b broken) { b.value(c3[1], math.NaN()) }},
	{"infinity", "IMAGE_INF", "case c3, imagesTr/c3_0000.nii.gz: channel T1", func(b broken) { b.value(c3[0], math.Inf(-1)) }},
	{"an empty channel", "IMAGE_CONSTANT", "case c3, imagesTr/c3_0001.nii.gz: channel 0001 (T2)", func(b broken) {
		b.edit(c3[1], func(im *imageio.Image) { clear(im.Channels[0]) })
	}},
	{"a channel twice", "CHANNEL_DUPLICATE", "channel 0001 (T2) is equal to channel 0000 (T1)", func(b broken) { b.copy(c3[0], c3[1]) }},
	{"channels of two sizes", "CHANNEL_SHAPE_MISMATCH", "case c3, imagesTr/c3_0001.nii.gz", func(b broken) { b.shrink(c3[1]) }},
	{"channels of two spacings", "CHANNEL_SPACING_MISMATCH", "case c3, imagesTr/c3_0001.nii.gz",
		func(b broken) { b.grid(rescale(1.1, 1, 1), c3[1]) }},
	{"channels of two directions", "CHANNEL_DIRECTION_MISMATCH",
		"axis y points posterior, in imagesTr/c3_0000.nii.gz anterior", func(b broken) {
			b.grid(func(g *volume.Grid) { g.Affine[1][1] *= -1 }, c3[1])
		}},
	{"channels of two origins", "CHANNEL_ORIGIN_MISMATCH", "case c3, imagesTr/c3_0001.nii.gz", func(b broken) {
		b.grid(func(g *volume.Grid) { g.Affine[2][3] += 3 }, c3[1])
	}},
	{"a label of another size", "SHAPE_MISMATCH", "case c3, labelsTr/c3.nii.gz", func(b broken) { b.shrink(c3[2]) }},
	{"a label of another spacing", "SPACING_MISMATCH", "case c3, labelsTr/c3.nii.gz",
		func(b broken) { b.grid(rescale(1, 1, 1.001), c3[2]) }},
	{"a label of another direction", "DIRECTION_MISMATCH", "axis x by 10°, axis y by 10°", func(b broken) {
		b.grid(func(g *volume.Grid) {
			sin, cos := math.Sincos(math.Pi / 18)
			for axis := range 2 {
				a, b := g.Affine[0][axis], g.Affine[1][axis]
				g.Affine[0][axis], g.Affine[1][axis] = cos*a-sin*b, sin*a+cos*b
			}
		}, c3[2])
	}},
	{"a label of another origin", "ORIGIN_MISMATCH", "case c3, labelsTr/c3.nii.gz", func(b broken) {
		b.grid(func(g *volume.Grid) { g.Affine[0][3]++ }, c3[2])
	}},
	{"an undeclared label", "LABEL_VALUE", "case c3, labelsTr/c3.nii.gz: the label map holds 4", func(b broken) { b.value(c3[2], 4) }},
	{"a label of one half", "LABEL_VALUE", "[4 13 17] is 0.5", func(b broken) { b.value(c3[2], 0.5) }},
	{"a negative label", "LABEL_VALUE", "holds -1", func(b broken) { b.value(c3[2], -1) }},
	{"a label that is NaN", "LABEL_VALUE", "NaN", func(b broken) { b.value(c3[2], math.NaN()) }},
	{"an empty label", "BACKGROUND_ONLY", "case c3, labelsTr/c3.nii.gz", func(b broken) {
		b.edit(c3[2], func(im *imageio.Image) { clear(im.Channels[0]) })
	}},
	{"a label that no case has", "LABEL_NEVER_USED", "4 (cyst)", func(b broken) { b.json(`"tumour": 3`, `"tumour": 3, "cyst": 4`) }},
	{"another orientation", "ORIENTATION_INCONSISTENT", "axis z points inferior, in most cases (7 of 8) superior", func(b broken) {
		b.grid(func(g *volume.Grid) { g.Affine[2][2] *= -1 }, c3...)
	}},
	{"a sheared grid", "NON_ORTHONORMAL", "axes y and z meet at 84", func(b broken) {
		b.grid(func(g *volume.Grid) { g.Affine[1][2], g.Affine[2][2] = 0.25, 2.4875 }, c3...)
	}},
	{"axes in one plane", "NON_ORTHONORMAL", "axes x and y meet at 0.00°", func(b broken) {
		for _, name := range []string{"0", "1", "2", "3", "4", "5", "6", "7"} {
			for _, file := range c3 {
				b.grid(func(g *volume.Grid) { g.Affine[0][0], g.Affine[1][0] = 0, 1.5 }, strings.Replace(file, "c3", "c"+name, 1))
			}
		}
	}},
	{"two spacings in one header", "SPACING_CONTRADICTION", "along z is 2.5 mm, but 4 mm", func(b broken) {
		b.grid(func(g *volume.Grid) { g.Affine[2][2] = 4 }, c3...)
	}},
	{"centimetres", "SPACING_OUTLIER", "0.25 mm along z, the median is 2.5", func(b broken) { b.grid(rescale(.1, .1, .1), c3...) }},
	{"slices far apart", "SPACING_OUTLIER", "10 mm along z, the median is 2.5", func(b broken) { b.grid(rescale(4, 1, 1), c3...) }},
	{"spacing on the wrong axis", "SPACING_OUTLIER", "[1.5 1.5 2.5] mm, the median [2.5 1.5 1.5]",
		func(b broken) { b.grid(rescale(1.5/2.5, 1, 2.5/1.5), c3...) }},
	{"a mirrored label", "LABEL_MIRRORED", "mirrored left to right (axis x)", func(b broken) { b.mirror(c3[2]) }},
	{"a mirrored image", "LABEL_MIRRORED", "case c3", func(b broken) { b.mirror(c3[:2]...) }},
	{"image and label mirrored", "SIDES_SWAPPED", "right kidney lies 18.1 mm to the left of left kidney",
		func(b broken) { b.mirror(c3...) }},
	{"left and right confused", "SIDES_SWAPPED", "case c3", func(b broken) {
		b.edit(c3[2], func(im *imageio.Image) {
			for i, v := range im.Channels[0] {
				if v == 1 || v == 2 {
					im.Channels[0][i] = 3 - v
				}
			}
		})
	}},
	{"a case twice", "DUPLICATE_IMAGE", "c3 and c6", func(b broken) {
		for _, from := range c3 {
			b.copy(from, strings.Replace(from, "c3", "c6", 1))
		}
	}},
	{"a label twice", "DUPLICATE_LABEL", "labelsTr/c6.nii.gz: the label maps of c3 and c6", func(b broken) {
		meta, _, err := imageio.ReadMeta(b.path("labelsTr/c6.nii.gz"))
		b.check(err)
		b.copy("labelsTr/c3.nii.gz", "labelsTr/c6.nii.gz")
		b.grid(func(g *volume.Grid) { *g = meta.Grid }, "labelsTr/c6.nii.gz")
	}},
	{"a listed file is missing", "FILE_MISSING", "imagesTr/nowhere_0000.nii.gz", func(b broken) {
		b.json(`"numTraining": 8`,
			`"numTraining": 1, "dataset": {"c3": {"images": ["imagesTr/nowhere_0000.nii.gz", "imagesTr/c3_0001.nii.gz"], "label": "labelsTr/c3.nii.gz"}}`)
	}},
	{"a listed case without a label", "DATASET_ENTRY_INVALID", `case "c3"`, func(b broken) {
		b.json(`"numTraining": 8`, `"numTraining": 1, "dataset": {"c3": {"images": ["imagesTr/c3_0000.nii.gz"]}}`)
	}},
	{"splits of another dataset", "SPLITS_UNKNOWN_CASE", "fold 0, val names cases that the dataset does not have: d1", func(b broken) {
		b.write(dataset.SplitsName, `[{"train": ["c1", "c2", "c3", "c4", "c5", "c6", "c7"], "val": ["c0", "d1"]}]`)
	}},
}

func severity(code string) dataset.Severity {
	for _, mere := range []string{"READER_UNKNOWN", "FILE_PASSED_OVER", "LABEL_WITHOUT_IMAGE", "CASE_NAME_COLLISION",
		"CHANNEL_GAP", "IMAGE_INF", "IMAGE_CONSTANT",
		"CHANNEL_DUPLICATE", "CHANNEL_DIRECTION_MISMATCH", "CHANNEL_ORIGIN_MISMATCH", "DIRECTION_MISMATCH", "ORIGIN_MISMATCH", "BACKGROUND_ONLY",
		"LABEL_NEVER_USED", "ORIENTATION_INCONSISTENT", "NON_ORTHONORMAL", "SPACING_CONTRADICTION", "SPACING_OUTLIER", "LABEL_MIRRORED",
		"SIDES_SWAPPED", "DUPLICATE_IMAGE", "DUPLICATE_LABEL"} {
		if code == mere {
			return dataset.Warning
		}
	}
	return dataset.Error
}

func TestSoundDataset(t *testing.T) {
	t.Parallel()
	report, err := Check(t.Context(), sound(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		t.Errorf("%s: %v", f.Code, f)
	}
	if report.Cases != 8 || report.Err() != nil {
		t.Errorf("%d cases, %v", report.Cases, report.Err())
	}
}

// words are the findings of a report, files as they are called within the dataset.
func words(r *Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "case %s, %s: %s; %s\n", f.Case, strings.Join(f.Files, ", "), f.Text, f.Remedy)
	}
	return strings.ReplaceAll(b.String(), r.Dir+string(filepath.Separator), "")
}

// TestBrokenDatasets wants of every fault its own code and no other, and words that say where it is.
func TestBrokenDatasets(t *testing.T) {
	t.Parallel()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			b := broken{t, sound(t)}
			f.edit(b)
			report, err := Check(t.Context(), b.dir, Options{Work: work.Work{Workers: 2}})
			if err != nil {
				t.Fatal(err)
			}
			text := words(report)
			if len(report.Findings) == 0 {
				t.Fatal("nothing was found")
			}
			for _, found := range report.Findings {
				if found.Code != f.code || found.Severity != severity(f.code) || found.Remedy == "" {
					t.Errorf("%s %s, want %s %s\n%s", found.Severity, found.Code, severity(f.code), f.code, text)
				}
			}
			if !strings.Contains(text, f.words) {
				t.Errorf("%q is not in\n%s", f.words, text)
			}
		})
	}
}

// TestFaultsAtOnce breaks a dataset in its description, its files and its voxels, one case twice, and wants all of it
// from one check.
func TestFaultsAtOnce(t *testing.T) {
	t.Parallel()
	b := broken{t, sound(t)}
	b.json(`8`, `9`)
	b.remove("labelsTr/c0.nii.gz")
	b.value("imagesTr/c3_0001.nii.gz", math.NaN())
	b.grid(rescale(1, 1, 1.5), "labelsTr/c3.nii.gz")
	b.remove("imagesTr/c4_0001.nii.gz")
	b.mirror("labelsTr/c5.nii.gz")
	b.value("labelsTr/c6.nii.gz", 9)
	b.check(os.Truncate(b.path("imagesTr/c7_0000.nii.gz"), 900))
	report, err := Check(t.Context(), b.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range report.Findings {
		got = append(got, strings.TrimSpace(f.Case+" "+f.Code))
	}
	want := []string{"CASE_COUNT", "c0 LABEL_MISSING", "c3 IMAGE_NAN", "c3 SPACING_MISMATCH", "c4 CHANNEL_COUNT",
		"c6 LABEL_VALUE", "c7 UNREADABLE", "c5 LABEL_MIRRORED"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if report.Errors != 7 || report.Warnings != 1 || report.Err() == nil || !strings.Contains(report.Err().Error(), "7 errors") {
		t.Errorf("%d errors, %d warnings: %v", report.Errors, report.Warnings, report.Err())
	}

	serial, err := Check(t.Context(), b.dir, Options{Work: work.Work{Workers: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, workers := range []int{2, 3, 16} {
		parallel, err := Check(t.Context(), b.dir, Options{Work: work.Work{Workers: workers}})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(serial, parallel); d != "" {
			t.Errorf("%d workers: %s", workers, d)
		}
	}
}

// stopper cancels after the first case.
type stopper struct {
	progress.Reporter
	cancel context.CancelFunc
	mu     sync.Mutex
	cases  int
}

func (s *stopper) Advance(n int, note string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cases += n
	s.cancel()
}

func TestCheckStopsHalfway(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	s := &stopper{Reporter: progress.Nop, cancel: cancel}
	if report, err := Check(ctx, sound(t), Options{Work: work.Work{Workers: 2, Progress: s}}); !errors.Is(err,
		context.Canceled) || report != nil {
		t.Errorf("a stopped check gave %v, %v", report, err)
	}
	if s.cases < 1 || s.cases > 5 {
		t.Errorf("%d of 8 cases were read", s.cases)
	}
}
