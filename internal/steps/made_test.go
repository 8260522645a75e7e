package steps

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/plan"
	"masksam/internal/volume"
)

// made are the datasets of TestLikeNNUNet. Every case is a body with ellipsoids for organs, in noise, drawn by a generator
// seeded with the dataset's number and the case's; sizes and spacings vary with the case. The files are written here, not
// by the code under test.
var made = []madeDataset{
	{911, "Dataset911_Turned", 9, turned, `{"channel_names": {"0": "T2", "1": "ADC"}, "labels": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4},
		"numTraining": 9, "file_ending": ".nii.gz", "overwrite_image_reader_writer": "NibabelIOWithReorient"}`,
		[]plan.Options{{}, {Planner: "nnUNetPlannerResEncM"}}, []string{"2d", "3d_fullres"}},
	{912, "Dataset912_Thorax", 5, thorax, `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2, "c": 3},
		"numTraining": 5, "file_ending": ".nrrd"}`,
		[]plan.Options{{Planner: "nnUNetPlannerResEncL", GPUMemoryGB: 0.07}, {}}, []string{"3d_lowres", "3d_fullres"}},
	{913, "Dataset913_Stack", 6, stack, `{"channel_names": {"0": "rescale_to_0_1"}, "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3],
		"seed": 3, "ignore": 4}, "regions_class_order": [1, 2, 3], "numTraining": 6, "file_ending": ".tif"}`,
		[]plan.Options{{Spacing: []float64{0.9, 0.75, 2}, PlansName: "own"}, {}}, []string{"3d_fullres"}},
}

type madeDataset struct {
	number         int
	name           string
	cases          int
	write          func(c madeCase)
	json           string
	plans          []plan.Options
	configurations []string // preprocessed by the first plans
}

// make writes the dataset into a folder.
func (m madeDataset) make(t *testing.T, dir string) {
	t.Helper()
	for _, sub := range []string{"imagesTr", "labelsTr"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for i := range m.cases {
		m.write(madeCase{t, dir, i, rand.NewPCG(uint64(m.number), uint64(i))})
	}
	if err := os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(m.json), 0o666); err != nil {
		t.Fatal(err)
	}
}

// madeCase is where a case is written and the stream of its numbers. All arithmetic on voxels is of integers, so that
// every machine makes the same files.
type madeCase struct {
	t      *testing.T
	dir    string
	number int
	draw   *rand.PCG
}

// between draws a number from lo to hi, both included.
func (c madeCase) between(lo, hi int) int { return lo + int(c.draw.Uint64()%uint64(hi-lo+1)) }

func (c madeCase) noise(n int) int { return c.between(-n, n) + c.between(-n, n) }

// size and spacing draw three numbers each; spacings are between hundredths of a millimetre.
func (c madeCase) size(z, y, x [2]int) [3]int {
	return [3]int{c.between(z[0], z[1]), c.between(y[0], y[1]), c.between(x[0], x[1])}
}

func (c madeCase) spacing(z, y, x [2]int) (mm [3]float64) {
	for a, n := range c.size(z, y, x) {
		mm[a] = float64(n) / 100
	}
	return mm
}

// file names image channel 0, 1, … or, at −1, the label map.
func (c madeCase) file(channel int, ending string) string {
	if channel < 0 {
		return filepath.Join(c.dir, "labelsTr", fmt.Sprintf("case_%d%s", c.number, ending))
	}
	return filepath.Join(c.dir, "imagesTr", fmt.Sprintf("case_%d_%04d%s", c.number, channel, ending))
}

func (c madeCase) put(path string, text []byte) {
	if err := os.WriteFile(path, text, 0o666); err != nil {
		c.t.Fatal(err)
	}
}

// ellipsoid has centre and radii in half voxels (z, y, x).
type ellipsoid struct{ centre, radius [3]int }

// within draws an ellipsoid with radii of the given percentages of a size, no further from the middle than off percent.
func (c madeCase) within(size [3]int, lo, hi, off int) (e ellipsoid) {
	for a, n := range size {
		e.centre[a] = n + c.between(-off, off)*n/100
		e.radius[a] = max(2, n*c.between(lo, hi)/100)
	}
	return e
}

func (e ellipsoid) holds(z, y, x int) bool {
	r := e.radius
	dz, dy, dx := (2*z+1-e.centre[0])*r[1]*r[2], (2*y+1-e.centre[1])*r[0]*r[2], (2*x+1-e.centre[2])*r[0]*r[1]
	all := r[0] * r[1] * r[2]
	return dz*dz+dy*dy+dx*dx <= all*all
}

// paint sets the voxels of an ellipsoid.
func paint(labels []int16, size [3]int, e ellipsoid, label int16) {
	at := 0
	for z := range size[0] {
		for y := range size[1] {
			for x := range size[2] {
				if e.holds(z, y, x) {
					labels[at] = label
				}
				at++
			}
		}
	}
}

