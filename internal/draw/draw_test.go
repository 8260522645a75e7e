package draw

import (
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// ball is a case with a bright ball as label 1 and half of it as label 2, the prediction shifted by one column.
func ball() Case {
	c := Case{Size: [3]int{24, 40, 32}, Spacing: [3]float64{2, 1, 1}}
	n := 24 * 40 * 32
	c.Image, c.Truth, c.Pred = make([]float32, n), make([]int32, n), make([]int32, n)
	label := func(z, y, x int) int32 {
		dz, dy, dx := 2*float64(z-12), float64(y-20), float64(x-16)
		switch {
		case dz*dz+dy*dy+dx*dx > 100:
			return 0
		case dy < 0:
			return 1
		}
		return 2
	}
	for i := range n {
		z, y, x := i/(40*32), i/32%40, i%32
		c.Truth[i] = label(z, y, x)
		c.Pred[i] = label(z, y, x-1)
		c.Image[i] = float32(x) + 30*float32(min(c.Truth[i], 1))
	}
	return c
}

func TestOverlay(t *testing.T) {
	c := ball()
	for axis := range 3 {
		cuts, err := c.Slices(axis, 4)
		if err != nil {
			t.Fatal(err)
		}
		if len(cuts) != 4 {
			t.Fatalf("axis %d: %d slices", axis, len(cuts))
		}
		path := filepath.Join(t.TempDir(), "overlay.png")
		if err := Overlay(path, Montage{Title: "a ball", Slices: cuts,
			Name: func(v int) string { return []string{"", "lower", "upper"}[v] }}); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		img, err := png.Decode(f)
		if err != nil {
			t.Fatal(err)
		}
		if w, h := img.Bounds().Dx(), img.Bounds().Dy(); w != 1152 || h < 300 || h > 2500 {
			t.Errorf("axis %d: picture of %d×%d", axis, w, h)
		}
		keep(t, path, "overlay.png")
	}
}

// keep copies a picture to the folder named by VIEW_OUT, for looking at.
func keep(t *testing.T, path, name string) {
	if dir := os.Getenv("VIEW_OUT"); dir != "" {
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o666)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// Image, reference and prediction lie beside each other, at the size that is asked for.
func TestBeside(t *testing.T) {
	s := Slice{Width: 4, Height: 2, Image: []float32{0, 1, 2, 3, 4, 5, 6, 7}, Truth: []int32{1, 1, 1, 1, 0, 0, 0, 0},
		Pred: []int32{0, 0, 0, 0, 2, 2, 2, 2}}
	img, err := Beside(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	if size := img.Bounds().Size(); size.X != 3*64+2*gap || size.Y != 32 {
		t.Fatalf("size %v", size)
	}
	for i, coloured := range [][2]bool{{false, false}, {true, false}, {false, true}} { // in the upper and the lower row
		for row, want := range coloured {
			c := img.RGBAAt(i*(64+gap)+32, 8+16*row)
			if got := c.R != c.G || c.G != c.B; got != want {
				t.Errorf("pane %d, row %d: %v, coloured %v", i, row, c, want)
			}
		}
	}
	s.Pred = s.Pred[:3]
	if _, err := Beside(s, 64); err == nil {
		t.Error("three labels for eight pixels pass")
	}
}

func TestSliceOrientation(t *testing.T) {
	c := Case{Size: [3]int{2, 2, 2}, Image: []float32{0, 1, 2, 3, 4, 5, 6, 7}}
	want := [][]float32{{6, 7, 4, 5}, {6, 7, 2, 3}, {5, 7, 1, 3}} // the last row of the volume comes first
	for axis, w := range want {
		s, err := c.Slices(axis, 1)
		if err != nil || len(s) != 1 || !slices.Equal(s[0].Image, w) {
			t.Errorf("axis %d: %v, %v; want %v", axis, s, err, w)
		}
	}
}

func TestPlanes(t *testing.T) {
	c := ball()
	cuts, err := c.Planes()
	if err != nil || len(cuts) != 3 {
		t.Fatalf("%d planes, %v", len(cuts), err)
	}
	for i, want := range []string{"slice 12", "slice 19", "slice 16"} { // most of both halves; y: 20 has none of the lower
		if cuts[i].Name != want {
			t.Errorf("axis %d: %s, want %s", i, cuts[i].Name, want)
		}
	}
	flat := Case{Size: [3]int{2, 1, 2}, Image: make([]float32, 4)}
	if cuts, err = flat.Planes(); err != nil || len(cuts) != 1 || cuts[0].Width != 2 || cuts[0].Height != 2 {
		t.Errorf("a single plane: %+v, %v", cuts, err)
	}
}

// A sheet is as wide as its slices and as high as its rows, with as many lines of legend as the labels need.
func TestSheet(t *testing.T) {
	c := ball()
	for i := range c.Truth {
		c.Truth[i] *= int32(i%40) + 1
	}
	cuts, err := c.Planes()
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[int]image.Point{}
	for rows := 1; rows <= 2; rows++ {
		for _, name := range []func(int) string{nil, func(v int) string { return "structure " + strconv.Itoa(v) }} {
			s := Sheet{Title: "balls", Name: name}
			for range rows {
				s.Rows = append(s.Rows, SheetRow{Caption: "a ball", Slices: cuts})
			}
			path := filepath.Join(t.TempDir(), "sheet.png")
			if err := s.Write(path); err != nil {
				t.Fatal(err)
			}
			keep(t, path, "sheet.png")
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			p, err := png.DecodeConfig(f)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			key := rows
			if name == nil {
				key = -rows
			}
			sizes[key] = image.Pt(p.Width, p.Height)
		}
	}
	row := sizes[-2].Y - sizes[-1].Y
	if row < sheetHeight || sizes[2].Y-sizes[1].Y != row || sizes[1].Y < sizes[-1].Y+3*line ||
		sizes[1].X != sizes[-1].X || sizes[1].X > pictureWidth {
		t.Errorf("sizes with and without legend: %v", sizes)
	}
	if err := (Sheet{}).Write(filepath.Join(t.TempDir(), "x.png")); err == nil {
		t.Error("a sheet without slices was written")
	}
}

func TestBadPictures(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.png")
	good := Slice{Width: 2, Height: 1, Image: []float32{float32(math.NaN()), float32(math.Inf(1))}, Pred: []int32{0, 255}}
	if err := Overlay(path, Montage{Slices: []Slice{good}}); err != nil {
		t.Errorf("values that are no numbers must be drawn: %v", err)
	}
	for name, s := range map[string]Slice{
		"0×1":                    {Height: 1},
		"1 image values for 2×1": {Width: 2, Height: 1, Image: make([]float32, 1)},
		"reference labels":       {Width: 1, Height: 1, Image: make([]float32, 1), Truth: make([]int32, 2)},
		"predicted labels":       {Width: 1, Height: 1, Image: make([]float32, 1), Pred: make([]int32, 2)},
	} {
		if err := Overlay(path, Montage{Slices: []Slice{s}}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if err := Overlay(path, Montage{}); err == nil {
		t.Error("a montage without slices was drawn")
	}
	if err := Overlay(filepath.Join(path, "below a file.png"), Montage{Slices: []Slice{good}}); err == nil {
		t.Error("a picture was written below a file")
	}
	if _, err := (Case{Size: [3]int{1, 1, 2}, Image: make([]float32, 2), Truth: make([]int32, 1)}).Slices(0, 1); err == nil {
		t.Error("labels of the wrong size were cut")
	}
}

func TestSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := rapid.SliceOfN(rapid.IntRange(0, 9), 1, 30).Draw(t, "counts")
		n := rapid.IntRange(1, 8).Draw(t, "n")
		picks := spread(counts, n)
		if len(picks) < 1 || len(picks) > n || !slices.IsSorted(picks) || len(slices.Compact(slices.Clone(picks))) != len(picks) {
			t.Fatalf("picks %v", picks)
		}
		if sum := slices.Max(counts); sum > 0 {
			for _, p := range picks {
				if counts[p] == 0 {
					t.Fatalf("plane %d holds no foreground: %v, %v", p, counts, picks)
				}
			}
		}
	})
}

func TestProgressPicture(t *testing.T) {
	var h History
	for e := range 60 {
		x := float64(e)
		h.TrainLoss = append(h.TrainLoss, 2*math.Exp(-x/20)+0.3+0.05*math.Sin(x*1.7))
		h.ValLoss = append(h.ValLoss, 2*math.Exp(-x/20)+0.4+0.05*math.Cos(x*2.3))
		h.Dice = append(h.Dice, 0.85*(1-math.Exp(-x/15))+0.03*math.Sin(x))
		h.EMADice = append(h.EMADice, 0.82*(1-math.Exp(-x/18)))
		h.Seconds = append(h.Seconds, 31+math.Sin(x*3))
		h.LearningRate = append(h.LearningRate, 5e-4*math.Pow(1-x/60, 0.9))
	}
	h.Dice[3], h.Dice[7], h.Dice[9] = math.NaN(), math.NaN(), math.Inf(1)
	path := filepath.Join(t.TempDir(), "progress.png")
	if err := Progress(path, h); err != nil {
		t.Fatal(err)
	}
	keep(t, path, "progress.png")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if c, err := png.DecodeConfig(f); err != nil || c.Width != 1200 || c.Height != 1400 {
		t.Errorf("picture %+v, %v", c, err)
	}
	for _, h := range []History{{}, {TrainLoss: []float64{math.NaN()}}, {TrainLoss: []float64{1}, LearningRate: []float64{0}}} {
		if err := Progress(path, h); err != nil {
			t.Errorf("%+v: %v", h, err)
		}
	}
}
