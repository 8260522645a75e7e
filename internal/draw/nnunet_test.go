package draw

import (
	"image"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/goldentest"
)

// TestLikeNNUNet paints nnU-Net's own picture, exactly.
func TestLikeNNUNet(t *testing.T) {
	a := goldentest.Arrays(t, "nnunet/misc/overlay.safetensors")
	size := a["image"].Size()
	labels := goldentest.To[int32](a["seg"].Data)
	const want = 3 // selected_slice of the file's metadata
	if plane, ok := BestPlane(labels, size, 0); plane != want || !ok {
		t.Fatalf("slice %d, %v; want %d", plane, ok, want)
	}
	n := size[1] * size[2]
	for name, intensity := range map[string]float64{"overlay_0.6": 0.6, "overlay_0.3": 0.3} {
		img, err := Paint(a["image"].Float32()[want*n:][:n], labels[want*n:][:n], size[2], size[1], intensity)
		if err != nil {
			t.Fatal(err)
		}
		if got := rgb(img); !slices.Equal(got, goldentest.To[uint8](a[name].Data)) {
			t.Errorf("%s differs", name)
		}
	}
}

// rgb are the pixels without alpha.
func rgb(img *image.RGBA) (out []uint8) {
	for i := 0; i < len(img.Pix); i += 4 {
		out = append(out, img.Pix[i:i+3]...)
	}
	return out
}

// TestBestPlane compares with the definition, written down without haste.
func TestBestPlane(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var size [3]int
		for a := range size {
			size[a] = rapid.IntRange(1, 5).Draw(t, "n")
		}
		n := size[0] * size[1] * size[2]
		labels := rapid.SliceOfN(rapid.Int32Range(-1, 12), n, n).Draw(t, "labels")
		axis := rapid.IntRange(0, 2).Draw(t, "axis")
		share := make([]float64, size[axis])
		total, classes := 0.0, 0.0
		for v := int32(1); v <= 12; v++ {
			in := make([]float64, size[axis])
			n := 0.0
			for i, label := range labels {
				if label == v {
					at := [3]int{i / (size[1] * size[2]), i / size[2] % size[1], i % size[2]}
					in[at[axis]]++
					n++
				}
			}
			if n == 0 {
				continue
			}
			classes++
			for p := range in {
				share[p] += in[p] / (n + total)
			}
			total += n / (n + total)
		}
		plane, ok := BestPlane(labels, size, axis)
		switch {
		case ok != (classes > 0):
			t.Fatalf("ok is %v with %v classes", ok, classes)
		case !ok && plane != 0:
			t.Fatalf("plane %d without foreground", plane)
		case share[plane] < slices.Max(share)-1e-9:
			t.Fatalf("plane %d has %v, the most is %v", plane, share[plane], slices.Max(share))
		case ok && slices.ContainsFunc(share[:plane], func(s float64) bool { return s > share[plane]+1e-9 }):
			t.Fatalf("plane %d of %v is not the first", plane, share)
		}
	})
}

func TestPaint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		width, height := rapid.IntRange(1, 9).Draw(t, "width"), rapid.IntRange(1, 9).Draw(t, "height")
		n := width * height
		value := rapid.OneOf(rapid.Float32Range(-2000, 2000),
			rapid.SampledFrom([]float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), 0}))
		grey := rapid.SliceOfN(value, n, n).Draw(t, "image")
		labels := rapid.SliceOfN(rapid.Int32Range(0, 40), n, n).Draw(t, "labels")
		img, err := Paint(grey, labels, width, height, rapid.Float64Range(0, 2).Draw(t, "intensity"))
		if err != nil {
			t.Fatal(err)
		}
		lowest := slices.Min(labels)
		for i, label := range labels {
			p := img.Pix[4*i : 4*i+4]
			if p[3] != 255 {
				t.Fatalf("pixel %d is not opaque", i)
			}
			if label == lowest && (p[0] != p[1] || p[1] != p[2]) {
				t.Fatalf("pixel %d outside the labels is %v, not grey", i, p)
			}
		}
	})
}

func TestPaintWhatNNUNetCannot(t *testing.T) {
	constant := []float32{7, 7}
	img, err := Paint(constant, []int32{0, 3}, 2, 1, 0.5)
	if err != nil || !slices.Equal(rgb(img), []uint8{0, 0, 0, 79, 116, 255}) { // 4363d8 scaled until its blue is 255
		t.Errorf("a constant image: %v, %v", img, err)
	}
	if img, err = Paint(constant, []int32{0, 0}, 2, 1, 0.5); err != nil || slices.Max(rgb(img)) != 0 {
		t.Errorf("a constant image without labels: %v, %v", img, err)
	}
	grey, labels := make([]float32, 64), make([]int32, 64)
	for i := range labels {
		labels[i] = int32(i)
	}
	if img, err = Paint(grey, labels, 64, 1, 1); err != nil {
		t.Fatal(err)
	}
	seen := map[[3]uint8]bool{}
	for i := range labels {
		seen[[3]uint8(rgb(img)[3*i:])] = true
	}
	if len(seen) != 64 {
		t.Errorf("64 labels have %d colours", len(seen))
	}
	if _, err := Paint(constant, []int32{0}, 2, 1, 1); err == nil {
		t.Error("labels of another size were painted")
	}
}

func TestColours(t *testing.T) {
	seen := map[[3]uint8]int{}
	for label := range 500 {
		c := Colour(label)
		if other, twice := seen[[3]uint8{c.R, c.G, c.B}]; twice {
			t.Errorf("labels %d and %d are both %v", other, label, c)
		}
		seen[[3]uint8{c.R, c.G, c.B}] = label
		if label >= 15 && max(c.R, c.G, c.B) < 150 {
			t.Errorf("label %d is too dark: %v", label, c)
		}
	}
	if Colour(-1) != Colour(0) {
		t.Error("−1 is not shown as background")
	}
}
