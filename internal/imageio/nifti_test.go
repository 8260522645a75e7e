package imageio_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"pgregory.net/rapid"

	"masksam/internal/goldentest"
	"masksam/internal/imageio"
	"masksam/internal/volume"
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
			if !near(spacing[:], want.ITKSpacing, 1e-12) || !near(direction[:], want.ITKDirection, 1e-6) || !near(origin[:], want.ITKOrigin, 1e-6) {
				t.Errorf("ITK geometry %v %v %v, want %v %v %v", spacing, origin, direction, want.ITKSpacing, want.ITKOrigin, want.ITKDirection)
			}
		})
	}
}

func TestTwoDimensional(t *testing.T) {
	im, err := imageio.Read("testdata/2d.nii.gz")
	if err != nil {
		t.Fatal(err)
	}
	if want := [3]float64{999 * 1.5, 1.25, 1.5}; im.Grid.Spacing != want || im.Dims != 2 {
		t.Errorf("spacing %v, %d dimensions; want %v, 2", im.Grid.Spacing, im.Dims, want)
	}
}

func TestPairByEitherName(t *testing.T) {
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

func unzip(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(z); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
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

var le = binary.LittleEndian

func zip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func put(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// refused demands an error of reading a file that names it once, and what is wrong.
func refused(t *testing.T, path, want string) {
	t.Helper()
	_, err := imageio.Read(path)
	if err == nil {
		t.Fatal("no error")
	}
	if !strings.Contains(err.Error(), want) || strings.Count(err.Error(), path) != 1 {
		t.Errorf("error %q, want it to name the file once, and %q", err, want)
	}
}

// cheaplyRefused is refused without the memory that a header claims.
func cheaplyRefused(t *testing.T, path, want string) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	refused(t, path, want)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("%s: %d bytes allocated", path, n)
	}
}

func TestRefused(t *testing.T) {
	short := func(at int, v int) func([]byte) { return func(h []byte) { le.PutUint16(h[at:], uint16(v)) } }
	single := func(at int, v float64) func([]byte) {
		return func(h []byte) { le.PutUint32(h[at:], math.Float32bits(float32(v))) }
	}
	good := header(24, nil)
	zipped := zip(t, good)
	checksum := slices.Clone(zipped)
	checksum[len(checksum)-5] ^= 1
	testRefused(t, map[string]refusal{
		"empty":                    {"a.nii", nil, "truncated"},
		"half a header":            {"a.nii", good[:200], "truncated"},
		"no voxels":                {"a.nii", good[:352], "truncated"},
		"a voxel short":            {"a.nii", good[:374], "speaks of 376 bytes, there are 374"},
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
		"intercept NaN":            {"a.nii", header(24, func(h []byte) { single(112, 2)(h); single(116, math.NaN())(h) }), "scl_inter"},
		"sform NaN":                {"a.nii", header(24, func(h []byte) { short(254, 1)(h); single(280, math.NaN())(h) }), "sform"},
		"qform NaN":                {"a.nii", header(24, func(h []byte) { short(252, 1)(h); single(256, math.NaN())(h) }), "qform"},
		"format":                   {"a.jpg", good, "ending"},
	})
	if _, err := imageio.Read(filepath.Join(t.TempDir(), "absent.nii")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	if _, err := imageio.Read(t.TempDir() + "/../" + filepath.Base(t.TempDir())); err == nil {
		t.Error("a folder: no error")
	}
}

// refusal is a file and what the error of reading it says.
type refusal struct {
	file string
	data []byte
	want string
}

func testRefused(t *testing.T, cases map[string]refusal) {
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			refused(t, put(t, c.file, c.data), c.want)
		})
	}
}

// A header may claim any size: what is allocated depends on what is there.
func TestClaimsCostNothing(t *testing.T) {
	huge := header(24, func(h []byte) {
		for i := range 3 {
			le.PutUint16(h[42+2*i:], math.MaxInt16) // 70 TB
		}
	})
	testCheap(t, put(t, "a.nii", huge), put(t, "a.nii.gz", zip(t, huge)))
}

// testCheap reads files whose headers claim far more voxels than there are.
func testCheap(t *testing.T, paths ...string) {
	for _, path := range paths {
		cheaplyRefused(t, path, "truncated")
	}
}