// image makes voxels of labels, one after the other.
func image(labels []int16, value func(label, at int) int) []int16 {
	out := make([]int16, len(labels))
	for i, l := range labels {
		out[i] = int16(value(int(l), i))
	}
	return out
}

func voxels(size [3]int) int { return size[0] * size[1] * size[2] }

// turned: MR of two channels. The body lies in zeros, with a zero pocket in it; few thick slices along the file's y when
// turned to RAS. The files' axes point everywhere, one case is oblique, one has a qform only, one scaled samples, one no
// foreground.
func turned(c madeCase) {
	orientation := []string{"RAS", "LPS", "PIR", "ASL", "SRP", "RIA", "LAS", "IPL", "LPI"}[c.number]
	g := volume.NewGrid(c.size([2]int{38, 46}, [2]int{10, 13}, [2]int{40, 48}),
		c.spacing([2]int{78, 95}, [2]int{290, 440}, [2]int{80, 104}))
	body := make([]int16, voxels(g.Size))
	paint(body, g.Size, c.within(g.Size, 75, 85, 4), 1)
	labels := make([]int16, len(body))
	for organ := int16(1); organ <= 4 && c.number != 5; organ++ {
		paint(labels, g.Size, c.within(g.Size, 18, 34, 40), organ)
	}
	paint(body, g.Size, c.within(g.Size, 10, 20, 20), 0)
	for i, b := range body {
		if b == 0 && c.number != 2 { // case 2: labels also where the image is 0
			labels[i] = 0
		}
	}
	for axis := range 3 {
		g.Affine[axis][3] = float64(c.between(-900, 900)) / 10
	}
	if c.number == 6 { // turned by 16° about z, then by 13° about x
		c16, s16, c13, s13 := 24.0/25, 7.0/25, 40.0/41, 9.0/41
		rotation := [3][3]float64{{c16, -s16, 0}, {c13 * s16, c13 * c16, -s13}, {s13 * s16, s13 * c16, c13}}
		for row := range 3 {
			for axis := range 3 {
				g.Affine[row][axis] = rotation[row][axis] * g.Spacing[2-axis]
			}
		}
	}
	var turn volume.Reorientation
	for axis, letter := range orientation {
		turn.Axes[2-axis] = strings.IndexRune("SIAPRL", letter) / 2
		turn.Flip[2-axis] = strings.ContainsRune("LPI", letter)
	}
	write := func(channel int, data []int16) {
		slope, inter := float32(0), float32(0)
		if c.number == 3 && channel == 0 {
			slope, inter = 0.5, -20
			for i, v := range data {
				data[i] = 2*v + 40
			}
		}
		c.put(c.file(channel, ".nii.gz"), zipped(niftiFile(volume.Reorient(turn, data, g.Size), turn.Grid(g), c.number == 1, slope, inter)))
	}
	write(-1, labels)
	write(0, image(labels, func(l, at int) int { return int(body[at]) * (300 + 110*l + at%g.Size[2] + c.noise(40)) }))
	write(1, image(labels, func(l, at int) int { return int(body[at]) * (90 - 25*l + c.noise(30)) }))
}

// niftiFile is a NIfTI-1 file of int16 with an sform, or, for axes that point left, back and up, with a qform only.
func niftiFile(data []int16, g volume.Grid, qform bool, slope, inter float32) []byte {
	h := make([]byte, 352)
	le := binary.LittleEndian
	f32 := func(at int, v float64) { le.PutUint32(h[at:], math.Float32bits(float32(v))) }
	le.PutUint32(h, 348)
	le.PutUint16(h[40:], 3)
	f32(76, 1)
	for axis := range 3 {
		le.PutUint16(h[42+2*axis:], uint16(g.Size[2-axis]))
		f32(80+4*axis, g.Spacing[2-axis])
		f32(268+4*axis, g.Affine[axis][3])
		for column := range 4 {
			f32(280+16*axis+4*column, g.Affine[axis][column])
		}
	}
	for at := 48; at < 56; at += 2 {
		le.PutUint16(h[at:], 1)
	}
	le.PutUint16(h[70:], 4)
	le.PutUint16(h[72:], 16)
	f32(108, 352)
	f32(112, float64(slope))
	f32(116, float64(inter))
	h[123] = 2
	if qform {
		le.PutUint16(h[252:], 1)
		f32(264, 1) // half a turn about z
	} else {
		le.PutUint16(h[254:], 2)
	}
	copy(h[344:], "n+1\x00")
	return append(h, samples(data)...)
}

func samples(data []int16) (out []byte) {
	for _, v := range data {
		out = binary.LittleEndian.AppendUint16(out, uint16(v))
	}
	return out
}

