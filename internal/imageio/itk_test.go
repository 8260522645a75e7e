package imageio_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// expectedITK is what SimpleITK 2.5.7 (ITK 5.4) reads in a file of testdata/itk: x first, LPS.
type expectedITK struct {
	Size                       []int
	Values                     []float32 // none: those of raw.mhd
	Spacing, Origin, Direction []float64
}

func readExpectedITK(t *testing.T) map[string]expectedITK {
	t.Helper()
	b, err := os.ReadFile("testdata/itk/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]expectedITK
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	for name, e := range out {
		if e.Values == nil {
			e.Values = out["raw.mhd"].Values
			out[name] = e
		}
	}
	return out
}

func TestReadAsITK(t *testing.T) {
	t.Parallel()
	for name, want := range readExpectedITK(t) {
		t.Run(name, func(t *testing.T) {
			im, err := imageio.Read(filepath.Join("testdata/itk", name))
			if err != nil {
				t.Fatal(err)
			}
			n := len(want.Size)
			shape := []int{1, 1, 1, 1}
			copy(shape, want.Size)
			dims := min(n, 3)
			size := [3]int{shape[2], shape[1], shape[0]}
			if im.Grid.Size != size || len(im.Channels) != shape[3] || im.Dims != dims {
				t.Errorf("size %v with %d channels, %d dimensions; want %v with %d, %d", im.Grid.Size, len(im.Channels),
					im.Dims, size, shape[3], dims)
			}
			if got := slices.Concat(im.Channels...); !slices.Equal(got, want.Values) {
				t.Errorf("voxels\n%v, want\n%v", got, want.Values)
			}

			// What nnU-Net makes of it: a 2-D image is one slice, a 4-D one has its fourth axis left out.
			var spacing, origin [3]float64
			direction := [9]float64{0: 1, 4: 1, 8: 1}
			for axis := range dims {
				spacing[axis], origin[axis] = want.Spacing[axis], want.Origin[axis]
				for row := range dims {
					direction[3*row+axis] = want.Direction[n*row+axis]
				}
			}
			if dims == 2 {
				spacing[2] = 999 * max(spacing[0], spacing[1])
			}
			meta := imageio.Meta{Grid: volume.FromITK(size, spacing, origin, direction)}
			if !sameITK(im.Meta, meta) {
				t.Errorf("grid\n%v, want\n%v", im.Grid, meta.Grid)
			}
		})
	}
}

// What ITK cannot read, or misreads.
func TestReadBeyondITK(t *testing.T) {
	t.Parallel()
	good := shorts(12)
	packed, err := hex.DecodeString("425a6839314159265359d23782aa00000640007ffc20002200034201a000acf13579bc0111f8bb9229c2848691bc1550") // good by bzip2 1.0.8
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("1,2,3 , 4\n\n5\t6 7 8 9 10 11 12")
	one := []float32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	two := slices.Concat(one[:6], one[6:])
	for name, c := range map[string]struct {
		file     string
		data     []byte
		channels int
		dims     int
		want     []float32
	}{
		"commas": {"a.mha", metaFile(text, "BinaryData = False"), 1, 3, one},
		"NaN and infinity": {"a.mha", metaFile([]byte("NaN inf -Inf 4 5 6 7 8 9 10 11 12"), "BinaryData = False",
			"ElementType = MET_DOUBLE"), 1, 3, nil},
		"no CompressedDataSize": {"a.mha", metaFile(deflate(t, good), "CompressedData = True"), 1, 3, one},
		"NDims last":            {"a.mha", metaFile(good, "ElementType = MET_SHORT", "NDims = 3"), 1, 3, one},
		"NRRD commas":           {"a.nrrd", nrrdFile(text, "encoding: ascii"), 1, 3, one},
		"bzip2":                 {"a.nrrd", nrrdFile(packed, "encoding: bzip2"), 1, 3, one},
		"list last": {"a.nrrd", nrrdFile(good, "dimension: 4", "sizes: 2 3 1 2",
			"kinds: domain domain domain list"), 2, 3, two},
		"list last, 2-D": {"a.nrrd", nrrdFile(good, "sizes: 2 3 2", "kinds: space space vector"), 2, 2, two},
		"time beside space": {"a.nrrd", nrrdFile(good, "dimension: 4", "sizes: 2 3 1 2", "space: LPS",
			"space directions: (1,0,0) (0,1,0) (0,0,1) none"), 2, 3, two},
		"a list of one": {"a.nrrd", nrrdFile(good, "dimension: 4", "sizes: 1 2 3 2",
			"kinds: list domain domain domain"), 1, 3, one},
		"space after directions": {"a.nrrd", nrrdFile(good, "space directions: (1,0,0) (0,1,0) (0,0,1)", "space: LPS"), 1, 3, one},
	} {
		t.Run(name, func(t *testing.T) {
			im, err := imageio.Read(put(t, c.file, c.data))
			if err != nil {
				t.Fatal(err)
			}
			got := slices.Concat(im.Channels...)
			if c.want == nil {
				if !math.IsNaN(float64(got[0])) || !math.IsInf(float64(got[1]), 1) || !math.IsInf(float64(got[2]), -1) || got[3] != 4 {
					t.Errorf("voxels %v", got)
				}
				return
			}
			if len(im.Channels) != c.channels || im.Dims != c.dims || !slices.Equal(got, c.want) {
				t.Errorf("%d channels, %d dimensions, voxels %v; want %d, %d, %v", len(im.Channels), im.Dims, got,
					c.channels, c.dims, c.want)
			}
		})
	}
}

// A 4-D NRRD in RAS lies where the same 3-D one lies.
func TestNRRDSpaceWithTime(t *testing.T) {
	t.Parallel()
	for short, long := range map[string]string{"RAS": "right-anterior-superior-time", "LAS": "LAST",
		"LPS": "left-posterior-superior-time"} {
		plain := nrrdFile(shorts(12), "space: "+short, "space directions: (1,2,0) (-4,2,0) (0,0,3)", "space origin: (1,2,3)")
		timed := nrrdFile(shorts(12), "dimension: 4", "sizes: 2 3 2 1", "space: "+long,
			"space directions: (1,2,0,0) (-4,2,0,0) (0,0,3,0) (0,0,0,9)", "space origin: (1,2,3,4)")
		a, _, err := imageio.ReadMeta(put(t, "a.nrrd", plain))
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := imageio.ReadMeta(put(t, "b.nrrd", timed))
		if err != nil {
			t.Fatal(err)
		}
		if a.Grid != b.Grid {
			t.Errorf("%s: %v, with time %v", short, a.Grid, b.Grid)
		}
	}
}

// Every name of a NRRD type has its size and sign: a voxel of which only the topmost bit is set tells.
func TestNRRDTypes(t *testing.T) {
	t.Parallel()
	for names, want := range map[string]struct {
		size  int
		value float64
	}{
		"signed char|int8|int8_t|INT8":                                                            {1, -0x1p7},
		"uchar|unsigned char|uint8|uint8_t":                                                       {1, 0x1p7},
		"short|short int|signed short|signed short int|int16|int16_t":                             {2, -0x1p15},
		"ushort|unsigned short|unsigned short int|uint16|uint16_t":                                {2, 0x1p15},
		"int|signed int|int32|int32_t":                                                            {4, -0x1p31},
		"uint|unsigned int|uint32|uint32_t":                                                       {4, 0x1p31},
		"longlong|long long|long long int|signed long long|signed long long int|int64|int64_t":    {8, -0x1p63},
		"ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t|Unsigned Long  Long": {8, 0x1p63},
	} {
		data := make([]byte, 12*want.size)
		data[want.size-1] = 0x80
		for name := range strings.SplitSeq(names, "|") {
			im, err := imageio.Read(put(t, "a.nrrd", nrrdFile(data, "type: "+name)))
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if float64(im.Channels[0][0]) != want.value || im.Channels[0][1] != 0 {
				t.Errorf("%s: %v, want %v", name, im.Channels[0][:2], want.value)
			}
		}
	}
}

// A label map written onto the header of any readable file lies where that file lies.
func TestITKLabelOntoEveryHeader(t *testing.T) {
	t.Parallel()
	var sources []string
	for name := range readExpectedITK(t) {
		sources = append(sources, filepath.Join("testdata/itk", name))
	}
	for name := range readExpected(t) {
		sources = append(sources, filepath.Join("testdata", name))
	}
	dir := t.TempDir()
	seen := map[volume.Grid]bool{}
	for _, source := range sources {
		meta, _, err := imageio.ReadMeta(source)
		if err != nil {
			t.Fatal(err)
		}
		if seen[meta.Grid] {
			continue
		}
		seen[meta.Grid] = true
		labels := make([]uint8, meta.Grid.Len())
		for i := range labels {
			labels[i] = uint8(i)
		}
		for _, ending := range []string{".mha", ".nrrd", ".nii.gz"} {
			if ending == ".nii.gz" && meta.NIfTI != nil {
				continue // TestLabelOntoEveryHeader
			}
			path := filepath.Join(dir, "a"+ending)
			if err := imageio.WriteLabel(path, labels, meta); err != nil {
				t.Fatal(err)
			}
			got, err := imageio.ReadLabel(path)
			if err != nil {
				t.Fatal(err)
			}
			want := meta
			switch {
			case ending == ".nii.gz": // of 32-bit numbers, and no 2-D spacing along z
				want.Grid = got.Grid
			case ending == ".nrrd" || meta.Dims == 2: // no axes but of unit length, and none along z in 2-D
				spacing, origin, direction := meta.Grid.ITK()
				if meta.Dims == 2 {
					origin[2], direction[2], direction[5], direction[6], direction[7], direction[8] = 0, 0, 0, 0, 0, 1
				}
				want.Grid = volume.FromITK(meta.Grid.Size, spacing, origin, direction)
			}
			if !sameITK(got.Meta, want) || got.Dims != meta.Dims {
				t.Errorf("%s as %s: grid %v, want %v", source, ending, got.Grid, want.Grid)
			}
			for i, v := range got.Data {
				if int(v) != i {
					t.Fatalf("%s as %s: labels %v", source, ending, got.Data)
				}
			}
		}
	}
}

// Sizes are not written as 1e+06, nor zeros as -0.
func TestITKHeaderNumbers(t *testing.T) {
	t.Parallel()
	like := imageio.Meta{Grid: volume.NewGrid([3]int{1, 1, 1000000}, [3]float64{1, 1e-7, 1e6}), Dims: 3}
	for _, name := range []string{"a.mha", "a.nrrd"} {
		path := filepath.Join(t.TempDir(), name)
		if err := imageio.WriteLabel(path, make([]uint8, like.Grid.Len()), like); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte("1000000 1 1\n")) || bytes.Contains(b, []byte(" -0 ")) || bytes.Contains(b, []byte(",-0,")) {
			t.Errorf("%s: header %.300q", name, b)
		}
		if got, _, err := imageio.ReadMeta(path); err != nil || !sameITK(got, like) {
			t.Errorf("%s: %v %v, want %v", name, got.Grid, err, like.Grid)
		}
	}
}

func FuzzMetaImage(f *testing.F) { fuzzITK(f, ".mha") }
func FuzzNRRD(f *testing.F)      { fuzzITK(f, ".nrrd") }

func fuzzITK(f *testing.F, ending string) {
	paths, err := filepath.Glob("testdata/itk/*" + ending)
	if err != nil || len(paths) < 50 {
		f.Fatal(len(paths), err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	fuzzReader(f, ending)
}