func TestVoxelsThatAreNoLabels(t *testing.T) {
	for name, v := range map[string]float64{"NaN": math.NaN(), "fraction": 0.5, "infinity": math.Inf(1), "too large": 1 << 40} {
		b := header(0, func(h []byte) { le.PutUint16(h[70:], 64) })
		for i := range 12 {
			b = le.AppendUint64(b, math.Float64bits([]float64{1, v}[i/9])) // the first bad voxel is (z, y, x) = (1, 1, 1)
		}
		path := put(t, "a.nii", b)
		_, err := imageio.ReadLabel(path)
		bad, ok := errors.AsType[*imageio.LabelError](err)
		if !ok || bad.Voxel != [3]int{1, 1, 1} || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v", name, err)
		}
		if _, err := imageio.Read(path); err != nil {
			t.Errorf("%s: as an image: %v", name, err)
		}
	}
	if _, err := imageio.ReadLabel("testdata/4d.nii.gz"); err == nil {
		t.Error("4-D label map: no error")
	}
	l, err := imageio.ReadLabel("testdata/i2_le.nii.gz")
	if err != nil || !slices.Contains(l.Data, math.MinInt16) {
		t.Errorf("negative values are for dataset.json to judge, not for ReadLabel: %v", err)
	}
}

func TestReadCase(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size [3]int, spacing float64, origin float64) string {
		g := volume.NewGrid(size, [3]float64{3, 1, spacing})
		g.Affine[0][3] = origin
		path := filepath.Join(dir, name+".nii.gz")
		if err := imageio.WriteFloat(path, [][]float32{make([]float32, g.Len())}, imageio.Meta{Grid: g, Dims: 3}); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a := file("a", [3]int{2, 3, 4}, 1, 0)
	same, moved := file("same", [3]int{2, 3, 4}, 1, 0), file("moved", [3]int{2, 3, 4}, 1, 5)
	im, warnings, err := readCase([]string{a, same})
	if err != nil || len(warnings) > 0 || len(im.Channels) != 2 || im.Path != a {
		t.Errorf("two equal channels: %v %v", warnings, err)
	}
	if _, warnings, err := readCase([]string{a, moved}); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], moved) {
		t.Errorf("another origin: warnings %v, error %v; want one warning", warnings, err)
	}
	for _, other := range []string{file("size", [3]int{2, 3, 5}, 1, 0), file("spacing", [3]int{2, 3, 4}, 1.1, 0)} {
		if _, _, err := readCase([]string{a, other}); err == nil || !strings.Contains(err.Error(), a) || !strings.Contains(err.Error(), other) {
			t.Errorf("%s: error %v, want both files named", other, err)
		}
	}
	if _, _, err := readCase(nil); err == nil {
		t.Error("no files: no error")
	}
	meta, channels, err := imageio.ReadMeta("testdata/4d.nii.gz")
	if err != nil || channels != 3 || meta.Grid.Size != [3]int{2, 3, 2} || meta.Dims != 3 {
		t.Errorf("header alone: %+v, %d channels, %v", meta, channels, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	like := imageio.Meta{Grid: volume.NewGrid([3]int{1, 1, 2}, [3]float64{1, 1, 1}), Dims: 3}
	dir := t.TempDir()
	for name, err := range map[string]error{
		"negative": imageio.WriteLabel(filepath.Join(dir, "a.nii.gz"), []int{0, -1}, like),
		"large":    imageio.WriteLabel(filepath.Join(dir, "a.nii.gz"), []int{0, 65536}, like),
		"length":   imageio.WriteLabel(filepath.Join(dir, "a.nii.gz"), []int{0}, like),
		"ending":   imageio.WriteLabel(filepath.Join(dir, "a.xyz"), []int{0, 1}, like),
		"pair":     imageio.WriteLabel(filepath.Join(dir, "a.hdr"), []int{0, 1}, like),
		"floats":   imageio.WriteFloat(filepath.Join(dir, "a.nii"), [][]float32{{1}}, like),
		"none":     imageio.WriteFloat(filepath.Join(dir, "a.nii"), nil, like),
		"folder":   imageio.WriteLabel(filepath.Join(dir, "absent", "a.nii"), []int{0, 1}, like),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

// uint8 holds labels up to 254, uint16 those above, as in nnU-Net.
func TestLabelType(t *testing.T) {
	like := imageio.Meta{Grid: volume.NewGrid([3]int{1, 1, 2}, [3]float64{1, 1, 1}), Dims: 3}
	for largest, kind := range map[int]uint16{0: 2, 254: 2, 255: 512, 65535: 512} {
		path := filepath.Join(t.TempDir(), "a.nii")
		if err := imageio.WriteLabel(path, []int{0, largest}, like); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := le.Uint16(b[70:]); got != kind {
			t.Errorf("labels up to %d: data type %d, want %d", largest, got, kind)
		}
		l, err := imageio.ReadLabel(path)
		if err != nil || l.Data[1] != int32(largest) {
			t.Errorf("label %d read as %v, %v", largest, l.Data, err)
		}
	}
}

// A label map written onto the header of any readable file has that file's grid and header geometry, also when the
// header went through JSON on the way.
func TestLabelOntoEveryHeader(t *testing.T) {
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

// Floats and any grid, NIfTI-1 and (for the length of an axis) NIfTI-2, survive being written and read.
func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		size := [3]int{rapid.IntRange(1, 4).Draw(t, "z"), rapid.IntRange(1, 3).Draw(t, "y"), rapid.IntRange(1, 5).Draw(t, "x")}
		if rapid.IntRange(0, 20).Draw(t, "long") == 0 {
			size[2] = 40000
		}
		mm := rapid.Float32Range(0.01, 100)
		grid := volume.Grid{Size: size, Spacing: [3]float64{float64(mm.Draw(t, "sz")), float64(mm.Draw(t, "sy")), float64(mm.Draw(t, "sx"))}}
		turn := drawTurn(t)
		mirror := float64(rapid.SampledFrom([]int{-1, 1}).Draw(t, "mirror"))
		for row := range 3 {
			for axis := range 3 {
				grid.Affine[row][axis] = turn[row][axis] * grid.Spacing[2-axis]
			}
			grid.Affine[row][2] *= mirror
			grid.Affine[row][3] = float64(rapid.Float32Range(-500, 500).Draw(t, "origin"))
		}
		grid.Affine[3][3] = 1
		channels := drawChannels(t, grid.Len())
		path := filepath.Join(dir, rapid.SampledFrom([]string{"a.nii", "a.nii.gz"}).Draw(t, "name"))
		if err := imageio.WriteFloat(path, channels, imageio.Meta{Grid: grid, Dims: 3}); err != nil {
			t.Fatal(err)
		}
		got, err := imageio.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if got.Grid.Size != size || got.Grid.Spacing != grid.Spacing || len(got.Channels) != len(channels) {
			t.Fatalf("%v with %d channels, want %v with %d", got.Grid, len(got.Channels), grid, len(channels))
		}
		sameChannels(t, got.Channels, channels)
		sameAffine(t, got.Grid, grid, "sform", 2e-6)
		// The qform tells the same place: read it by hiding the sform. Close to half a turn a quaternion without its
		// first part, in 32 bits, is only good to the root of their precision.
		hidden := got.Meta
		g := *got.NIfTI
		g.SForm = 0
		hidden.NIfTI = &g
		if err := imageio.WriteFloat(path, channels[:1], hidden); err != nil {
			t.Fatal(err)
		}
		byQForm, _, err := imageio.ReadMeta(path)
		if err != nil {
			t.Fatal(err)
		}
		sameAffine(t, byQForm.Grid, grid, "qform", 1e-3)
	})
}

// drawTurn draws a rotation, made from a quaternion.
func drawTurn(t *rapid.T) [3][3]float64 {
	var q [4]float64
	norm := 0.0
	for i := range q {
		q[i] = float64(rapid.IntRange(-3, 3).Draw(t, "q"))
		norm += q[i] * q[i]
	}
	if norm == 0 {
		q[0], norm = 1, 1
	}
	a, b, c, d := q[0], q[1], q[2], q[3]
	return [3][3]float64{
		{(a*a + b*b - c*c - d*d) / norm, 2 * (b*c - a*d) / norm, 2 * (b*d + a*c) / norm},
		{2 * (b*c + a*d) / norm, (a*a + c*c - b*b - d*d) / norm, 2 * (c*d - a*b) / norm},
		{2 * (b*d - a*c) / norm, 2 * (c*d + a*b) / norm, (a*a + d*d - b*b - c*c) / norm},
	}
}

func drawChannels(t *rapid.T, voxels int) [][]float32 {
	var channels [][]float32
	for range rapid.IntRange(1, 3).Draw(t, "channels") {
		data := make([]float32, voxels)
		for i := range data[:min(len(data), 60)] {
			data[i] = rapid.Float32().Draw(t, "voxel")
		}
		channels = append(channels, data)
	}
	return channels
}

func sameChannels(t *rapid.T, got, want [][]float32) {
	t.Helper()
	for c := range want {
		if !slices.Equal(got[c], want[c]) {
			t.Fatalf("channel %d: %v, want %v", c, got[c], want[c])
		}
	}
}

func sameAffine(t *rapid.T, got, want volume.Grid, form string, tolerance float64) {
	t.Helper()
	for row := range 3 {
		for column := range 4 {
			scale := 500.0
			if column < 3 {
				scale = want.Spacing[2-column]
			}
			if math.Abs(got.Affine[row][column]-want.Affine[row][column]) > tolerance*scale {
				t.Fatalf("%s: affine %v, want %v", form, got.Affine, want.Affine)
			}
		}
	}
}

func TestEnding(t *testing.T) {
	for path, want := range map[string]string{"a.nii": ".nii", "x/a.b.nii.gz": ".nii.gz", "a.NII.GZ": ".NII.GZ", "a.gz": "", "nii": ""} {
		if got := imageio.Ending(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// sound demands what holds of every image that can be read.
func sound(t *testing.T, im *imageio.Image) {
	t.Helper()
	for c, data := range im.Channels {
		if len(data) == 0 || len(data) != im.Grid.Len() {
			t.Fatalf("channel %d has %d voxels, size %v", c, len(data), im.Grid.Size)
		}
	}
	for _, s := range im.Grid.Spacing {
		if !(s > 0) || math.IsInf(s, 0) {
			t.Fatalf("spacing %v", im.Grid.Spacing)
		}
	}
}

func FuzzNIfTI(f *testing.F) {
	f.Add(header(24, nil))
	f.Add(zip(f, header(24, nil)))
	f.Add(header(24, func(h []byte) { le.PutUint16(h[252:], 1); le.PutUint32(h[112:], math.Float32bits(2)) }))
	for _, name := range []string{"nifti2_be.nii.gz", "4d.nii.gz", "2d.nii.gz", "qform_left.nii.gz", "f8_be.nii.gz", "i8_be.nii.gz", "units_m.nii.gz"} {
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

// fuzzReader gives files of an ending to Read: no panic, errors that name the file, memory for what is there only, and
// what can be read can be written onto.
func fuzzReader(f *testing.F, ending string) {
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, fmt.Sprint(os.Getpid(), ending))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		im, err := imageio.Read(path)
		runtime.ReadMemStats(&after)
		// A byte unpacks to 1032 at most, each of which may become a float32, and slices double as they grow.
		if n, most := after.TotalAlloc-before.TotalAlloc, uint64(64<<20+4*4*1032*len(b)); n > most {
			t.Fatalf("%d bytes allocated for a file of %d", n, len(b))
		}
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Fatalf("error %q does not name the file", err)
			}
			return
		}
		sound(t, im)
		text, err := json.Marshal(im.Meta)
		if err != nil {
			t.Fatal(err)
		}
		var like imageio.Meta
		if err := json.Unmarshal(text, &like); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, fmt.Sprint(os.Getpid(), ".out", ending))
		if err := imageio.WriteLabel(out, make([]uint8, im.Grid.Len()), like); err != nil {
			t.Fatal(err)
		}
		l, err := imageio.ReadLabel(out)
		if err != nil {
			t.Fatal(err)
		}
		if like.NIfTI != nil && l.Grid != im.Grid || !sameITK(l.Meta, im.Meta) {
			t.Fatalf("grid %v, want %v", l.Grid, im.Grid)
		}
	})
}

// BenchmarkRead reads 8 MB of uint16, compressed.
func BenchmarkRead(b *testing.B) {
	for _, ending := range []string{".nii.gz", ".mha", ".nrrd", ".tif"} {
		b.Run(ending[1:], func(b *testing.B) { benchmarkRead(b, "a"+ending) })
	}
}

func benchmarkRead(b *testing.B, name string) {
	g := volume.NewGrid([3]int{64, 256, 256}, [3]float64{1, 1, 1})
	labels := make([]uint16, g.Len())
	for i := range labels {
		labels[i] = uint16(i>>8) * 3
	}
	path := filepath.Join(b.TempDir(), name)
	if err := imageio.WriteLabel(path, labels, imageio.Meta{Grid: g, Dims: 3}); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(2 * g.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := imageio.Read(path); err != nil {
			b.Fatal(err)
		}
	}
}
