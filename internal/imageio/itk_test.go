package imageio_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zlib"
	"pgregory.net/rapid"

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
				t.Errorf("size %v with %d channels, %d dimensions; want %v with %d, %d", im.Grid.Size, len(im.Channels), im.Dims, size, shape[3], dims)
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

// sameITK tells whether two grids are the same but for the rounding of a norm.
func sameITK(a, b imageio.Meta) bool {
	const rounding = 1e-14
	for axis := range 3 {
		if math.Abs(a.Grid.Spacing[2-axis]-b.Grid.Spacing[2-axis]) > rounding*b.Grid.Spacing[2-axis] || a.Grid.Affine[axis][3] != b.Grid.Affine[axis][3] {
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

// metaFile is a MetaImage of 2×3×2 int16 with some lines added or, for a key that is there already, replaced.
func metaFile(data []byte, lines ...string) []byte {
	return textFile(" =", "ElementDataFile = LOCAL\n", data, lines, "NDims = 3", "DimSize = 2 3 2", "ElementType = MET_SHORT")
}

// nrrdFile is such a NRRD.
func nrrdFile(data []byte, lines ...string) []byte {
	return append([]byte("NRRD0004\n"), textFile(":", "\n", data, lines, "type: short", "dimension: 3", "sizes: 2 3 2", "encoding: raw", "endian: little")...)
}

func textFile(separator, end string, data []byte, lines []string, header ...string) []byte {
	for _, line := range lines {
		key, _, _ := strings.Cut(line, separator)
		header = slices.DeleteFunc(header, func(old string) bool { return strings.HasPrefix(old, key+separator) })
	}
	all := slices.Concat(header, lines)
	if slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, "ElementDataFile") }) {
		end = ""
	}
	return append([]byte(strings.Join(all, "\n")+"\n"+end), data...)
}

// shorts are the numbers from 1 to n as int16.
func shorts(n int) []byte {
	var b []byte
	for i := range n {
		b = le.AppendUint16(b, uint16(i+1))
	}
	return b
}

func deflate(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zlib.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// What ITK cannot read, or misreads.
func TestReadBeyondITK(t *testing.T) {
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
		"commas":                 {"a.mha", metaFile(text, "BinaryData = False"), 1, 3, one},
		"NaN and infinity":       {"a.mha", metaFile([]byte("NaN inf -Inf 4 5 6 7 8 9 10 11 12"), "BinaryData = False", "ElementType = MET_DOUBLE"), 1, 3, nil},
		"no CompressedDataSize":  {"a.mha", metaFile(deflate(t, good), "CompressedData = True"), 1, 3, one},
		"NDims last":             {"a.mha", metaFile(good, "ElementType = MET_SHORT", "NDims = 3"), 1, 3, one},
		"NRRD commas":            {"a.nrrd", nrrdFile(text, "encoding: ascii"), 1, 3, one},
		"bzip2":                  {"a.nrrd", nrrdFile(packed, "encoding: bzip2"), 1, 3, one},
		"list last":              {"a.nrrd", nrrdFile(good, "dimension: 4", "sizes: 2 3 1 2", "kinds: domain domain domain list"), 2, 3, two},
		"list last, 2-D":         {"a.nrrd", nrrdFile(good, "sizes: 2 3 2", "kinds: space space vector"), 2, 2, two},
		"time beside space":      {"a.nrrd", nrrdFile(good, "dimension: 4", "sizes: 2 3 1 2", "space: LPS", "space directions: (1,0,0) (0,1,0) (0,0,1) none"), 2, 3, two},
		"a list of one":          {"a.nrrd", nrrdFile(good, "dimension: 4", "sizes: 1 2 3 2", "kinds: list domain domain domain"), 1, 3, one},
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
				t.Errorf("%d channels, %d dimensions, voxels %v; want %d, %d, %v", len(im.Channels), im.Dims, got, c.channels, c.dims, c.want)
			}
		})
	}
}

