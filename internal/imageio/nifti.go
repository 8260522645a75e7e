package imageio

import "errors"

// NIfTIGeometry is the part of a NIfTI header that says where the voxels lie, as stored (32-bit fields widened).
type NIfTIGeometry struct {
	Version      int // 1 or 2
	QForm, SForm int // xform codes
	PixDim       [8]float64
	Quatern      [3]float64    // b, c, d
	QOffset      [3]float64    // x, y, z
	SRow         [3][4]float64 // x, y, z
	XYZTUnits    int
}

var nifti = Format{
	Name:    "NIfTI",
	Endings: []string{".nii", ".nii.gz", ".hdr", ".img", ".img.gz"},
	Open:    func(path string) (Stream, error) { return nil, errors.ErrUnsupported },
}
