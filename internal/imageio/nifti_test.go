package imageio_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/gzip"

	"masksam/internal/goldentest"
	"masksam/internal/imageio"
)

// expected is what two other programs read in a file of testdata: nibabel 5.4.2, and ITK 5.4 where it opens the file.
type expected struct {
	Shape  []int
	Values []float32 // file order: x fastest
	Zooms  []float64
	Affine []float64 // three rows

	ITKSpacing   []float64 `json:"itk_spacing"`
	ITKOrigin    []float64 `json:"itk_origin"`
	ITKDirection []float64 `json:"itk_direction"`
}

func readExpected(t *testing.T) map[string]expected {
	t.Helper()
	b, err := os.ReadFile("testdata/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]expected
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func near(a, b []float64, tolerance float64) bool {
	return slices.EqualFunc(a, b, func(a, b float64) bool { return math.Abs(a-b) <= tolerance*max(1, math.Abs(b)) })
}

// classOf is a reader class by its name.
func classOf(t testing.TB, name string) *imageio.Reader {
	t.Helper()
	r, err := imageio.ChooseReader(name, "", "")
	if err != nil || r.Name != name {
		t.Fatal(r, err)
	}
	return r
}

func TestReadAsNibabelAndITK(t *testing.T) {
	t.Parallel()
	nibabel, itk := classOf(t, "NibabelIO"), classOf(t, "SimpleITKIO")
	for name, want := range readExpected(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join("testdata", name)
			im, err := nibabel.Read(path)
			if err != nil {
				t.Fatal(err)
			}
			shape := []int{1, 1, 1, 1}
			copy(shape, want.Shape)
			size := [3]int{shape[2], shape[1], shape[0]}
			if im.Grid.Size != size || len(im.Channels) != shape[3] {
				t.Errorf("size %v with %d channels, want %v with %d", im.Grid.Size, len(im.Channels), size, shape[3])
			}
			if got := slices.Concat(im.Channels...); !slices.Equal(got, want.Values) {
				t.Errorf("voxels\n%v, want\n%v", got, want.Values)
			}
			for i, zoom := range want.Zooms[:min(3, len(want.Zooms))] {
				if im.Grid.Spacing[2-i] != zoom {
					t.Errorf("spacing %v (z, y, x), want %v (x, y, z)", im.Grid.Spacing, want.Zooms)
				}
			}
			var affine []float64
			for _, row := range im.Grid.Affine[:3] {
				affine = append(affine, row[:]...)
			}
			if !near(affine, want.Affine, 1e-6) {
				t.Errorf("affine\n%v, want\n%v", affine, want.Affine)
			}

			if len(want.ITKOrigin) != 3 { // in 2-D and 4-D ITK's geometry has as many axes
				return
			}
			if im, err = itk.Read(path); err != nil {
				t.Fatal(err)
			}
			spacing, origin, direction := im.Grid.ITK()
			if !near(spacing[:], want.ITKSpacing, 1e-12) || !near(direction[:], want.ITKDirection, 1e-6) ||
				!near(origin[:], want.ITKOrigin, 1e-6) {
				t.Errorf("ITK geometry %v %v %v, want %v %v %v", spacing, origin, direction, want.ITKSpacing,
					want.ITKOrigin, want.ITKDirection)
			}
		})
	}
}

func TestTwoDimensional(t *testing.T) {
	t.Parallel()
	im, err := imageio.Read("testdata/2d.nii.gz")
	if err != nil {
		t.Fatal(err)
	}
	if want := [3]float64{999 * 1.5, 1.25, 1.5}; im.Grid.Spacing != want || im.Dims != 2 {
		t.Errorf("spacing %v, %d dimensions; want %v, 2", im.Grid.Spacing, im.Dims, want)
	}
}

func TestPairByEitherName(t *testing.T) {
	t.Parallel()
	a, err := imageio.Read("testdata/pair.hdr")
	if err != nil {
		t.Fatal(err)
	}
	b, err := imageio.Read("testdata/pair.img")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a.Channels[0], b.Channels[0]) || a.Grid != b.Grid {
		t.Error("pair.hdr and pair.img differ")
	}
}

