package imageio_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zlib"

	"masksam/internal/goldentest"
	"masksam/internal/imageio"
)

// asNNUNet is what nnU-Net 2.8.1 reads in a file of testdata/pictures (scikit-image 0.26.0, Pillow 13.0.0, tifffile
// 2026.3.3), by NaturalImage2DIO or, where that refuses, Tiff3DIO.
type asNNUNet struct {
	Reader  string
	Shape   [4]int // channels, z, y, x
	Spacing [3]float64
	CRC     uint32 // IEEE, of the voxels as little-endian float32
	First   []*float32
}

func picturesAsNNUNet(t testing.TB) map[string]asNNUNet {
	t.Helper()
	b, err := os.ReadFile("testdata/pictures/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]asNNUNet
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	if len(out) < 100 {
		t.Fatalf("%d files", len(out))
	}
	return out
}

func TestReadAsNNUNet(t *testing.T) {
	t.Parallel()
	for name, want := range picturesAsNNUNet(t) {
		t.Run(name, func(t *testing.T) {
			im, err := imageio.Read(filepath.Join("testdata/pictures", name))
			if err != nil {
				t.Fatal(err)
			}
			if got := [4]int{len(im.Channels), im.Grid.Size[0], im.Grid.Size[1], im.Grid.Size[2]}; got != want.Shape {
				t.Errorf("shape %v, want %v", got, want.Shape)
			}
			if dims := map[string]int{"NaturalImage2DIO": 2,
				"Tiff3DIO": 3}[want.Reader]; im.Grid.Spacing != want.Spacing || im.Dims != dims {
				t.Errorf("spacing %v in %d dimensions, want %v in %d", im.Grid.Spacing, im.Dims, want.Spacing, dims)
			}
			var voxels []byte
			for _, data := range im.Channels {
				for _, v := range data {
					voxels = binary.LittleEndian.AppendUint32(voxels, math.Float32bits(v))
				}
			}
			if crc32.ChecksumIEEE(voxels) != want.CRC {
				t.Errorf("other voxels: %v…, want 2 and then %v…", im.Channels[0][:min(9, len(im.Channels[0]))], deref(want.First))
			}
		})
	}
}

func deref(v []*float32) (out []float32) {
	for _, p := range v {
		if p == nil {
			out = append(out, float32(math.NaN()))
		} else {
			out = append(out, *p)
		}
	}
	return out
}

func addFile(f *testing.F, name string) {
	f.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/pictures", name))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
}

// fuzzPictures reads what it is given as a file of an ending: no panic, memory in proportion to the file (deflate makes
// a byte to 1032 at most).
func fuzzPictures(f *testing.F, ending func(b []byte) string) {
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, fmt.Sprintf("%d%s", os.Getpid(), ending(b)))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		im, err := imageio.Read(path)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 80<<20+uint64(len(b))*1032*64 {
			t.Fatalf("%d bytes allocated for a file of %d", n, len(b))
		}
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Fatalf("error %q does not name the file", err)
			}
			return
		}
		sound(t, im)
	})
}

func FuzzPicture(f *testing.F) {
	for name := range picturesAsNNUNet(f) {
		if ending := filepath.Ext(name); ending == ".png" || ending == ".bmp" {
			addFile(f, name)
		}
	}
	fuzzPictures(f, func(b []byte) string {
		if bytes.HasPrefix(b, []byte("BM")) {
			return ".bmp"
		}
		return ".png"
	})
}

// chunked is a PNG of the given chunks.
func chunked(parts ...string) []byte {
	b := []byte("\x89PNG\r\n\x1a\n")
	for i := 0; i < len(parts); i += 2 {
		b = binary.BigEndian.AppendUint32(b, uint32(len(parts[i+1])))
		b = append(append(b, parts[i]...), parts[i+1]...)
		b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE([]byte(parts[i]+parts[i+1])))
	}
	return b
}

func pngHeader(width, height uint32, bits, colour byte) string {
	b := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, width), height)
	return string(append(b, bits, colour, 0, 0, 0))
}

func deflated(t testing.TB, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	compress(t, zlib.NewWriter(&out), b)
	return out.String()
}

