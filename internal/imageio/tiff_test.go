package imageio_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// entry is what a tag of a TIFF directory holds: LONGs, or text.
type entry struct {
	values []uint32
	text   string
}

// directory is a classic little-endian TIFF of one page: 2×3 pixels of uint16 and 12 bytes of them, its tags changed by
// edit. next is the offset of the next directory.
func directory(next uint32, edit func(tags map[uint16]entry)) []byte {
	tags := map[uint16]entry{}
	for _, e := range [][2]uint32{{256, 3}, {257, 2}, {258, 16}, {259, 1}, {262, 1}, {273, 8}, {277, 1}, {278, 2}, {279, 12}} {
		tags[uint16(e[0])] = entry{values: []uint32{e[1]}}
	}
	if edit != nil {
		edit(tags)
	}
	b := []byte("II*\x00\x14\x00\x00\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b")
	var keys []int
	for tag := range tags {
		keys = append(keys, int(tag))
	}
	slices.Sort(keys)
	b = le.AppendUint16(b, uint16(len(tags)))
	beyond := len(b) + 12*len(tags) + 4
	var more []byte
	for _, tag := range keys {
		e := tags[uint16(tag)]
		kind, data, n := uint16(4), []byte(nil), len(e.values)
		for _, v := range e.values {
			data = le.AppendUint32(data, v)
		}
		if e.text != "" {
			kind, data, n = 2, []byte(e.text), len(e.text)
		}
		b = le.AppendUint16(le.AppendUint16(b, uint16(tag)), kind)
		b = le.AppendUint32(b, uint32(n))
		if len(data) > 4 {
			b = le.AppendUint32(b, uint32(beyond+len(more)))
			more = append(more, data...)
		} else {
			b = append(append(b, data...), make([]byte, 4-len(data))...)
		}
	}
	return append(le.AppendUint32(b, next), more...)
}

func set(tag uint16, values ...uint32) func(map[uint16]entry) {
	return func(tags map[uint16]entry) { tags[tag] = entry{values: values} }
}

func describe(text string) func(map[uint16]entry) {
	return func(tags map[uint16]entry) { tags[270] = entry{text: text} }
}

func both(edits ...func(map[uint16]entry)) func(map[uint16]entry) {
	return func(tags map[uint16]entry) {
		for _, edit := range edits {
			edit(tags)
		}
	}
}