func TestChainGoldens(t *testing.T) {
	t.Parallel()
	chain := goldentest.Path(t, "nnunet/chain")
	cases := 0
	for _, file := range []string{
		"Dataset901_SynthAniso/nnUNetPlans__3d_fullres", "Dataset902_SynthRegionsIgnore/nnUNetPlans__3d_fullres", "Dataset904_Hippo10/nnUNetPlans__3d_fullres",
	} {
		b, err := os.ReadFile(filepath.Join(chain, file+".properties.json"))
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]struct {
			SITK    struct{ Spacing, Origin, Direction []float64 } `json:"sitk_stuff"`
			Spacing []float64
		}
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		for name, w := range want {
			cases++
			paths, err := filepath.Glob(filepath.Join(chain, filepath.Dir(file), "raw/imagesTr", name+"_0*.nii.gz"))
			if err != nil || len(paths) == 0 {
				t.Fatalf("no images of %s: %v", name, err)
			}
			im, warnings, err := readCase(paths)
			if err != nil || len(warnings) > 0 {
				t.Fatal(err, warnings)
			}
			spacing, origin, direction := im.Grid.ITK()
			if !slices.Equal(im.Grid.Spacing[:], w.Spacing) || !slices.Equal(spacing[:], w.SITK.Spacing) {
				t.Errorf("%s: spacing %v, want %v", name, im.Grid.Spacing, w.Spacing)
			}
			if !near(origin[:], w.SITK.Origin, 1e-6) || !near(direction[:], w.SITK.Direction, 1e-6) {
				t.Errorf("%s: origin %v direction %v, want %v %v", name, origin, direction, w.SITK.Origin, w.SITK.Direction)
			}
		}
	}
	if cases < 10 {
		t.Errorf("only %d cases compared", cases)
	}
}

func TestExportGoldensRoundTrip(t *testing.T) {
	t.Parallel()
	export := goldentest.Path(t, "nnunet/export")
	paths, err := filepath.Glob(filepath.Join(export, "*.nii.gz"))
	if err != nil || len(paths) != 5 {
		t.Fatalf("%d files, %v; want 5", len(paths), err)
	}
	for _, path := range paths {
		want, err := imageio.ReadLabel(path)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "copy.nii.gz")
		if err := imageio.WriteLabel(copied, want.Data, want.Meta); err != nil {
			t.Fatal(err)
		}
		got, err := imageio.ReadLabel(copied)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Data, want.Data) || got.Grid != want.Grid || *got.NIfTI != *want.NIfTI {
			t.Errorf("%s changes by being read and written", filepath.Base(path))
		}
		// Byte 38 ("regular") is "r" by the standard; the goldens' writer leaves it 0.
		header, original := unzip(t, copied)[:352], unzip(t, path)[:352]
		original[38] = 'r'
		if !bytes.Equal(header, original) {
			t.Errorf("%s: header\n%x, want\n%x", filepath.Base(path), header, original)
		}
	}
}

var le = binary.LittleEndian

// A label map written onto the header of any readable file has that file's grid and header geometry, also when the
// header went through JSON on the way.
func TestLabelOntoEveryHeader(t *testing.T) {
	t.Parallel()
	for name := range readExpected(t) {
		meta, _, err := imageio.ReadMeta(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(meta)
		if err != nil {
			t.Fatal(err)
		}
		var like imageio.Meta
		if err := json.Unmarshal(text, &like); err != nil {
			t.Fatal(err)
		}
		labels := make([]uint8, like.Grid.Len())
		for i := range labels {
			labels[i] = uint8(i)
		}
		path := filepath.Join(t.TempDir(), "a.nii.gz")
		if err := imageio.WriteLabel(path, labels, like); err != nil {
			t.Fatal(err)
		}
		got, err := imageio.ReadLabel(path)
		if err != nil {
			t.Fatal(err)
		}
		if got.Grid != meta.Grid || got.Dims != meta.Dims || *got.NIfTI != *meta.NIfTI {
			t.Errorf("%s: geometry %+v %+v, want %+v %+v", name, got.Grid, got.NIfTI, meta.Grid, meta.NIfTI)
		}
		for i, v := range got.Data {
			if int(v) != i {
				t.Fatalf("%s: labels %v", name, got.Data)
			}
		}
	}
}

func FuzzNIfTI(f *testing.F) {
	f.Add(header(24, nil))
	f.Add(zip(f, header(24, nil)))
	f.Add(header(24, func(h []byte) { le.PutUint16(h[252:], 1); le.PutUint32(h[112:], math.Float32bits(2)) }))
	for _, name := range []string{"nifti2_be.nii.gz", "4d.nii.gz", "2d.nii.gz", "qform_left.nii.gz", "f8_be.nii.gz",
		"i8_be.nii.gz", "units_m.nii.gz"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			f.Fatal(err)
		}
		plain, err := io.ReadAll(z)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
	}
	fuzzReader(f, ".nii")
}