// A picture whose pixels are counted first, because they are many.
func TestLargePNG(t *testing.T) {
	t.Parallel()
	im := image.NewGray(image.Rect(0, 0, 2500, 2000))
	for i := range im.Pix {
		im.Pix[i] = byte(i / 97)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, im); err != nil {
		t.Fatal(err)
	}
	got, err := imageio.ReadLabel(put(t, "a.png", b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got.Data, im.Pix, func(a int32, b byte) bool { return a == int32(b) }) {
		t.Error("other pixels")
	}
}

func TestColoursOf16Bits(t *testing.T) {
	t.Parallel()
	for name, warns := range map[string]bool{"rgb16.png": true, "rgba16.png": true, "rgb8.png": false, "grey16.png": false} {
		_, warnings, err := readCase([]string{"testdata/pictures/" + name})
		if err != nil || warns != (len(warnings) == 1) {
			t.Errorf("%s: warnings %v, %v", name, warnings, err)
		}
	}
}

// The colour PNGs of a chain of goldens have the sizes and spacings that nnU-Net noted, and binary label maps.
func TestPictureGoldens(t *testing.T) {
	t.Parallel()
	chain := goldentest.Path(t, "nnunet/chain/Dataset903_Synth2D")
	var want map[string]struct {
		Spacing [3]float64
		Shape   [3]int `json:"shape_before_cropping"`
	}
	goldentest.JSON(t, "nnunet/chain/Dataset903_Synth2D/nnUNetPlans__2d.properties.json", &want)
	if len(want) != 6 {
		t.Fatalf("%d cases", len(want))
	}
	for id, w := range want {
		im, warnings, err := readCase([]string{filepath.Join(chain, "raw/imagesTr", id+"_0000.png")})
		if err != nil || len(warnings) > 0 {
			t.Fatal(err, warnings)
		}
		l, err := imageio.ReadLabel(filepath.Join(chain, "raw/labelsTr", id+".png"))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []imageio.Meta{im.Meta, l.Meta} {
			if m.Grid.Size != w.Shape || m.Grid.Spacing != w.Spacing {
				t.Errorf("%s: %v, want %+v", m.Path, m.Grid, w)
			}
		}
		if len(im.Channels) != 3 || slices.Max(l.Data) != 1 || slices.Min(l.Data) != 0 {
			t.Errorf("%s: %d channels, labels from %d to %d", id, len(im.Channels), slices.Min(l.Data), slices.Max(l.Data))
		}
	}
}

func pictureRefusals(t testing.TB) map[string]refusal {
	read := func(name string) []byte {
		b, err := os.ReadFile("testdata/pictures/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good, sound := read("rgb8.png"), read("rgb24.bmp")
	flipped := slices.Clone(good)
	flipped[50] ^= 1
	compressed := slices.Clone(sound)
	compressed[30] = 1
	return map[string]refusal{
		"empty":       {"a.png", nil, "truncated"},
		"text":        {"a.png", bytes.Repeat([]byte("no image "), 50), "not a PNG file"},
		"header only": {"a.png", good[:33], "truncated"},
		"cut":         {"a.png", good[:len(good)-30], "truncated"},
		"no end":      {"a.png", good[:len(good)-12], "truncated"},
		"checksum":    {"a.png", flipped, "checksum"},
		"zero size":   {"a.png", chunked("IHDR", pngHeader(0, 3, 8, 0)), "zero size"},
		"grey with alpha": {"a.png", chunked("IHDR", pngHeader(1, 1, 8, 4), "IDAT", deflated(t, make([]byte, 3)),
			"IEND", ""), "without alpha"},
		"too few rows": {"a.png", chunked("IHDR", pngHeader(2, 3, 8, 0), "IDAT", deflated(t, make([]byte, 6)),
			"IEND", ""), "truncated"},
		"too many rows": {"a.png", chunked("IHDR", pngHeader(2, 3, 8, 0), "IDAT", deflated(t, make([]byte, 12)),
			"IEND", ""), "damaged"},
		"no pixels":         {"a.png", chunked("IHDR", pngHeader(2, 3, 8, 0), "IEND", ""), "damaged"},
		"empty BMP":         {"a.bmp", nil, "truncated"},
		"BMP header only":   {"a.bmp", sound[:54], "truncated"},
		"BMP cut":           {"a.bmp", sound[:len(sound)-1], "truncated"},
		"a PNG as BMP":      {"a.bmp", good, "not a BMP file"},
		"compressed BMP":    {"a.bmp", compressed, "convert it to PNG"},
		"BMP of zero size":  {"a.bmp", append(append(slices.Clone(sound[:18]), make([]byte, 8)...), sound[26:]...), "zero size"},
		"BMP of 16 bits":    {"a.bmp", append(append(slices.Clone(sound[:28]), 16), sound[29:]...), "convert it to PNG"},
		"palette too short": {"a.bmp", append(read("colours8.bmp")[:118], bytes.Repeat([]byte{200}, 60)...), "palette"},
	}
}

func pictureClaims(t testing.TB) map[string][]byte {
	claim, err := os.ReadFile("testdata/pictures/rgb24.bmp")
	if err != nil {
		t.Fatal(err)
	}
	le.PutUint32(claim[18:], 1<<15)
	le.PutUint32(claim[22:], 1<<15)
	end := []string{"IEND", ""}
	return map[string][]byte{
		"a.png": chunked(append([]string{"IHDR", pngHeader(1<<15, 1<<15, 8, 6), "IDAT",
			deflated(t, make([]byte, 1<<20)), "IDAT", "more"}, end...)...),
		"b.png": chunked(append([]string{"IHDR", pngHeader(1<<30, 1<<30, 16, 6), "IDAT", "x"}, end...)...),
		"c.png": chunked(append([]string{"IHDR", pngHeader(1<<12, 1<<12, 16, 2), "tIME", "1234567", "IDAT",
			deflated(t, make([]byte, 1<<17))}, end...)...),
		"a.bmp": claim,
	}
}
