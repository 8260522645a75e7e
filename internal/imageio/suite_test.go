package imageio_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// tested is a format and what its files hold. One suite tests every format, as gonum's testblas does every
// implementation.
type tested struct {
	endings  []string // of files that are written
	dims     []int    // that a written file can have
	channels int      // most channels of fractions; 0: it holds labels only
	largest  int      // label
	long     int      // a length of the innermost axis that is stored in another way
	// grid is one that a file keeps.
	grid func(t *rapid.T, size [3]int, dims int) volume.Grid
	// same demands that a grid came back.
	same func(t *rapid.T, got, want imageio.Meta)
	// more is what else holds of a file that was written; may be nil.
	more     func(t *rapid.T, path string, got, like imageio.Meta)
	refusals func(t testing.TB) map[string]refusal
	// claims are files whose headers speak of far more voxels than there are, by their names; no error need say so in
	// one way.
	claims func(t testing.TB) map[string][]byte
	// unwritable is what cannot be written, into a folder.
	unwritable func(dir string) map[string]error
}

var suite = map[string]tested{
	"NIfTI": {
		endings: []string{".nii", ".nii.gz"}, dims: []int{3}, channels: 3, largest: math.MaxUint16, long: 40000, grid: upright,
		same: sameNIfTI, more: byQForm, refusals: niftiRefusals, claims: niftiClaims, unwritable: func(dir string) map[string]error {
			return map[string]error{"pair": imageio.WriteLabel(filepath.Join(dir, "a.hdr"), []int{0, 1}, pixels(1, 1, 2))}
		},
	},
	"MetaImage and NRRD": {
		endings: []string{".mha", ".nrrd"}, dims: []int{2, 3}, channels: 3, largest: math.MaxUint16, grid: anyAxes,
		same: func(t *rapid.T, got, want imageio.Meta) {
			if !sameITK(got, want) {
				t.Fatalf("grid %v, want %v", got.Grid, want.Grid)
			}
		},
		refusals: itkRefusals, claims: itkClaims, unwritable: func(dir string) map[string]error {
			flat := pixels(1, 1, 2)
			flat.Grid.Affine[2][2] = 0
			out := map[string]error{}
			for name, like := range map[string]imageio.Meta{"a.mhd": pixels(1, 1, 2), "a.nhdr": pixels(1, 1, 2),
				"flat.mha": flat, "flat.nrrd": flat} {
				out[name] = imageio.WriteLabel(filepath.Join(dir, name), []int{0, 1}, like)
			}
			return out
		},
	},
	"PNG": {
		endings: []string{".png", ".PNG"}, dims: []int{2}, largest: math.MaxUint16, grid: picture, same: sameGrid,
		refusals: pictureRefusals, claims: pictureClaims, unwritable: func(dir string) map[string]error {
			return map[string]error{
				"slices":    imageio.WriteLabel(filepath.Join(dir, "a.png"), make([]uint8, 4), pixels(2, 1, 2)),
				"fractions": imageio.WriteFloat(filepath.Join(dir, "a.png"), [][]float32{make([]float32, 4)}, pixels(1, 2, 2)),
			}
		},
	},
	"BMP": {
		endings: []string{".bmp"}, dims: []int{2}, largest: 254, grid: picture, same: sameGrid,
		unwritable: func(dir string) map[string]error {
			return map[string]error{
				"fractions": imageio.WriteFloat(filepath.Join(dir, "a.bmp"), [][]float32{make([]float32, 4)}, pixels(1, 2, 2)),
			}
		},
	},
	"TIFF": {
		endings: []string{".tif", ".tiff", ".TIF"}, dims: []int{2, 3}, channels: 1, largest: math.MaxUint16, long: 40000, grid: stack,
		same: sameGrid, more: versionOf(42), refusals: tiffRefusals, claims: tiffClaims, unwritable: func(dir string) map[string]error {
			broken := pixels(2, 1, 2)
			broken.Grid.Spacing[1] = math.NaN()
			return map[string]error{
				"channels": imageio.WriteFloat(filepath.Join(dir, "a.tif"),
					[][]float32{make([]float32, 4), make([]float32, 4)}, pixels(2, 1, 2)),
				"spacing NaN": imageio.WriteLabel(filepath.Join(dir, "a.tif"), make([]uint8, 4), broken),
			}
		},
	},
}