// header is a NIfTI-1 header of a 2×3×2 image of int16, to be changed by edit; n bytes of voxels follow.
func header(n int, edit func(h []byte)) []byte {
	h := make([]byte, 352, 352+n)
	le.PutUint32(h, 348)
	for i, v := range []uint16{3, 2, 3, 2, 1, 1, 1, 1} {
		le.PutUint16(h[40+2*i:], v)
	}
	le.PutUint16(h[70:], 4)
	le.PutUint32(h[108:], math.Float32bits(352))
	copy(h[344:], "n+1\x00")
	if edit != nil {
		edit(h)
	}
	for i := range n {
		h = append(h, byte(i))
	}
	return h
}

func niftiRefusals(t testing.TB) map[string]refusal {
	short := func(at int, v int) func([]byte) { return func(h []byte) { le.PutUint16(h[at:], uint16(v)) } }
	single := func(at int, v float64) func([]byte) {
		return func(h []byte) { le.PutUint32(h[at:], math.Float32bits(float32(v))) }
	}
	good := header(24, nil)
	zipped := zip(t, good)
	checksum := slices.Clone(zipped)
	checksum[len(checksum)-5] ^= 1
	return map[string]refusal{
		"empty":                    {"a.nii", nil, "truncated"},
		"half a header":            {"a.nii", good[:200], "truncated"},
		"no voxels":                {"a.nii", good[:352], "truncated"},
		"a voxel short":            {"a.nii", good[:374], "needs 376 bytes, there are 374"},
		"a voxel short, zipped":    {"a.nii.gz", zip(t, good[:374]), "speaks of 12 samples, the data end after 11"},
		"zip cut":                  {"a.nii.gz", zipped[:len(zipped)-9], "truncated"},
		"zip cut in its checksum":  {"a.nii.gz", zipped[:len(zipped)-2], "truncated"},
		"zip checksum":             {"a.nii.gz", checksum, "checksum"},
		"zip header only":          {"a.nii.gz", []byte{0x1f, 0x8b}, "truncated"},
		"text":                     {"a.nii.gz", bytes.Repeat([]byte("no image "), 50), "not a NIfTI file"},
		"magic":                    {"a.nii", header(24, func(h []byte) { h[344] = 'x' }), "bad magic"},
		"Analyze":                  {"a.nii", header(24, func(h []byte) { clear(h[344:348]) }), "Analyze"},
		"a pair's header":          {"a.nii", header(24, func(h []byte) { h[345] = 'i' }), "two-file"},
		"a pair without voxels":    {"a.hdr", header(24, func(h []byte) { h[345] = 'i'; le.PutUint32(h[108:], 0) }), "voxels"},
		"zero size":                {"a.nii", header(24, short(44, 0)), "zero size"},
		"negative size":            {"a.nii", header(24, short(44, -3)), "zero size"},
		"no dimensions":            {"a.nii", header(24, short(40, 0)), "dimensions"},
		"eight dimensions":         {"a.nii", header(24, short(40, 8)), "dimensions"},
		"one dimension":            {"a.nii", header(24, short(40, 1)), "dimensions"},
		"five dimensions":          {"a.nii", header(24, func(h []byte) { short(40, 5)(h); short(50, 3)(h) }), "5 dimensions"},
		"complex":                  {"a.nii", header(96, short(70, 32)), "complex64"},
		"RGB":                      {"a.nii", header(96, short(70, 128)), "RGB24"},
		"RGBA":                     {"a.nii", header(96, short(70, 2304)), "RGBA32"},
		"unknown type":             {"a.nii", header(96, short(70, 3)), "data type 3"},
		"voxels within the header": {"a.nii", header(24, single(108, 100)), "vox_offset"},
		"offset NaN":               {"a.nii", header(24, single(108, math.NaN())), "vox_offset"},
		"offset negative":          {"a.nii", header(24, single(108, -8)), "vox_offset"},
		"offset beyond":            {"a.nii", header(24, single(108, 1e6)), "truncated"},
		"sform NaN":                {"a.nii", header(24, func(h []byte) { short(254, 1)(h); single(280, math.NaN())(h) }), "sform"},
		"format":                   {"a.jpg", good, "ending"},
	}
}
