package volume

import (
	"encoding/json"
	"os"
	"testing"

	"pgregory.net/rapid"
)

func TestOrientation(t *testing.T) {
	if code := NewGrid([3]int{2, 3, 4}, [3]float64{3, 2, 1}).Orientation(); code != "RAS" {
		t.Errorf("a plain grid points to %s", code)
	}
	lps := FromITK([3]int{2, 3, 4}, [3]float64{1, 2, 3}, [3]float64{}, [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1})
	if code := lps.Orientation(); code != "LPS" {
		t.Errorf("ITK's plain grid points to %s", code)
	}
	if code := (Grid{Size: [3]int{1, 1, 1}}).Orientation(); code != "" {
		t.Errorf("an affine of zeros points to %s", code)
	}
}

// TestOrientationsLikeNibabel compares with nibabel 5.4's aff2axcodes for rotated and for sheared axes.
func TestOrientationsLikeNibabel(t *testing.T) {
	text, err := os.ReadFile("testdata/orientations.json")
	if err != nil {
		t.Fatal(err)
	}
	var grids []struct {
		Axes  [3][3]float64
		Codes string
	}
	if err := json.Unmarshal(text, &grids); err != nil || len(grids) < 50 {
		t.Fatal(len(grids), err)
	}
	for _, want := range grids {
		var g Grid
		for row := range 3 {
			copy(g.Affine[row][:], want.Axes[row][:])
		}
		if code := g.Orientation(); code != want.Codes {
			t.Errorf("%v point to %s, want %s", want.Axes, code, want.Codes)
		}
	}
}

// However an array is turned, RAS turns it back.
func TestOrientationOfTurned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		turn := Reorientation{Axes: [3]int(rapid.Permutation([]int{0, 1, 2}).Draw(t, "axes"))}
		for a := range turn.Flip {
			turn.Flip[a] = rapid.Bool().Draw(t, "flip")
		}
		g := turn.Grid(NewGrid([3]int{2, 3, 4}, [3]float64{3, 2, 1}))
		back, err := g.RAS()
		if err != nil {
			t.Fatal(err)
		}
		if code := back.Grid(g).Orientation(); code != "RAS" {
			t.Fatalf("%+v: %s, turned back it points to %s", turn, g.Orientation(), code)
		}
		letters := g.Orientation()
		for a, from := range turn.Axes {
			want := "SAR"[from]
			if turn.Flip[a] {
				want = "IPL"[from]
			}
			if letters[2-a] != want {
				t.Fatalf("%+v: %s", turn, letters)
			}
		}
	})
}

func TestUnusual(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		counts     Orientations
		code, want string
	}{
		{Orientations{"LPS": 5, "": 1}, "RAS",
			"the image is stored RAS, 5 of 5 training images LPS: axis x points right, in those left; axis y points anterior, in those posterior"},
		{Orientations{"LPS": 40, "LAS": 2}, "LAS",
			"the image is stored LAS, 40 of 42 training images LPS: axis y points anterior, in those posterior"},
		{Orientations{"LPS": 9, "RAS": 1}, "RAS", ""},
		{Orientations{"LPS": 5}, "LPS", ""},
		{Orientations{"LPS": 5}, "", ""},
		{Orientations{"": 5}, "RAS", ""},
		{nil, "RAS", ""},
	} {
		if got := c.counts.Unusual(c.code, "training images"); got != c.want {
			t.Errorf("%s among %v: %q, want %q", c.code, c.counts, got, c.want)
		}
	}
	if code, n, of := (Orientations{"RAS": 2, "LPS": 2, "": 7, "LAS": 1}).Usual(); code != "LPS" || n != 2 || of != 5 {
		t.Errorf("the usual one is %s, %d of %d", code, n, of)
	}
}