// pixels is a plain grid; one slice is a picture.
func pixels(z, y, x int) imageio.Meta {
	if z == 1 && y > 1 {
		return imageio.Meta{Grid: imageio.PictureGrid(y, x), Dims: 2}
	}
	return imageio.Meta{Grid: volume.NewGrid([3]int{z, y, x}, [3]float64{1, 1, 1}), Dims: 3}
}

// each runs a test for every format.
func each(t *testing.T, test func(t *testing.T, f tested)) {
	for name, f := range suite {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, f)
		})
	}
}

// TestRoundTrip: fractions and labels on any grid that a format holds survive being written and read.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f tested) { f.roundTrip(t) })
}

// TestBigTIFF is TestRoundTrip for TIFF files of 64-bit offsets. It changes a limit of the package, so no other test
// may run beside it.
func TestBigTIFF(t *testing.T) {
	imageio.LimitClassicTIFF(t, 0)
	f := suite["TIFF"]
	f.more = versionOf(43)
	f.roundTrip(t)
}

func (f tested) roundTrip(t *testing.T) {
	dir, files := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		files++ // every file is new: the spacing beside a TIFF stack would make a volume of a later picture
		path := filepath.Join(dir, fmt.Sprint(files, rapid.SampledFrom(f.endings).Draw(t, "ending")))
		dims := rapid.SampledFrom(f.dims).Draw(t, "dimensions")
		size := [3]int{1, rapid.IntRange(1, 5).Draw(t, "y"), rapid.IntRange(1, 9).Draw(t, "x")}
		if dims == 3 {
			size[0] = rapid.IntRange(1, 4).Draw(t, "z")
		}
		if f.long > 0 && rapid.IntRange(0, 20).Draw(t, "long") == 0 {
			size[2] = f.long
		}
		like := imageio.Meta{Grid: f.grid(t, size, dims), Dims: dims}
		var got imageio.Meta
		if f.channels > 0 && rapid.Bool().Draw(t, "fractions") {
			channels := drawChannels(t, like.Grid.Len(), f.channels)
			if err := imageio.WriteFloat(path, channels, like); err != nil {
				t.Fatal(err)
			}
			im, err := imageio.Read(path)
			if err != nil {
				t.Fatal(err)
			}
			sameChannels(t, im.Channels, channels)
			if got = im.Meta; len(channels) > 1 {
				like.Dims = 3
			}
		} else {
			labels := make([]int, like.Grid.Len())
			most := rapid.SampledFrom([]int{1, 254, 255, math.MaxUint16}).Draw(t, "most")
			for i := range labels[:min(len(labels), 100)] {
				labels[i] = rapid.IntRange(0, most).Draw(t, "label")
			}
			err := imageio.WriteLabel(path, labels, like)
			if largest := slices.Max(labels); largest > f.largest {
				if err == nil || !strings.Contains(err.Error(), fmt.Sprint(f.largest)) {
					t.Fatalf("labels up to %d: %v", largest, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			l, err := imageio.ReadLabel(path)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(l.Data, labels, func(a int32, b int) bool { return int(a) == b }) {
				t.Fatal("other labels")
			}
			got = l.Meta
		}
		if got.Dims != like.Dims || got.Grid.Size != size {
			t.Fatalf("%v in %d dimensions, want %v in %d", got.Grid.Size, got.Dims, size, like.Dims)
		}
		f.same(t, got, like)
		if f.more != nil {
			f.more(t, path, got, like)
		}
	})
}

// Grids that formats keep.

func picture(_ *rapid.T, size [3]int, _ int) volume.Grid {
	return imageio.PictureGrid(size[1], size[2])
}

func stack(t *rapid.T, size [3]int, dims int) volume.Grid {
	if dims == 2 {
		return picture(t, size, dims)
	}
	mm := rapid.Float64Range(1e-3, 1e3)
	return volume.NewGrid(size, [3]float64{mm.Draw(t, "sz"), mm.Draw(t, "sy"), mm.Draw(t, "sx")})
}

// upright has axes at right angles and numbers of 32 bits.
func upright(t *rapid.T, size [3]int, _ int) volume.Grid {
	mm := rapid.Float32Range(0.01, 100)
	g := volume.Grid{Size: size, Spacing: [3]float64{float64(mm.Draw(t, "sz")), float64(mm.Draw(t, "sy")), float64(mm.Draw(t, "sx"))}}
	turn := drawTurn(t)
	mirror := float64(rapid.SampledFrom([]int{-1, 1}).Draw(t, "mirror"))
	for row := range 3 {
		for axis := range 3 {
			g.Affine[row][axis] = turn[row][axis] * g.Spacing[2-axis]
		}
		g.Affine[row][2] *= mirror
		g.Affine[row][3] = float64(rapid.Float32Range(-500, 500).Draw(t, "origin"))
	}
	g.Affine[3][3] = 1
	return g
}

// anyAxes may be turned, mirrored and sheared.
func anyAxes(t *rapid.T, size [3]int, dims int) volume.Grid {
	mm, position := rapid.Float64Range(1e-3, 1e3), rapid.Float64Range(-1e4, 1e4)
	var spacing, origin [3]float64
	var direction [9]float64
	turn := drawTurn(t)
	shear := rapid.SampledFrom([]float64{0, 0, 0.3}).Draw(t, "shear")
	mirror := rapid.SampledFrom([]float64{-1, 1}).Draw(t, "mirror")
	for axis := range 3 {
		spacing[axis], origin[axis] = mm.Draw(t, "spacing"), position.Draw(t, "origin")
		for row := range 3 {
			direction[3*row+axis] = turn[row][axis]
		}
	}
	for row := range 3 {
		direction[3*row+1] = (direction[3*row+1] + shear*direction[3*row]) / math.Sqrt(1+shear*shear)
		direction[3*row+2] *= mirror
	}
	if dims == 2 {
		angle := rapid.Float64Range(0, 7).Draw(t, "angle")
		spacing[2], origin[2] = 999*max(spacing[0], spacing[1]), 0
		direction = [9]float64{math.Cos(angle), -math.Sin(angle), 0, math.Sin(angle), math.Cos(angle), 0, 0, 0, 1}
	}
	return volume.FromITK(size, spacing, origin, direction)
}

func sameGrid(t *rapid.T, got, want imageio.Meta) {
	if got.Grid.Size != want.Grid.Size || got.Grid.Spacing != want.Grid.Spacing {
		t.Fatalf("grid %v, want %v", got.Grid, want.Grid)
	}
}

func sameNIfTI(t *rapid.T, got, want imageio.Meta) {
	sameGrid(t, got, want)
	sameAffine(t, got.Grid, want.Grid, "sform", 2e-6)
}

// byQForm reads the qform by hiding the sform: it tells the same place. Close to half a turn a quaternion without its
// first part, in 32 bits, is only good to the root of their precision.
func byQForm(t *rapid.T, path string, got, like imageio.Meta) {
	g := *got.NIfTI
	g.SForm = 0
	got.NIfTI = &g
	if err := imageio.WriteLabel(path, make([]uint8, got.Grid.Len()), got); err != nil {
		t.Fatal(err)
	}
	hidden, _, err := imageio.ReadMeta(path)
	if err != nil {
		t.Fatal(err)
	}
	sameAffine(t, hidden.Grid, like.Grid, "qform", 1e-3)
}

func versionOf(want byte) func(t *rapid.T, path string, got, like imageio.Meta) {
	return func(t *rapid.T, path string, _, _ imageio.Meta) {
		head, err := os.ReadFile(path)
		if err != nil || head[2] != want {
			t.Fatalf("version %d, %v", head[2], err)
		}
	}
}

// TestRefused: what is broken is refused, by an error that names the file and says what is wrong.
func TestRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f tested) {
		if f.refusals != nil {
			for name, c := range f.refusals(t) {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					refused(t, put(t, c.file, c.data), c.want)
				})
			}
		}
		for _, ending := range f.endings {
			if _, err := imageio.Read(filepath.Join(t.TempDir(), "absent"+ending)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("an absent %s: %v", ending, err)
			}
			folder := filepath.Join(t.TempDir(), "a"+ending)
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			refused(t, folder, "is a folder")
		}
	})
}