func tiffRefusals(t testing.TB) map[string]refusal {
	good := directory(0, nil)
	deflated, err := os.ReadFile("testdata/pictures/deflate.tif")
	if err != nil {
		t.Fatal(err)
	}
	checksum := slices.Clone(deflated) // the last strip ends the file
	checksum[len(checksum)-1] ^= 1
	two := func(second func(map[uint16]entry)) []byte {
		first := directory(0, nil)
		return append(directory(uint32(len(first)+20), nil), moved(directory(0, second), len(first))...)
	}
	return map[string]refusal{
		"empty":                  {"a.tif", nil, "truncated"},
		"header only":            {"a.tif", good[:8], "truncated"},
		"half a directory":       {"a.tif", good[:60], "truncated"},
		"text":                   {"a.tif", bytes.Repeat([]byte("no image "), 50), "not a TIFF file"},
		"version":                {"a.tif", []byte("II\x2c\x00\x08\x00\x00\x00"), "version 44"},
		"no page":                {"a.tif", []byte("II*\x00\x00\x00\x00\x00"), "no page"},
		"no tags":                {"a.tif", []byte("II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00"), "0 tags"},
		"circle":                 {"a.tif", directory(20, nil), "circle"},
		"next beyond":            {"a.tif", directory(1<<20, nil), "truncated"},
		"no width":               {"a.tif", directory(0, func(tags map[uint16]entry) { delete(tags, 256) }), "zero size"},
		"zero height":            {"a.tif", directory(0, set(257, 0)), "zero size"},
		"huge":                   {"a.tif", directory(0, both(set(256, 1<<30), set(257, 1<<30))), "beyond"},
		"two samples":            {"a.tif", directory(0, set(277, 2)), "2 samples"},
		"bits differ":            {"a.tif", directory(0, both(set(277, 3), set(258, 8, 8, 16))), "differ"},
		"formats differ":         {"a.tif", directory(0, both(set(277, 3), set(339, 1, 1, 3))), "differ"},
		"12 bits":                {"a.tif", directory(0, set(258, 12)), "12 bits"},
		"float of 8 bits":        {"a.tif", directory(0, both(set(258, 8), set(339, 3))), "8 bits in format 3"},
		"complex":                {"a.tif", directory(0, both(set(258, 64), set(339, 6))), "format 6"},
		"JPEG":                   {"a.tif", directory(0, set(259, 7)), "JPEG compression"},
		"WebP":                   {"a.tif", directory(0, set(259, 50001)), "WebP"},
		"Zstandard":              {"a.tif", directory(0, set(259, 50000)), "deflate (zlib)"},
		"unknown compression":    {"a.tif", directory(0, set(259, 99)), "compression 99"},
		"predictor":              {"a.tif", directory(0, set(317, 4)), "predictor 4"},
		"predictor of floats":    {"a.tif", directory(0, set(317, 3)), "predictor 3"},
		"predictor of bits":      {"a.tif", directory(0, both(set(258, 4), set(317, 2))), "predictor 2"},
		"reversed":               {"a.tif", directory(0, set(266, 2)), "reversed"},
		"YCbCr":                  {"a.tif", directory(0, both(set(277, 3), set(258, 8), set(262, 6))), "YCbCr"},
		"depth":                  {"a.tif", directory(0, set(32997, 5)), "5 slices"},
		"MetaMorph":              {"a.tif", directory(0, set(33629, 1, 2, 3)), "MetaMorph"},
		"strips missing":         {"a.tif", directory(0, set(278, 1)), "take 2"},
		"sparse":                 {"a.tif", directory(0, set(273, 0)), "sparse"},
		"empty strip":            {"a.tif", directory(0, set(279, 0)), "sparse"},
		"strip beyond":           {"a.tif", directory(0, set(273, 1<<20)), "truncated"},
		"strip too long":         {"a.tif", directory(0, set(279, 1<<20)), "truncated"},
		"strip too short":        {"a.tif", directory(0, set(279, 11)), "after 11 of 12"},
		"tiles of nothing":       {"a.tif", directory(0, both(set(322, 0), set(323, 16))), "tiles of 0"},
		"tiles too wide":         {"a.tif", directory(0, both(set(322, 1<<20), set(323, 16))), "tiles of"},
		"old LZW":                {"a.tif", directory(0, set(259, 5)), "old kind"},
		"no deflate":             {"a.tif", directory(0, set(259, 8)), "damaged"},
		"deflate checksum":       {"a.tif", checksum, "checksum"},
		"deflate cut":            {"a.tif", slices.Concat(deflated[:200], deflated[len(deflated)-1:]), "truncated"},
		"four axes":              {"a.tif", directory(0, describe("ImageJ=1\nimages=6\nslices=2\nframes=3\n")), "2 axes"},
		"four axes of tifffile":  {"a.tif", directory(0, describe(`{"shape": [2, 3, 2, 3]}`)), "2 axes"},
		"four axes of OME":       {"a.tif", directory(0, describe(`<?xml?><OME><Pixels SizeX="3" SizeZ="4" SizeT="2"/></OME>`)), "2 axes"},
		"pages missing":          {"a.tif", directory(0, describe("ImageJ=1\nimages=40\n")), "truncated"},
		"pages missing, packed":  {"a.tif", directory(0, both(describe("ImageJ=1\nimages=40\n"), set(259, 8))), "40 pages, there is one"},
		"endless pages":          {"a.tif", directory(0, describe("ImageJ=1\nimages=4000000000\n")), "4000000000"},
		"shape of nothing":       {"a.tif", directory(0, describe(`{"shape": [0, 2, 3]}`)), "stack of"},
		"another size":           {"a.tif", two(set(256, 2)), "page 2 (2×2"},
		"another type":           {"a.tif", two(set(339, 2)), "differs from the first"},
		"a number that is none":  {"a.tif", directory(0, func(tags map[uint16]entry) { tags[256] = entry{} }), "tag 256"},
		"half precision missing": {"a.tif", directory(0, both(set(339, 3), set(279, 10))), "after 10 of 12"},
	}
}

// moved is a file of one directory as the part of another that begins at an offset.
func moved(b []byte, by int) []byte {
	b = slices.Clone(b)
	n := int(le.Uint16(b[20:]))
	for i := range n {
		e := b[22+12*i:]
		if le.Uint16(e) == 273 || le.Uint32(e[4:]) > 1 {
			le.PutUint32(e[8:], le.Uint32(e[8:])+uint32(by))
		}
	}
	return b
}

