package imageio_test

import (
	"math"
	"testing"

	"masksam/internal/imageio"
)

// affine is the upper three rows of an affine, to mm in RAS.
type affine [12]float64

// found is what a library finds in a file: the affine, the spacing (x, y, z) and the first voxel.
type found struct {
	affine  affine
	spacing [3]float64
	first   float64
}

// ruled is a NIfTI-1 file and what SimpleITK 2.5.7 and nibabel 5.4.2 read in it; nil: the library refuses it. What is not
// given is a pixdim of 1, 1.5, 2 and 3, a qform that turns x and y round about (10, 20, -7), no scaling, mm, and int16.
type ruled struct {
	q, s         int // codes
	pix          *[4]float64
	quat         *[3]float64
	srow         affine
	units        byte
	scale        *[2]float64 // slope, intercept
	kind         uint16
	itk, nibabel *found
}

func (r ruled) file() []byte {
	return header(24*8, func(h []byte) {
		single := func(at int, values ...float64) {
			for i, v := range values {
				le.PutUint32(h[at+4*i:], math.Float32bits(float32(v)))
			}
		}
		pix, quat, scale := [4]float64{1, 1.5, 2, 3}, [3]float64{0, 0, 1}, [2]float64{1, 0}
		h[123], h[70] = 2, 4
		if r.pix != nil {
			pix = *r.pix
		}
		if r.quat != nil {
			quat = *r.quat
		}
		if r.scale != nil {
			scale = *r.scale
		}
		if r.units != 0 {
			h[123] = r.units
		}
		if r.kind != 0 {
			h[70] = byte(r.kind)
		}
		for i, v := range []uint16{3, 2, 3, 4, 1, 1, 1, 1} {
			le.PutUint16(h[40+2*i:], v)
		}
		single(76, pix[:]...)
		single(112, scale[:]...)
		le.PutUint16(h[252:], uint16(r.q))
		le.PutUint16(h[254:], uint16(r.s))
		single(256, quat[:]...)
		single(268, 10, 20, -7)
		single(280, r.srow[:]...)
	})
}

// TestHeaderRules: each class reads a header as its own library does.
func TestHeaderRules(t *testing.T) {
	t.Parallel()
	itk, nibabel := classOf(t, "SimpleITKIO"), classOf(t, "NibabelIO")
	for name, r := range rules {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := r.file()
			switch voxels := b[352:]; r.kind { // the first one
			case 8:
				le.PutUint32(voxels, 16777217)
			case 64:
				le.PutUint64(voxels, math.Float64bits(1.0/3))
			default:
				le.PutUint16(voxels, 7)
			}
			path := put(t, "a.nii.gz", zip(t, b))
			chosen, err := imageio.ChooseReader("", ".nii.gz", path)
			if err != nil || (chosen.Name == "SimpleITKIO") != (r.itk != nil) {
				t.Errorf("chosen: %v, %v", chosen, err)
			}
			if r.itk != nil {
				r.itk.check(t, itk, path)
			}
			if r.nibabel != nil {
				r.nibabel.check(t, nibabel, path)
			} else if _, err := nibabel.Read(path); err == nil {
				t.Error("nibabel refuses it")
			}
		})
	}
}

func (f *found) check(t *testing.T, r *imageio.Reader, path string) {
	t.Helper()
	im, err := r.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	g := im.Grid
	if r.Name == "SimpleITKIO" { // it measures its axes by the spacing
		var out [4][4]float64
		_, _, d := g.ITK()
		for row := range 3 {
			sign := [3]float64{-1, -1, 1}[row]
			for axis := range 3 {
				out[row][axis] = sign * d[3*row+axis] * g.Spacing[2-axis]
			}
			out[row][3] = g.Affine[row][3]
		}
		g.Affine = out
	}
	for i, want := range f.affine {
		if got := g.Affine[i/4][i%4]; math.Abs(got-want) > 1e-6*max(1, math.Abs(want)) {
			t.Errorf("%s: affine %v, want %v", r.Name, g.Affine, f.affine)
			break
		}
	}
	if got := [3]float64{g.Spacing[2], g.Spacing[1], g.Spacing[0]}; !near(got[:], f.spacing[:], 1e-7) {
		t.Errorf("%s: spacing %v, want %v", r.Name, got, f.spacing)
	}
	if got := im.Channels[0][0]; got != float32(f.first) {
		t.Errorf("%s: the first voxel is %v, want %v", r.Name, got, f.first)
	}
}

