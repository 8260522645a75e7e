package imageio_test

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"masksam/internal/imageio"
)

// TestGzipMembers: what gzip -t, nibabel 5.4.2 or SimpleITK 2.5.7 take is read; what is cut or damaged is refused.
func TestGzipMembers(t *testing.T) {
	t.Parallel()
	file := header(24, nil)
	whole, first, second, more := zip(t, file), zip(t, file[:200]), zip(t, file[200:]), zip(t, []byte("more"))
	badMore := slices.Clone(more)
	badMore[len(badMore)-5] ^= 1
	zeros := func(n int) []byte { return make([]byte, n) }
	nrrd := func(packed ...[]byte) []byte { return nrrdFile(slices.Concat(packed...), "encoding: gzip") }
	for name, c := range map[string]struct {
		file string
		data []byte
		want string // of the error; empty: it is read
	}{
		"padded to blocks":                 {"a.nii.gz", slices.Concat(whole, zeros(512)), ""},
		"one zero":                         {"a.nii.gz", slices.Concat(whole, zeros(1)), ""},
		"many zeros":                       {"a.nii.gz", slices.Concat(whole, zeros(1<<18)), ""},
		"other bytes":                      {"a.nii.gz", slices.Concat(whole, []byte("other bytes")), ""},
		"zeros and other bytes":            {"a.nii.gz", slices.Concat(whole, zeros(20), []byte("other bytes")), ""},
		"one byte of a header":             {"a.nii.gz", slices.Concat(whole, []byte{0x1f}), ""},
		"two members":                      {"a.nii.gz", slices.Concat(first, second), ""},
		"two members, padded":              {"a.nii.gz", slices.Concat(first, second, zeros(9)), ""},
		"zeros between members":            {"a.nii.gz", slices.Concat(first, zeros(5), second), ""},
		"an empty member between":          {"a.nii.gz", slices.Concat(first, zip(t, nil), second), ""},
		"a member too many":                {"a.nii.gz", slices.Concat(whole, more), ""},
		"padded, then a member too many":   {"a.nii.gz", slices.Concat(whole, zeros(30), more), ""},
		"a member too many, cut":           {"a.nii.gz", slices.Concat(whole, more[:len(more)-3]), "truncated"},
		"a member too many, damaged":       {"a.nii.gz", slices.Concat(whole, badMore), "checksum"},
		"a header only":                    {"a.nii.gz", slices.Concat(whole, []byte{0x1f, 0x8b}), "truncated"},
		"the second member missing":        {"a.nii.gz", slices.Concat(first, zeros(100)), "truncated"},
		"other bytes for a member":         {"a.nii.gz", slices.Concat(first, second[1:]), "truncated"},
		"the second member cut":            {"a.nii.gz", slices.Concat(first, second[:len(second)-9]), "truncated"},
		"cut and padded":                   {"a.nii.gz", slices.Concat(whole[:len(whole)-9], zeros(512)), "gzip"},
		"compressed twice":                 {"a.nii.gz", zip(t, whole), "twice"},
		"a pointer of Git LFS":             {"a.nii.gz", []byte("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"},
		"a web page":                       {"a.nii.gz", []byte("<!DOCTYPE html>"), "web page"},
		"a ZIP archive":                    {"a.nii.gz", append([]byte("PK\x03\x04"), zeros(900)...), "ZIP"},
		"NRRD, padded":                     {"a.nrrd", nrrd(zip(t, shorts(12)), zeros(512)), ""},
		"NRRD, two members":                {"a.nrrd", nrrd(zip(t, shorts(12)[:7]), zip(t, shorts(12)[7:]), zeros(3)), ""},
		"NRRD, the second member missing":  {"a.nrrd", nrrd(zip(t, shorts(12)[:7]), zeros(3)), "truncated"},
		"MetaImage, gzip for zlib, padded": {"a.mha", metaFile(slices.Concat(zip(t, shorts(12)), zeros(512)), "CompressedData = True"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := put(t, c.file, c.data)
			if c.want != "" {
				refused(t, path, c.want)
				return
			}
			im, err := imageio.Read(path)
			if err != nil {
				t.Fatal(err)
			}
			samples := file[352:]
			if !strings.HasSuffix(path, ".nii.gz") {
				samples = shorts(12)
			}
			for i, v := range im.Channels[0] {
				if v != float32(int16(le.Uint16(samples[2*i:]))) {
					t.Fatalf("voxels %v", im.Channels[0])
				}
			}
		})
	}
	if err := imageio.Split(put(t, "a.nii.gz", slices.Concat(first, second, zeros(512))), names(t.TempDir())); err != nil {
		t.Error("split:", err)
	}
}

// TestScaledLabels: labels are compared as nnU-Net holds them, in 32 bits. A mask of 0 and 1 that nibabel stored in
// uint8 is 0 and 255 with a slope of 1/255, whose product in 64 bits is no whole number.
func TestScaledLabels(t *testing.T) {
	t.Parallel()
	scaled := header(0, func(h []byte) {
		le.PutUint16(h[70:], 2)
		le.PutUint32(h[112:], math.Float32bits(float32(1.0/255)))
	})
	scaled = append(scaled, bytes.Repeat([]byte{0, 255}, 6)...)
	near := append([]byte(nil), header(0, func(h []byte) { le.PutUint16(h[70:], 64) })...)
	for i := range 12 {
		near = le.AppendUint64(near, math.Float64bits(float64(i%2)*(1+1e-9)))
	}
	var text []string
	for i := range 12 {
		text = append(text, []string{"0", "1.00000000001"}[i%2])
	}
	double := metaFile([]byte(strings.Join(text, " ")), "BinaryData = False", "ElementType = MET_DOUBLE")
	for name, data := range map[string][]byte{"scaled.nii.gz": zip(t, scaled), "near.nii": near, "double.mha": double} {
		path := put(t, name, data)
		for _, class := range []string{"SimpleITKIO", "NibabelIO"} {
			l, err := classOf(t, class).ReadLabel(path)
			if err != nil {
				t.Errorf("%s by %s: %v", name, class, err)
				continue
			}
			for i, v := range l.Data {
				if v != int32(i%2) {
					t.Fatalf("%s by %s: labels %v", name, class, l.Data)
				}
			}
		}
	}
}