// TestDamagedInPlainWords: wherever a file is cut or a bit of it turns, it is read, or the error names it and speaks no
// library's language.
func TestDamagedInPlainWords(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f tested) {
		for _, ending := range f.endings {
			z := f.dims[len(f.dims)-1] - 1 // one slice of a picture
			labels := make([]uint8, z*60)
			for i := range labels {
				labels[i] = uint8(i * i % 5)
			}
			path := filepath.Join(t.TempDir(), "a"+ending)
			if err := imageio.WriteLabel(path, labels, pixels(z, 6, 10)); err != nil {
				t.Fatal(err)
			}
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			try := func(what string, b []byte) bool {
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				_, err := imageio.ReadLabel(path)
				if err != nil {
					plain(t, what, err, path)
				}
				return err == nil
			}
			cuts := 0
			for n := range whole {
				if n%3 == 0 || n > len(whole)-20 {
					if !try(fmt.Sprintf("%s cut after %d bytes", ending, n), whole[:n]) {
						cuts++
					}
				}
				b := slices.Clone(whole)
				b[n] ^= 1 << (n % 8)
				try(fmt.Sprintf("%s with bit %d of byte %d turned", ending, n%8, n), b)
			}
			if cuts < len(whole)/4 {
				t.Errorf("%s: only %d cuts are refused", ending, cuts)
			}
		}
	})
}