func TestSpacingBeside(t *testing.T) {
	t.Parallel()
	stack := directory(0, both(set(257, 1), set(278, 1), set(279, 6), describe("ImageJ=1\nslices=2\n")))
	colours := directory(0, both(set(256, 2), set(258, 8), set(277, 3)))
	for name, c := range map[string]struct {
		file   string
		data   []byte
		beside string // name of the file, "" for none
		text   string
		want   [3]float64
		dims   int
		fails  string
	}{
		"label":               {"case.tif", stack, "case.json", `{"spacing": [3, 2, 0.5]}`, [3]float64{3, 2, 0.5}, 3, ""},
		"image":               {"case_0000.tif", stack, "case.json", `{"spacing": [3, 2, 0.5]}`, [3]float64{3, 2, 0.5}, 3, ""},
		"another channel":     {"case_0017.TIFF", stack, "case.json", `{"spacing": [3, 2, 0.5]}`, [3]float64{3, 2, 0.5}, 3, ""},
		"whole name":          {"case_0000.tif", stack, "case_0000.json", `{"spacing": [3, 2, 0.5]}`, [3]float64{3, 2, 0.5}, 3, ""},
		"three digits":        {"case_000.tif", stack, "case.json", `{"spacing": [3, 2, 0.5]}`, [3]float64{1, 1, 1}, 3, ""},
		"dots":                {"a.b.tif", stack, "a.b.json", `{"spacing": [3, 2, 0.5], "more": 1}`, [3]float64{3, 2, 0.5}, 3, ""},
		"none":                {"case.tif", stack, "", "", [3]float64{1, 1, 1}, 3, ""},
		"one slice":           {"case.tif", directory(0, nil), "case.json", `{"spacing": [3, 2, 0.5]}`, [3]float64{3, 2, 0.5}, 3, ""},
		"picture":             {"case.tif", directory(0, nil), "", "", [3]float64{999, 1, 1}, 2, ""},
		"picture and notes":   {"case.tif", directory(0, nil), "case.json", `{"shapes": []}`, [3]float64{999, 1, 1}, 2, ""},
		"colours":             {"case.tif", colours, "case.json", `{"spacing": [3, 2, 0.5]}`, [3]float64{999, 1, 1}, 2, ""},
		"two numbers":         {"case.tif", stack, "case.json", `{"spacing": [2, 0.5]}`, [3]float64{}, 0, "three numbers"},
		"four numbers":        {"case.tif", stack, "case.json", `{"spacing": [2, 0.5, 1, 1]}`, [3]float64{}, 0, "three numbers"},
		"zero":                {"case.tif", stack, "case.json", `{"spacing": [2, 0, 1]}`, [3]float64{}, 0, "three numbers"},
		"negative":            {"case_0000.tif", stack, "case.json", `{"spacing": [2, -1, 1]}`, [3]float64{}, 0, "three numbers"},
		"zero for one slice":  {"case.tif", directory(0, nil), "case.json", `{"spacing": [2, 0, 1]}`, [3]float64{}, 0, "three numbers"},
		"null":                {"case.tif", stack, "case.json", `{"spacing": null}`, [3]float64{}, 0, "three numbers"},
		"no spacing":          {"case.tif", stack, "case.json", `{}`, [3]float64{}, 0, "three numbers"},
		"NaN":                 {"case.tif", stack, "case.json", `{"spacing": [NaN, 1, 1]}`, [3]float64{}, 0, "three numbers"},
		"beyond":              {"case.tif", stack, "case.json", `{"spacing": [1e999, 1, 1]}`, [3]float64{}, 0, "three numbers"},
		"text":                {"case.tif", stack, "case.json", `{"spacing": "1 1 1"}`, [3]float64{}, 0, "three numbers"},
		"cut":                 {"case.tif", stack, "case.json", `{"spacing": [1, 1,`, [3]float64{}, 0, "three numbers"},
		"cut beside one page": {"case.tif", directory(0, nil), "case.json", `{"spacing": [1, 1,`, [3]float64{}, 0, "three numbers"},
	} {
		t.Run(name, func(t *testing.T) {
			path := put(t, c.file, c.data)
			beside := filepath.Join(filepath.Dir(path), c.beside)
			if c.beside != "" {
				if err := os.WriteFile(beside, []byte(c.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			im, warnings, err := readCase([]string{path})
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) || !strings.Contains(err.Error(), beside) ||
					!strings.Contains(err.Error(), path) {
					t.Errorf("error %v, want it to name both files and %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if im.Grid.Spacing != c.want || im.Dims != c.dims {
				t.Errorf("spacing %v in %d dimensions, want %v in %d", im.Grid.Spacing, im.Dims, c.want, c.dims)
			}
			if assumed := c.want == [3]float64{1, 1, 1}; assumed != (len(warnings) > 0) {
				t.Errorf("warnings %v", warnings)
			} else if assumed && (!strings.Contains(warnings[0], path) ||
				!strings.Contains(warnings[0], strings.TrimSuffix(path, ".tif")+".json")) {
				t.Errorf("the warning %q names neither %s nor the missing file", warnings[0], path)
			}
		})
	}
}

func TestTIFFWriteRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	solid := imageio.Meta{Grid: volume.NewGrid([3]int{2, 1, 2}, [3]float64{1, 1, 1}), Dims: 3}
	path := filepath.Join(dir, "a.tif")
	if err := imageio.WriteFloat(path, [][]float32{make([]float32, 4), make([]float32, 4)}, solid); err == nil ||
		!strings.Contains(err.Error(), "one channel") {
		t.Errorf("two channels: %v", err)
	}
	broken := solid
	broken.Grid.Spacing[1] = math.NaN()
	if err := imageio.WriteLabel(path, make([]uint8, 4), broken); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("spacing NaN: %v", err)
	}
	// Where the spacing cannot be written, there is no image that lacks it.
	if err := os.Mkdir(filepath.Join(dir, "a.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := imageio.WriteLabel(path, make([]uint8, 4), solid); err == nil || !strings.Contains(err.Error(), "a.json") {
		t.Errorf("spacing cannot be written: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v %v", entries, err)
	}
	// A picture beside a spacing would be read as a volume.
	other := filepath.Join(dir, "b.tif")
	if err := imageio.WriteLabel(other, make([]uint8, 4), solid); err != nil {
		t.Fatal(err)
	}
	flat := imageio.Meta{Grid: volume.NewGrid([3]int{1, 2, 2}, [3]float64{999, 1, 1}), Dims: 2}
	if err := imageio.WriteLabel(other, make([]uint8, 4), flat); err == nil || !strings.Contains(err.Error(), "b.json") {
		t.Errorf("a picture over a volume: %v", err)
	}
}

func FuzzTIFF(f *testing.F) {
	for name := range picturesAsNNUNet(f) {
		if strings.HasPrefix(filepath.Ext(name), ".tif") {
			addFile(f, name)
		}
	}
	f.Add(directory(0, describe("ImageJ=1\nimages=2\n")))
	f.Add(directory(0, both(set(258, 4), set(322, 16), set(323, 16), set(324, 8), set(325, 12))))
	fuzzPictures(f, func([]byte) string { return ".tif" })
}

// A directory may claim any size: what is allocated depends on what is there.
func tiffClaims(t testing.TB) map[string][]byte {
	side := uint32(1 << 20)
	wide := both(set(256, side), set(257, side)) // 2 TB
	strip := deflated(t, make([]byte, 1000))
	packed := func(edit func(map[uint16]entry)) []byte { // the strip follows the directory
		n := uint32(len(directory(0, edit)))
		return append(directory(0, both(edit, set(273, n), set(279, uint32(len(strip))))), strip...)
	}
	return map[string][]byte{
		"raw.tif":        directory(0, both(wide, set(278, side))),
		"deflated.tif":   packed(both(wide, set(278, side), set(259, 8))),
		"packed.tif":     directory(0, both(wide, set(278, side), set(259, 32773))),
		"LZW.tif":        directory(0, both(wide, set(278, side), set(259, 5), set(273, 12))),
		"tiles.tif":      directory(0, both(wide, set(322, side), set(323, side), set(324, 8), set(325, 12), set(259, 32773))),
		"one row.tif":    directory(0, both(set(256, 1<<30), set(257, 1), set(278, 1), set(317, 2), set(259, 32773))),
		"colours.tif":    packed(both(wide, set(278, side), set(259, 8), set(277, 3))),
		"many pages.tif": directory(0, describe("ImageJ=1\nimages=200000\n")),
		"directory.tif":  []byte("II+\x00\x08\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"),
		"shared.tif":     directory(0, both(set(256, 1<<14), set(257, 1<<14), set(278, 1), set(279, 1<<14), set(259, 32773))),
		"strips.tif":     directory(0, both(wide, set(278, 1), set(273, 8, 8), set(279, 12, 12))),
	}
}
