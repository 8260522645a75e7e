package dicom

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"masksam/internal/dicom/dicomtest"
	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// headers are those of a series.
func headers(t *testing.T, series ...dicomtest.Slice) (files []*File) {
	t.Helper()
	for i, s := range series {
		s.Instances = i
		for s.Index = range s.Count {
			f, err := Read(bytes.NewReader(s.File()))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
	}
	return files
}

func TestStacks(t *testing.T) {
	planes, wide, phases, twice := abdomen, abdomen, abdomen, abdomen
	planes.Coronal, wide.Wider, twice.Places = true, 1, 3
	phases.Places, phases.More = 2, map[uint32]string{tagTrigger: "%d0"}
	for name, c := range map[string]struct {
		files []*File
		want  []string
		most  int // slices at one place of the first stack
	}{
		"one":    {headers(t, abdomen), []string{"axial, 5 × 4 voxels, original"}, 1},
		"planes": {headers(t, abdomen, planes), []string{"axial", "coronal"}, 1},
		"sizes":  {headers(t, abdomen, wide), []string{"5 × 4", "6 × 4"}, 1},
		"phases": {headers(t, phases), []string{"trigger time 10", "trigger time 20", "trigger time 30"}, 1},
		"unlike": {headers(t, twice), []string{"axial"}, 2},
	} {
		got := Stacks(Distinct(c.files))
		if len(got) != len(c.want) {
			t.Errorf("%s: %d stacks, want %d", name, len(got), len(c.want))
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(got[i].What, want) {
				t.Errorf("%s: stack %d is %q, want %q", name, i, got[i].What, want)
			}
		}
		if most, even, _ := Repeats(got[0].Files); most != c.most || !even {
			t.Errorf("%s: %d slices at one place, even %v", name, most, even)
		}
	}
	files := headers(t, abdomen, abdomen)
	if n := len(Distinct(append(files, files[2]))); n != 12 {
		t.Errorf("%d distinct files", n)
	}
	if most, even, pair := Repeats(files[:7]); most != 2 || even || len(pair) != 2 || pair[0].Instance == pair[1].Instance {
		t.Errorf("a slice twice: %d, %v, %v", most, even, pair)
	}
}

// TestStraighten: whatever the tilt, the gap, and the corner from which the voxels are stored, an image that is linear
// in space stays so where the slices reach.
func TestStraighten(t *testing.T) {
	value := func(p [3]float64) float64 { return 2*p[0] + 3*p[1] + 5*p[2] }
	for _, tilt := range []float64{0, 15, -25} {
		for _, gap := range []bool{false, true} {
			for _, flipped := range []bool{false, true} {
				s := abdomen
				s.Tilt = tilt
				files := headers(t, s)
				if gap {
					files = append(files[:2], files[3:]...)
				}
				if tilted, gaps := Uneven(files); (tilted != "") != (tilt != 0) || (gaps != "") != gap {
					t.Errorf("tilt %v, gap %v: %q, %q", tilt, gap, tilted, gaps)
				}
				im := &imageio.Image{Meta: imageio.Meta{Grid: volume.NewGrid([3]int{len(files), dicomtest.Rows,
					dicomtest.Columns}, [3]float64{2.5, 1.5, 0.75})}}
				// Only the directions of the affine count: of x left, of y front or back, of z up.
				im.Grid.Affine[0][0] = -0.75
				im.Grid.Affine[1][1] = -1.5
				if flipped {
					im.Grid.Affine[1][1] = 1.5
				}
				data := make([]float32, im.Grid.Len())
				for k, f := range files {
					for y := range dicomtest.Rows {
						row := y
						if flipped {
							row = dicomtest.Rows - 1 - y
						}
						for x := range dicomtest.Columns {
							p := f.Position
							for i := range p {
								p[i] += 0.75*float64(x)*f.Axes[i] + 1.5*float64(row)*f.Axes[3+i]
							}
							data[im.Grid.Index(k, y, x)] = float32(value(p))
						}
					}
				}
				im.Channels = [][]float32{data}
				out, err := Straighten(im, files)
				if err != nil {
					t.Fatal(err)
				}
				if out.Grid.Size[0] != 6 || !out.Grid.Orthonormal() {
					t.Errorf("tilt %v, gap %v: grid %+v", tilt, gap, out.Grid)
				}
				right := 0
				for n, v := range out.Channels[0] {
					z, y, x := n/(out.Grid.Size[1]*out.Grid.Size[2]), n/out.Grid.Size[2]%out.Grid.Size[1], n%out.Grid.Size[2]
					var p [3]float64
					for i, sign := range []float64{-1, -1, 1} {
						a := out.Grid.Affine[i]
						p[i] = sign * (a[0]*float64(x) + a[1]*float64(y) + a[2]*float64(z) + a[3])
					}
					if math.Abs(float64(v)-value(p)) < 0.01 {
						right++
					}
				}
				if right < 3*6*dicomtest.Columns-2*dicomtest.Columns {
					t.Errorf("tilt %v, gap %v, flipped %v: only %d of %d voxels hold what lies there", tilt, gap,
						flipped, right, len(out.Channels[0]))
				}
			}
		}
	}
	if _, err := Straighten(&imageio.Image{}, headers(t, abdomen)); err == nil {
		t.Error("an image of other slices: no error")
	}
}