var rules = map[string]ruled{
	"neither form": {
		itk:     &found{affine{-1.5, 0, 0, 0, 0, -2, 0, 0, 0, 0, 3, 0}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 0.75, 0, 2, 0, -2, 0, 0, 3, -4.5}, [3]float64{1.5, 2, 3}, 7},
	},
	"neither form, negative pixdim": {
		pix:     &[4]float64{1, -1.5, 2, -3},
		itk:     &found{affine{1.5, 0, 0, 0, 0, -2, 0, 0, 0, 0, -3, 0}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 0.75, 0, 2, 0, -2, 0, 0, 3, -4.5}, [3]float64{1.5, 2, 3}, 7},
	},
	"neither form, metres": {
		units:   1,
		itk:     &found{affine{-1500, 0, 0, 0, 0, -2000, 0, 0, 0, 0, 3000, 0}, [3]float64{1500, 2000, 3000}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 0.75, 0, 2, 0, -2, 0, 0, 3, -4.5}, [3]float64{1.5, 2, 3}, 7},
	},
	"codes below 0": {
		q: -3, s: -1,
		itk:     &found{affine{-1.5, 0, 0, 0, 0, -2, 0, 0, 0, 0, 3, 0}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 0.75, 0, 2, 0, -2, 0, 0, 3, -4.5}, [3]float64{1.5, 2, 3}, 7},
	},
	"qform": {
		q:       1,
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"qform of code 4": {
		q:       4,
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"qform, qfac -1": {
		q: 1, pix: &[4]float64{-1, 1.5, 2, 3},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, -3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, -3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"qform, qfac -2": {
		q: 1, pix: &[4]float64{-2, 1.5, 2, 3},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, -3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"qform, qfac 0": {
		q: 1, pix: &[4]float64{0, 1.5, 2, 3},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"qform, negative pixdim": {
		q: 1, pix: &[4]float64{1, -1.5, 2, 3},
		itk:     &found{affine{1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"qform, pixdim 0": {
		q: 1, pix: &[4]float64{1, 0, 2, 0},
		itk:     &found{affine{-1, 0, 0, 10, 0, -2, 0, 20, 0, 0, 1, -7}, [3]float64{1, 2, 1}, 7},
		nibabel: &found{affine{-1, 0, 0, 10, 0, -2, 0, 20, 0, 0, 1, -7}, [3]float64{1, 2, 1}, 7},
	},
	"qform of a third of a turn": {
		q: 1, quat: &[3]float64{0.5, 0.5, 0.5},
		itk:     &found{affine{0, 0, 3, 10, 1.5, 0, 0, 20, 0, 2, 0, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{0, 0, 3, 10, 1.5, 0, 0, 20, 0, 2, 0, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"quaternion too long": {
		q: 1, quat: &[3]float64{0.8, 0.8, 0.8},
		itk: &found{affine{-0.5, 1.333333333, 2, 10, 1, -0.666666667, 2, 20, 1, 1.333333333, -1, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"qform, micrometres": {
		q: 1, units: 3,
		itk:     &found{affine{-0.0015, 0, 0, 0.01, 0, -0.002, 0, 0.02, 0, 0, 0.003, -0.007}, [3]float64{0.0015, 0.002, 0.003}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"qform of an unknown code": {
		q:       9,
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 0.75, 0, 2, 0, -2, 0, 0, 3, -4.5}, [3]float64{1.5, 2, 3}, 7},
	},
	"sform": {
		s: 1, srow: affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"sform of code 4": {
		s: 4, srow: affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"sform of an unknown code": {
		q: 1, s: 9, srow: affine{-1.5, 0, 0, 15, 0, -2, 0, 25, 0, 0, 3, -2},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"sform, metres": {
		s: 1, srow: affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, units: 1,
		itk:     &found{affine{-1500, 0, 0, 10000, 0, -2000, 0, 20000, 0, 0, 3000, -7000}, [3]float64{1500, 2000, 3000}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"sform, negative pixdim": {
		s: 1, pix: &[4]float64{1, -1.5, 2, 3}, srow: affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"sform of other lengths": {
		s: 1, srow: affine{-1.875, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.875, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"sform sheared a little": {
		s: 1, srow: affine{-1.5, 0.0001, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{-1.5, 0.0001, 0, 10, 0, -1.999999998, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0.0001, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"sform sheared": {
		s: 1, srow: affine{-1.5, 0.5, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7},
		nibabel: &found{affine{-1.5, 0.5, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"sform singular": {
		s: 1, srow: affine{-1.5, 0, 0, 10, 0, 0, 0, 20, 0, 0, 3, -7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, 0, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, shifted, code 1": {
		q: 1, s: 1, srow: affine{-1.5, 0, 0, 15, 0, -2, 0, 25, 0, 0, 3, -2},
		itk:     &found{affine{-1.5, 0, 0, 15, 0, -2, 0, 25, 0, 0, 3, -2}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 15, 0, -2, 0, 25, 0, 0, 3, -2}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, shifted, code 2": {
		q: 1, s: 2, srow: affine{-1.5, 0, 0, 15, 0, -2, 0, 25, 0, 0, 3, -2},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 15, 0, -2, 0, 25, 0, 0, 3, -2}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, shifted, code 3": {
		q: 1, s: 3, srow: affine{-1.5, 0, 0, 15, 0, -2, 0, 25, 0, 0, 3, -2},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 15, 0, -2, 0, 25, 0, 0, 3, -2}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, shifted, code 4": {
		q: 1, s: 4, srow: affine{-1.5, 0, 0, 15, 0, -2, 0, 25, 0, 0, 3, -2},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 15, 0, -2, 0, 25, 0, 0, 3, -2}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, axes exchanged, code 1": {
		q: 1, s: 1, srow: affine{0, -1.5, 0, 10, 0, 0, -2, 20, 3, 0, 0, -7},
		itk:     &found{affine{0, -2, 0, 10, 0, 0, -3, 20, 1.5, 0, 0, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{0, -1.5, 0, 10, 0, 0, -2, 20, 3, 0, 0, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, axes exchanged, code 2": {
		q: 1, s: 2, srow: affine{0, -1.5, 0, 10, 0, 0, -2, 20, 3, 0, 0, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{0, -1.5, 0, 10, 0, 0, -2, 20, 3, 0, 0, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, axes exchanged, code 4": {
		q: 1, s: 4, srow: affine{0, -1.5, 0, 10, 0, 0, -2, 20, 3, 0, 0, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{0, -1.5, 0, 10, 0, 0, -2, 20, 3, 0, 0, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, an axis turned round, code 1": {
		q: 1, s: 1, srow: affine{-1.5, 0, 0, 10, 0, 2, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, 2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, 2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, an axis turned round, code 2": {
		q: 1, s: 2, srow: affine{-1.5, 0, 0, 10, 0, 2, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, 2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, 2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, an axis turned round, code 4": {
		q: 1, s: 4, srow: affine{-1.5, 0, 0, 10, 0, 2, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, 2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, 2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, turned round and exchanged": {
		q: 1, s: 2, quat: &[3]float64{0.5, 0.5, 0.5}, srow: affine{0, 0, 3, 10, -1.5, 0, 0, 20, 0, 2, 0, -7},
		itk:     &found{affine{0, 0, 3, 10, 1.5, 0, 0, 20, 0, 2, 0, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{0, 0, 3, 10, -1.5, 0, 0, 20, 0, 2, 0, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, other lengths, code 1": {
		q: 1, s: 1, srow: affine{-1.875, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.875, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, other lengths, code 2": {
		q: 1, s: 2, srow: affine{-1.875, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.875, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, sheared, code 1": {
		q: 1, s: 1, srow: affine{-1.5, 0.5, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0.5, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both, singular, code 1": {
		q: 1, s: 1, srow: affine{-1.5, 0, 0, 10, 0, 0, 0, 20, 0, 0, 3, -7},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, 0, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"both alike, code 2": {
		q: 2, s: 2, srow: affine{-1.5, 0, 0, 10.00005, 0, -2, 0, 20.00005, 0, 0, 3, -6.99995},
		itk:     &found{affine{-1.5, 0, 0, 10.000049591, 0, -2, 0, 20.000049591, 0, 0, 3, -6.999949932}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10.000049591, 0, -2, 0, 20.000049591, 0, 0, 3, -6.999949932}, [3]float64{1.5, 2, 3}, 7},
	},
	"both nearly alike, code 2": {
		q: 2, s: 2, srow: affine{-1.5, 0, 0, 10.0005, 0, -2, 0, 20.0005, 0, 0, 3, -6.9995},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10.000499725, 0, -2, 0, 20.000499725, 0, 0, 3, -6.999499798}, [3]float64{1.5, 2, 3}, 7},
	},
	"slope 0, intercept 0": {
		q: 1, scale: &[2]float64{0, 0},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"slope 0, intercept 5": {
		q: 1, scale: &[2]float64{0, 5},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 12},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"slope nan, intercept 5": {
		q: 1, scale: &[2]float64{math.NaN(), 5},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 12},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"slope inf, intercept 5": {
		q: 1, scale: &[2]float64{math.Inf(1), 5},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 12},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 7},
	},
	"slope 2, intercept 5": {
		q: 1, scale: &[2]float64{2, 5},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 19},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 19},
	},
	"slope 2, intercept nan": {
		q: 1, scale: &[2]float64{2, math.NaN()},
		itk: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 14},
	},
	"slope 1e-20, intercept 1": {
		q: 1, scale: &[2]float64{1e-20, 1},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 8},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 1},
	},
	"slope 0.1, intercept 0.2": {
		q: 1, scale: &[2]float64{0.1, 0.2},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 0.9000000357627869},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 0.9000000357627869},
	},
	"slope -3, intercept 0": {
		q: 1, scale: &[2]float64{-3, 0},
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, -21},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, -21},
	},
	"slope of 32 bits": {
		q: 1, scale: &[2]float64{0.1, 0.2}, kind: 8,
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 1677721.875},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 1677721.875},
	},
	"slope of 64 bits": {
		q: 1, scale: &[2]float64{0.1, 0.2}, kind: 64,
		itk:     &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 0.23333333432674408},
		nibabel: &found{affine{-1.5, 0, 0, 10, 0, -2, 0, 20, 0, 0, 3, -7}, [3]float64{1.5, 2, 3}, 0.23333333432674408},
	},
}
