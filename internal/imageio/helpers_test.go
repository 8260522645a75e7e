package imageio_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"pgregory.net/rapid"

	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// refusal is a file and what the error of reading it says.
type refusal struct {
	file string
	data []byte
	want string
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
	plain(t, filepath.Base(path), err, path)
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

func drawChannels(t *rapid.T, voxels, most int) [][]float32 {
	var channels [][]float32
	for range rapid.IntRange(1, most).Draw(t, "channels") {
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

func zip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	compress(t, gzip.NewWriter(&out), b)
	return out.Bytes()
}

// compress writes all of a stream and ends it.
func compress(t testing.TB, z io.WriteCloser, b []byte) {
	t.Helper()
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
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

func TestVoxelsThatAreNoLabels(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
		if _, _, err := readCase([]string{a, other}); err == nil || !strings.Contains(err.Error(), a) ||
			!strings.Contains(err.Error(), other) {
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

// uint8 holds labels up to 254, uint16 those above, as in nnU-Net.
func TestLabelType(t *testing.T) {
	t.Parallel()
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

func TestEnding(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"a.nii": ".nii", "x/a.b.nii.gz": ".nii.gz", "a.NII.GZ": ".NII.GZ", "a.gz": "", "nii": ""} {
		if got := imageio.Ending(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// sameITK tells whether two grids are the same but for the rounding of a norm.
func sameITK(a, b imageio.Meta) bool {
	const rounding = 1e-14
	for axis := range 3 {
		if math.Abs(a.Grid.Spacing[2-axis]-b.Grid.Spacing[2-axis]) > rounding*b.Grid.Spacing[2-axis] ||
			a.Grid.Affine[axis][3] != b.Grid.Affine[axis][3] {
			return false
		}
		length := 0.0
		for row := range 3 {
			length += b.Grid.Affine[row][axis] * b.Grid.Affine[row][axis]
		}
		for row := range 3 {
			if math.Abs(a.Grid.Affine[row][axis]-b.Grid.Affine[row][axis]) > rounding*math.Sqrt(length) {
				return false
			}
		}
	}
	return a.Grid.Size == b.Grid.Size
}
