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
		turn := Turn{Axes: [3]int(rapid.Permutation([]int{0, 1, 2}).Draw(t, "axes"))}
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