// A 4-D NRRD in RAS lies where the same 3-D one lies.
func TestNRRDSpaceWithTime(t *testing.T) {
	for short, long := range map[string]string{"RAS": "right-anterior-superior-time", "LAS": "LAST", "LPS": "left-posterior-superior-time"} {
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

func TestITKRefused(t *testing.T) {
	good := shorts(12)
	packed := deflate(t, good)
	badSum := slices.Clone(packed)
	badSum[len(badSum)-1] ^= 1
	zipped := zip(t, good)
	badCRC := slices.Clone(zipped)
	badCRC[len(badCRC)-5] ^= 1
	geometry := []string{"space: LPS", "space origin: (0,0,0)"}
	testRefused(t, map[string]refusal{
		"empty":                      {"a.mha", nil, "not a MetaImage file"},
		"text":                       {"a.mha", []byte("no image\n"), "not a MetaImage file"},
		"no newline":                 {"a.mha", bytes.Repeat([]byte("x"), 2<<20), "longer than"},
		"no ElementDataFile":         {"a.mha", []byte("NDims = 3\n"), "ElementDataFile"},
		"no dimensions":              {"a.mha", metaFile(good, "NDims = 0"), "NDims"},
		"eleven dimensions":          {"a.mha", metaFile(good, "NDims = 11"), "NDims"},
		"size beside dimensions":     {"a.mha", metaFile(good, "NDims = 4"), "DimSize"},
		"zero size":                  {"a.mha", metaFile(good, "DimSize = 2 0 2"), "zero size"},
		"size no number":             {"a.mha", metaFile(good, "DimSize = 2 x 2"), "DimSize"},
		"size no whole number":       {"a.mha", metaFile(good, "DimSize = 2 2.5 2"), "whole"},
		"size beyond":                {"a.mha", metaFile(good, "DimSize = 9e14 9e14 9e14"), "beyond any file"},
		"many channels":              {"a.mha", metaFile(good, "NDims = 4", "DimSize = 1 1 1 70000"), "channels"},
		"type":                       {"a.mha", metaFile(good, "ElementType = MET_SHORT_ARRAY"), "MET_SHORT_ARRAY"},
		"vectors":                    {"a.mha", metaFile(good, "ElementNumberOfChannels = 3"), "one value per voxel"},
		"spacing zero":               {"a.mha", metaFile(good, "ElementSpacing = 1 0 1"), "spacing"},
		"spacing NaN":                {"a.mha", metaFile(good, "ElementSpacing = 1 nan 1"), "spacing"},
		"spacing infinite":           {"a.mha", metaFile(good, "ElementSpacing = 1 inf 1"), "spacing"},
		"origin NaN":                 {"a.mha", metaFile(good, "Offset = 1 nan 1"), "origin"},
		"axes in a plane":            {"a.mha", metaFile(good, "TransformMatrix = 1 2 3 4 5 6 7 8 9"), "one plane"},
		"matrix short":               {"a.mha", metaFile(good, "TransformMatrix = 1 0 0 1"), "TransformMatrix"},
		"a voxel short":              {"a.mha", metaFile(good[:22]), "truncated"},
		"a voxel short, zlib":        {"a.mha", metaFile(deflate(t, good[:22]), "CompressedData = True"), "speaks of 12 samples, the data end after 11"},
		"zlib cut":                   {"a.mha", metaFile(packed[:len(packed)-6], "CompressedData = True"), "truncated"},
		"zlib absent":                {"a.mha", metaFile(nil, "CompressedData = True"), "truncated"},
		"zlib checksum":              {"a.mha", metaFile(badSum, "CompressedData = True"), "checksum"},
		"no zlib":                    {"a.mha", metaFile(good, "CompressedData = True"), "zlib"},
		"words":                      {"a.mha", metaFile([]byte("1 2 x"), "BinaryData = False"), "is no whole number of 16 bits"},
		"fractions of short":         {"a.mha", metaFile([]byte("1.5 2 3"), "BinaryData = False"), "is no whole number of 16 bits"},
		"beyond short":               {"a.mha", metaFile([]byte("1 40000"), "BinaryData = False"), "is no whole number of 16 bits"},
		"long word":                  {"a.mha", metaFile(bytes.Repeat([]byte("1"), 1000), "BinaryData = False"), "is no number"},
		"numbers short":              {"a.mha", metaFile([]byte("1 2 3"), "BinaryData = False"), "data end after 3"},
		"HeaderSize in the header":   {"a.mha", metaFile(good, "HeaderSize = 10"), "HeaderSize"},
		"HeaderSize beyond":          {"a.mha", metaFile(good, "HeaderSize = 100000"), "truncated"},
		"HeaderSize -1, zlib":        {"a.mha", metaFile(packed, "HeaderSize = -1", "CompressedData = True"), "HeaderSize"},
		"HeaderSize -2":              {"a.mha", metaFile(packed, "HeaderSize = -2"), "HeaderSize"},
		"list":                       {"a.mhd", metaFile(nil, "ElementDataFile = LIST"), "several files"},
		"pattern":                    {"a.mhd", metaFile(nil, "ElementDataFile = a%d.raw 1 2 1"), "several files"},
		"absolute":                   {"a.mhd", metaFile(nil, "ElementDataFile = /etc/passwd"), "header's folder"},
		"outside":                    {"a.mhd", metaFile(nil, "ElementDataFile = b/../../a.raw"), "header's folder"},
		"absent":                     {"a.mhd", metaFile(nil, "ElementDataFile = b.raw"), "voxels in b.raw"},
		"itself":                     {"a.mhd", metaFile(nil, "DimSize = 20 30 20", "ElementDataFile = a.mhd"), "truncated"},
		"NRRD empty":                 {"a.nrrd", nil, "not a NRRD file"},
		"NRRD version":               {"a.nrrd", []byte("NRRD0009\n"), "not a NRRD file"},
		"NRRD magic alone":           {"a.nrrd", []byte("NRRD0004"), "type"},
		"NRRD field":                 {"a.nrrd", nrrdFile(good, "bogus: 1"), "bogus"},
		"NRRD line":                  {"a.nrrd", nrrdFile(good, "bogus"), "bogus"},
		"NRRD field twice":           {"a.nrrd", nrrdFile(good, "line skip: 0", "lineskip: 0"), "twice"},
		"NRRD type":                  {"a.nrrd", nrrdFile(good, "type: block"), "block"},
		"NRRD encoding":              {"a.nrrd", nrrdFile(good, "encoding: zip"), "encoding"},
		"NRRD endian":                {"a.nrrd", nrrdFile(good, "endian: middle"), "endian"},
		"NRRD no endian":             {"a.nrrd", bytes.Replace(nrrdFile(good), []byte("endian: little\n"), nil, 1), "endian"},
		"NRRD dimension":             {"a.nrrd", nrrdFile(good, "dimension: 17"), "dimension"},
		"NRRD no dimension":          {"a.nrrd", bytes.Replace(nrrdFile(good), []byte("dimension: 3\n"), nil, 1), "dimension"},
		"NRRD sizes":                 {"a.nrrd", nrrdFile(good, "sizes: 2 3 2 4"), "sizes"},
		"NRRD zero size":             {"a.nrrd", nrrdFile(good, "sizes: 2 3 0"), "zero size"},
		"NRRD one axis":              {"a.nrrd", nrrdFile(good, "dimension: 1", "sizes: 12"), "1 spatial axes"},
		"NRRD five axes":             {"a.nrrd", nrrdFile(good, "dimension: 5", "sizes: 2 3 1 1 2"), "5 dimensions"},
		"NRRD vectors":               {"a.nrrd", nrrdFile(good, "sizes: 3 2 2", "kinds: RGB-color domain domain"), "values per voxel"},
		"NRRD channels twice":        {"a.nrrd", nrrdFile(good, "dimension: 5", "sizes: 1 1 3 2 2", "kinds: space space space time list"), "5 dimensions"},
		"NRRD no channels":           {"a.nrrd", nrrdFile(good, "dimension: 4", "sizes: 2 3 2 0", "kinds: space space space list"), "zero size"},
		"NRRD kinds":                 {"a.nrrd", nrrdFile(good, "kinds: space"), "kinds"},
		"NRRD centers":               {"a.nrrd", nrrdFile(good, "centers: cell"), "centers"},
		"NRRD space":                 {"a.nrrd", nrrdFile(good, "space: nowhere"), "space"},
		"NRRD space of 2":            {"a.nrrd", nrrdFile(good, "space dimension: 2"), "space of 2"},
		"NRRD space of -1":           {"a.nrrd", nrrdFile(good, "space dimension: -1"), "spacedimension"},
		"NRRD two spaces":            {"a.nrrd", nrrdFile(good, "space dimension: 3", "space: RAS"), "spacedimension"},
		"NRRD directions, no space":  {"a.nrrd", nrrdFile(good, "space directions: (1,0,0) (0,1,0) (0,0,1)"), "no space"},
		"NRRD two directions":        {"a.nrrd", nrrdFile(good, append(geometry, "space directions: (1,0,0) (0,1,0)")...), "spacedirections"},
		"NRRD four directions":       {"a.nrrd", nrrdFile(good, append(geometry, "space directions: (1,0,0) (0,1,0) (0,0,1) none")...), "more than 3"},
		"NRRD short direction":       {"a.nrrd", nrrdFile(good, append(geometry, "space directions: (1,0,0) (0,1) (0,0,1)")...), "not 3"},
		"NRRD open direction":        {"a.nrrd", nrrdFile(good, append(geometry, "space directions: (1,0,0) (0,1,0) (0,0,1")...), "vectors"},
		"NRRD zero direction":        {"a.nrrd", nrrdFile(good, append(geometry, "space directions: (1,0,0) (0,1,0) (0,0,0)")...), "spacing"},
		"NRRD axes in a plane":       {"a.nrrd", nrrdFile(good, append(geometry, "space directions: (1,0,0) (0,1,0) (1,1,0)")...), "one plane"},
		"NRRD spacings in space":     {"a.nrrd", nrrdFile(good, append(geometry, "spacings: 1 1 1")...), "spacings"},
		"NRRD spacings":              {"a.nrrd", nrrdFile(good, "spacings: 1 1"), "spacings"},
		"NRRD spacing zero":          {"a.nrrd", nrrdFile(good, "spacings: 1 0 1"), "spacing"},
		"NRRD a voxel short":         {"a.nrrd", nrrdFile(good[:22]), "truncated"},
		"NRRD a voxel short, gzip":   {"a.nrrd", nrrdFile(zip(t, good[:22]), "encoding: gzip"), "data end after 11"},
		"NRRD gzip cut":              {"a.nrrd", nrrdFile(zipped[:len(zipped)-2], "encoding: gzip"), "truncated"},
		"NRRD gzip absent":           {"a.nrrd", nrrdFile(nil, "encoding: gzip"), "truncated"},
		"NRRD gzip checksum":         {"a.nrrd", nrrdFile(badCRC, "encoding: gzip"), "checksum"},
		"NRRD bzip2":                 {"a.nrrd", nrrdFile(zipped, "encoding: bzip2"), "bzip2"},
		"NRRD hex":                   {"a.nrrd", nrrdFile([]byte("01 0x"), "encoding: hex"), "hex"},
		"NRRD hex short":             {"a.nrrd", nrrdFile([]byte("0100 0"), "encoding: hex"), "truncated"},
		"NRRD byte skip beyond":      {"a.nrrd", nrrdFile(good, "byte skip: 100"), "truncated"},
		"NRRD byte skip beyond gzip": {"a.nrrd", nrrdFile(zipped, "encoding: gzip", "byte skip: 100"), "truncated"},
		"NRRD byte skip -1 of gzip":  {"a.nrrd", nrrdFile(zipped, "encoding: gzip", "byte skip: -1"), "byteskip"},
		"NRRD line skip":             {"a.nrrd", nrrdFile(good, "line skip: 100"), "lines to skip"},
		"NRRD line skip -1":          {"a.nrrd", nrrdFile(good, "line skip: -1"), "lineskip"},
		"NRRD list":                  {"a.nhdr", []byte("NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 2\nencoding: raw\nendian: little\ndata file: LIST\na.raw\nb.raw\n"), "several files"},
		"NRRD data file absent":      {"a.nhdr", nrrdFile(nil, "data file: b.raw"), "voxels in b.raw"},
		"NRRD data file outside":     {"a.nhdr", nrrdFile(nil, "data file: ../b.raw"), "header's folder"},
		"NRRD no data file":          {"a.nhdr", nrrdFile(nil), "truncated"},
	})
	if _, err := imageio.Read(filepath.Join(t.TempDir(), "absent.mha")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
}

func TestITKClaimsCostNothing(t *testing.T) {
	z := deflate(t, nil)
	testCheap(t,
		put(t, "a.mha", metaFile(nil, "DimSize = 30000 30000 30000")),
		put(t, "b.mha", metaFile(z, "DimSize = 30000 30000 30000", "CompressedData = True")),
		put(t, "c.mha", metaFile([]byte("1 2 3"), "DimSize = 30000 30000 30000", "BinaryData = False")),
		put(t, "d.nrrd", nrrdFile(nil, "sizes: 30000 30000 30000")),
		put(t, "e.nrrd", nrrdFile(zip(t, nil), "sizes: 30000 30000 30000", "encoding: gzip")),
	)
}

// A label map written onto the header of any readable file lies where that file lies.
func TestITKLabelOntoEveryHeader(t *testing.T) {
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

func TestITKWriteRefuses(t *testing.T) {
	dir := t.TempDir()
	like := imageio.Meta{Grid: volume.NewGrid([3]int{1, 1, 2}, [3]float64{1, 1, 1}), Dims: 3}
	flat := like
	flat.Grid.Affine[2][2] = 0
	for name, err := range map[string]error{
		"mhd":       imageio.WriteLabel(filepath.Join(dir, "a.mhd"), []int{0, 1}, like),
		"nhdr":      imageio.WriteLabel(filepath.Join(dir, "a.nhdr"), []int{0, 1}, like),
		"flat mha":  imageio.WriteLabel(filepath.Join(dir, "a.mha"), []int{0, 1}, flat),
		"flat nrrd": imageio.WriteLabel(filepath.Join(dir, "a.nrrd"), []int{0, 1}, flat),
		"folder":    imageio.WriteLabel(filepath.Join(dir, "absent", "a.mha"), []int{0, 1}, like),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

// Sizes are not written as 1e+06, nor zeros as -0.
func TestITKHeaderNumbers(t *testing.T) {
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

// Floats on any grid, turned, mirrored or sheared, of 2, 3 or 4 dimensions, survive being written and read.
func TestITKRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		mm, position := rapid.Float64Range(1e-3, 1e3), rapid.Float64Range(-1e4, 1e4)
		size := [3]int{rapid.IntRange(1, 4).Draw(t, "z"), rapid.IntRange(1, 3).Draw(t, "y"), rapid.IntRange(1, 5).Draw(t, "x")}
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
		dims := rapid.IntRange(2, 3).Draw(t, "dimensions")
		if dims == 2 {
			angle := rapid.Float64Range(0, 7).Draw(t, "angle")
			size[0], spacing[2], origin[2] = 1, 999*max(spacing[0], spacing[1]), 0
			direction = [9]float64{math.Cos(angle), -math.Sin(angle), 0, math.Sin(angle), math.Cos(angle), 0, 0, 0, 1}
		}
		like := imageio.Meta{Grid: volume.FromITK(size, spacing, origin, direction), Dims: dims}
		channels := drawChannels(t, like.Grid.Len())
		path := filepath.Join(dir, rapid.SampledFrom([]string{"a.mha", "a.nrrd"}).Draw(t, "name"))
		if err := imageio.WriteFloat(path, channels, like); err != nil {
			t.Fatal(err)
		}
		got, err := imageio.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(channels) > 1 {
			dims = 3
		}
		if !sameITK(got.Meta, like) || got.Dims != dims || len(got.Channels) != len(channels) {
			t.Fatalf("%v with %d channels, %d dimensions; want %v with %d, %d", got.Grid, len(got.Channels), got.Dims, like.Grid, len(channels), dims)
		}
		sameChannels(t, got.Channels, channels)
	})
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