// foreign are words of libraries and types.
var foreign = []string{"EOF", "gzip:", "zlib:", "flate:", "png:", "bmp:", "tiff:", "lzw:", "bzip2 data", "encoding/", "strconv", "json:",
	"invalid ", "unexpected", "runtime", "int16", "uint", "float64", "%!", "0x", "unmarshal", "syntax"}

func plain(t *testing.T, what string, err error, path string) {
	t.Helper()
	text := strings.Replace(err.Error(), path, "", 1)
	for _, word := range foreign {
		if strings.Contains(text, word) {
			t.Errorf("%s: the error %q says %q", what, text, word)
		}
	}
	if text == err.Error() || strings.Contains(text, path) {
		t.Errorf("%s: the error %q does not name the file once", what, err)
	}
}

// TestClaimsCostNothing: a header may claim any size; what is allocated depends on what is there. Memory is measured,
// so no other test may run beside it.
func TestClaimsCostNothing(t *testing.T) {
	for name, f := range suite {
		if f.claims == nil {
			continue
		}
		for file, data := range f.claims(t) {
			t.Run(name+"/"+file, func(t *testing.T) { cheaplyRefused(t, put(t, file, data), "") })
		}
	}
}

func niftiClaims(t testing.TB) map[string][]byte {
	huge := header(24, func(h []byte) {
		for i := range 3 {
			le.PutUint16(h[42+2*i:], math.MaxInt16) // 70 TB
		}
	})
	return map[string][]byte{"a.nii": huge, "a.nii.gz": zip(t, huge)}
}

func itkClaims(t testing.TB) map[string][]byte {
	z := deflate(t, nil)
	return map[string][]byte{
		"a.mha":  metaFile(nil, "DimSize = 30000 30000 30000"),
		"b.mha":  metaFile(z, "DimSize = 30000 30000 30000", "CompressedData = True"),
		"c.mha":  metaFile([]byte("1 2 3"), "DimSize = 30000 30000 30000", "BinaryData = False"),
		"d.nrrd": nrrdFile(nil, "sizes: 30000 30000 30000"),
		"e.nrrd": nrrdFile(zip(t, nil), "sizes: 30000 30000 30000", "encoding: gzip"),
	}
}

// TestWriteRefuses: what cannot be written is refused, and nothing is left behind.
func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f tested) {
		dir := t.TempDir()
		found := f.unwritable(dir)
		like := pixels(1, 2, 1)
		for _, ending := range f.endings {
			path := filepath.Join(dir, "a"+ending)
			found["negative "+ending] = imageio.WriteLabel(path, []int{0, -1}, like)
			found["large "+ending] = imageio.WriteLabel(path, []int{0, 65536}, like)
			found["length "+ending] = imageio.WriteLabel(path, []int{0}, like)
			found["floats "+ending] = imageio.WriteFloat(path, [][]float32{{1}}, like)
			found["none "+ending] = imageio.WriteFloat(path, nil, like)
			found["folder "+ending] = imageio.WriteLabel(filepath.Join(dir, "absent", "a"+ending), []int{0, 1}, like)
		}
		found["ending"] = imageio.WriteLabel(filepath.Join(dir, "a.xyz"), []int{0, 1}, like)
		for name, err := range found {
			if err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("left behind: %v %v", entries, err)
		}
	})
}