func zipped(text []byte) []byte {
	return packed(text, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
}

func packed(text []byte, pack func(io.Writer) io.WriteCloser) []byte {
	var b bytes.Buffer
	w := pack(&b)
	w.Write(text)
	w.Close()
	return b.Bytes()
}

// thorax: CT whose full resolution is too much for a patch of little memory. Some first slices are 0.
func thorax(c madeCase) {
	size := c.size([2]int{30, 38}, [2]int{70, 84}, [2]int{72, 88})
	spacing := c.spacing([2]int{200, 300}, [2]int{80, 98}, [2]int{80, 98})
	spacing[2] = spacing[1]
	body := make([]int16, voxels(size))
	paint(body, size, c.within(size, 80, 95, 4), 1)
	labels := make([]int16, len(body))
	for organ := int16(1); organ <= 3; organ++ {
		paint(labels, size, c.within(size, 12, 34, 45), organ)
	}
	empty := c.between(0, 4) * size[1] * size[2]
	clear(labels[:empty])
	file := func(channel int, data []int16) {
		encoding, text := "raw", samples(data)
		if c.number%2 == 0 {
			encoding, text = "gzip", zipped(text)
		}
		head := fmt.Sprintf("NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: %d %d %d\n"+
			"space directions: (%v,0,0) (0,%v,0) (0,0,%v)\nkinds: domain domain domain\nendian: little\nencoding: %s\n"+
			"space origin: (%d,-40.5,12)\n\n", size[2], size[1], size[0], spacing[2], spacing[1], spacing[0], encoding, c.number)
		c.put(c.file(channel, ".nrrd"), append([]byte(head), text...))
	}
	file(-1, labels)
	file(0, image(labels, func(l, at int) int {
		switch {
		case at < empty:
			return 0
		case body[at] == 0:
			return -1000 + c.noise(10)
		}
		return 40 - 3*(at%size[2]) + 150*l*l + c.noise(60)
	}))
}

// stack: TIFF stacks of bytes with their spacing beside them, regions inside each other, and slices without annotation.
// The thick slices are along x, but thin in two cases.
func stack(c madeCase) {
	size, spacing := c.size([2]int{30, 36}, [2]int{34, 42}, [2]int{8, 10}), c.spacing([2]int{100, 130}, [2]int{60, 80}, [2]int{350, 450})
	if c.number < 2 {
		spacing[2] = float64(c.between(50, 70)) / 100
	}
	labels := make([]int16, voxels(size))
	whole := c.within(size, 45, 60, 10)
	for label := int16(1); label <= 3; label++ {
		paint(labels, size, whole, label)
		for a := range 3 {
			whole.radius[a] = max(2, whole.radius[a]*c.between(60, 75)/100)
		}
	}
	for i := range c.between(1, 4) * size[1] * size[2] {
		labels[len(labels)-1-i] = 4
	}
	write := func(channel int, data []int16) {
		pages := make([]byte, len(data))
		for i, v := range data {
			pages[i] = byte(v)
		}
		c.put(c.file(channel, ".tif"), tiffFile(pages, size, c.number%2 == 1))
		side := strings.TrimSuffix(strings.TrimSuffix(c.file(channel, ".tif"), ".tif"), "_0000") + ".json"
		c.put(side, fmt.Appendf(nil, `{"spacing": [%v, %v, %v]}`, spacing[0], spacing[1], spacing[2]))
	}
	write(-1, labels)
	write(0, image(labels, func(l, at int) int { return min(max(30+50*(l%4)+at%size[1]+c.noise(25), 0), 255) }))
}

// tiffFile is one page a slice, each one strip.
func tiffFile(pages []byte, size [3]int, compressed bool) []byte {
	le := binary.LittleEndian
	out := []byte("II*\x00\x08\x00\x00\x00")
	for z := range size[0] {
		page := pages[z*size[1]*size[2]:][:size[1]*size[2]]
		compression := uint32(1)
		if compressed {
			compression = 8
			page = packed(page, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
		}
		if len(page)%2 == 1 {
			page = append(bytes.Clone(page), 0)
		}
		data := uint32(len(out) + 2 + 9*12 + 4)
		out = le.AppendUint16(out, 9)
		for _, e := range [9][3]uint32{{256, 3, uint32(size[2])}, {257, 3, uint32(size[1])}, {258, 3, 8},
			{259, 3, compression}, {262, 3, 1},
			{273, 4, data}, {277, 3, 1}, {278, 3, uint32(size[1])}, {279, 4, uint32(len(page))}} {
			out = le.AppendUint16(out, uint16(e[0]))
			out = le.AppendUint16(out, uint16(e[1]))
			out = le.AppendUint32(out, 1)
			out = le.AppendUint32(out, e[2])
		}
		next := data + uint32(len(page))
		if z == size[0]-1 {
			next = 0
		}
		out = le.AppendUint32(out, next)
		out = append(out, page...)
	}
	return out
}
