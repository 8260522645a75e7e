package imageio_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/imageio"
)

// names gives the volumes of a split names in a folder of their own.
func names(dir string) func(int) string {
	return func(c int) string { return filepath.Join(dir, fmt.Sprintf("v_%04d.nii.gz", c)) }
}

// TestSplitKeepsEverything: whatever the sample type, byte order, scaling and version, a volume holds the source's bytes
// and lies where the source lies.
func TestSplitKeepsEverything(t *testing.T) {
	t.Parallel()
	sizes := map[int]int{2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}
	rapid.Check(t, func(r *rapid.T) {
		order := rapid.SampledFrom([]binary.ByteOrder{binary.LittleEndian, binary.BigEndian}).Draw(r, "order")
		kind := rapid.SampledFrom([]int{2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280}).Draw(r, "type")
		volumes := rapid.IntRange(1, 4).Draw(r, "volumes")
		extension := 16 * rapid.IntRange(0, 1).Draw(r, "extension")
		version2 := rapid.Bool().Draw(r, "NIfTI-2")
		each := 12 * sizes[kind]
		data := rapid.SliceOfN(rapid.Byte(), volumes*each, volumes*each).Draw(r, "samples")

		h := make([]byte, 352)
		order.PutUint32(h, 348)
		for i, v := range []int{4, 2, 3, 2, volumes, 1, 1, 1} {
			order.PutUint16(h[40+2*i:], uint16(v))
			order.PutUint32(h[76+4*i:], math.Float32bits(1+float32(i)/4))
		}
		order.PutUint16(h[70:], uint16(kind))
		order.PutUint32(h[108:], math.Float32bits(float32(352+extension)))
		order.PutUint32(h[112:], math.Float32bits(2.5))
		order.PutUint32(h[116:], math.Float32bits(-1024))
		h[123] = 10
		order.PutUint16(h[254:], 1)
		for i := range 12 {
			order.PutUint32(h[280+4*i:], math.Float32bits(float32(i*i)-7.5))
		}
		copy(h[148:], "a description")
		copy(h[344:], "n+1\x00")
		begin := 352
		if version2 {
			h, begin = make([]byte, 544), 544
			order.PutUint32(h, 540)
			copy(h[4:], "n+2\x00\r\n\x1a\n")
			order.PutUint16(h[12:], uint16(kind))
			for i, v := range []int{4, 2, 3, 2, volumes, 1, 1, 1} {
				order.PutUint64(h[16+8*i:], uint64(v))
				order.PutUint64(h[104+8*i:], math.Float64bits(1+float64(i)/4))
			}
			order.PutUint64(h[168:], uint64(544+extension))
			order.PutUint64(h[176:], math.Float64bits(2.5))
			order.PutUint64(h[184:], math.Float64bits(-1024))
			order.PutUint32(h[348:], 1)
			for i := range 12 {
				order.PutUint64(h[400+8*i:], math.Float64bits(float64(i*i)-7.5))
			}
			copy(h[240:], "a description")
		}
		file := slices.Concat(h, make([]byte, extension), data)
		source := put(t, "source.nii.gz", zip(t, file))

		dir := t.TempDir()
		if err := imageio.Split(source, names(dir)); err != nil {
			r.Fatal(err)
		}
		whole, err := imageio.Read(source)
		if err != nil {
			r.Fatal(err)
		}
		for c := range volumes {
			path := names(dir)(c)
			raw := unzip(t, path)
			if !bytes.Equal(raw[begin:], data[c*each:(c+1)*each]) {
				r.Errorf("volume %d: samples changed", c)
			}
			if !bytes.Contains(raw[:begin], []byte("a description")) {
				r.Errorf("volume %d: the header lost its description", c)
			}
			one, err := imageio.Read(path)
			if err != nil {
				r.Fatal(err)
			}
			same := func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b }
			if one.Grid != whole.Grid || one.Dims != 3 || len(one.Channels) != 1 ||
				!slices.EqualFunc(one.Channels[0], whole.Channels[c], same) {
				r.Errorf("volume %d is not channel %d of the whole", c, c)
			}
			a, b := *one.NIfTI, *whole.NIfTI
			for i := range 4 {
				a.PixDim[4+i], b.PixDim[4+i] = 0, 0
			}
			if a != b {
				r.Errorf("volume %d: geometry %+v, want %+v", c, a, b)
			}
		}
		if _, err := os.Stat(names(dir)(volumes)); err == nil {
			r.Errorf("more than %d volumes", volumes)
		}
	})
}

// TestSplitPair: a two-file image becomes one-file volumes; a 3-D one is its only volume.
func TestSplitPair(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"pair.hdr", "pair_be.img", "i2_be.nii.gz", "4d.nii.gz", "2d.nii.gz", "nifti2_be.nii.gz"} {
		dir := t.TempDir()
		source := filepath.Join("testdata", name)
		if err := imageio.Split(source, names(dir)); err != nil {
			t.Error(err)
			continue
		}
		want, err := imageio.Read(source)
		if err != nil {
			t.Fatal(err)
		}
		for c, data := range want.Channels {
			got, err := imageio.Read(names(dir)(c))
			if err != nil || !slices.Equal(got.Channels[0], data) || got.Grid != want.Grid || got.Dims != want.Dims {
				t.Errorf("%s, volume %d: %v %+v", name, c, err, got)
			}
		}
	}
}

func TestSplitRefuses(t *testing.T) {
	t.Parallel()
	file := header(4*24, func(h []byte) { le.PutUint16(h[40:], 4); le.PutUint16(h[48:], 4) })
	zipped := zip(t, file)
	flipped := slices.Clone(zipped)
	flipped[len(flipped)-5] ^= 1
	for name, c := range map[string]struct {
		path, want string
	}{
		"cut in volume 2": {put(t, "a.nii.gz", zip(t, file[:352+60])), "volume 2"},
		"checksum":        {put(t, "a.nii.gz", flipped), "checksum"},
		"no NIfTI":        {put(t, "a.png", nil), "only NIfTI"},
		"absent":          {filepath.Join(t.TempDir(), "a.nii"), "no such file"},
	} {
		dir := t.TempDir()
		err := imageio.Split(c.path, names(dir))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s left %v", name, left)
		}
	}
	if err := imageio.Split(put(t, "a.nii.gz", zipped), names(filepath.Join(t.TempDir(), "absent"))); err == nil || err == io.EOF {
		t.Errorf("into a folder that is not there: %v", err)
	}
}
