package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// Source says where a demo's anatomy comes from.
type Source string

const (
	Colin27 Source = "Colin27 (one healthy head, 27 scans averaged) with its AAL parcellation, from Debian's package mricron-data"
	Phantom Source = "a built-in phantom, no real head"
)

// Structures are the names of the labels, background first.
var Structures = []string{"background", "hippocampus", "caudate", "putamen", "pallidum", "thalamus"}

// structure names a label.
func structure(label int) string { return Structures[label] }

// aalLeft is AAL's value of each structure on the left; the right one is the next (the package's aal.nii.txt).
var aalLeft = [...]uint8{0, 37, 71, 73, 75, 77}

// hemisphere is one half of a head, brought to the orientation of a left one: a 1 mm grid over hemisphereBox.
type hemisphere struct {
	image  []float32
	labels []uint8
}

// head has a left hemisphere, and a right one mirrored so that the two can be laid over each other.
type head struct {
	source      Source
	left, right hemisphere
}

// The boxes are in Colin27's voxels, 1 mm apart, as (z, y, x); x = 90 is the mid-sagittal plane and x < 90 left. roi is
// what the cases show: all five structures of either side with some margin. hemisphereBox is wider, so that a deformed
// case finds image beyond roi's borders.
var (
	colinSize = [3]int{181, 217, 181}
	midline   = 90
	roi       = volume.Box{Lo: [3]int{36, 76, 40}, Hi: [3]int{106, 162, 94}}
	wide      = volume.Box{Lo: [3]int{14, 54, 18}, Hi: [3]int{128, 184, 116}}
)

// loadColin reads both hemispheres from the package's templates folder.
func loadColin(folder string) (*head, error) {
	image, err := imageio.Read(filepath.Join(folder, "ch2.nii.gz"))
	if err != nil {
		return nil, err
	}
	labels, err := imageio.ReadLabel(filepath.Join(folder, "aal.nii.gz"))
	if err != nil {
		return nil, err
	}
	if err := imageio.SameGrid(image.Meta, labels.Meta); err != nil {
		return nil, err
	}
	if image.Grid.Size != colinSize || image.Grid.Affine[0][0] <= 0 {
		return nil, fmt.Errorf("%s: %v voxels, expected Colin27's %v with x to the right", image.Path, image.Grid.Size, colinSize)
	}
	h := &head{source: Colin27}
	h.left.cut(image.Channels[0], labels.Data, func(x int) int { return x }, 0)
	h.right.cut(image.Channels[0], labels.Data, func(x int) int { return 2*midline - x }, 1)
	for side, half := range map[string]hemisphere{"left": h.left, "right": h.right} {
		var seen [256]bool
		for _, v := range half.labels {
			seen[v] = true
		}
		for v, name := range Structures {
			if !seen[v] {
				return nil, fmt.Errorf("%s: no %s on the %s", labels.Path, name, side)
			}
		}
	}
	return h, nil
}

// cut copies the wide box, its columns read through column, AAL's values of one side becoming ours.
func (h *hemisphere) cut(image []float32, aal []int32, column func(x int) int, side uint8) {
	h.image, h.labels = make([]float32, 0, wide.Len()), make([]uint8, 0, wide.Len())
	var ours [256]uint8
	for v := 1; v < len(aalLeft); v++ {
		ours[aalLeft[v]+side] = uint8(v)
	}
	for z := wide.Lo[0]; z < wide.Hi[0]; z++ {
		for y := wide.Lo[1]; y < wide.Hi[1]; y++ {
			for x := wide.Lo[2]; x < wide.Hi[2]; x++ {
				i := (z*colinSize[1]+y)*colinSize[2] + column(x)
				h.image = append(h.image, image[i])
				h.labels = append(h.labels, ours[uint8(aal[i])])
			}
		}
	}
}

// templates is where the package keeps the two files.
const templates = "usr/share/mricron/templates"

// fetch returns a folder with ch2.nii.gz and aal.nii.gz: of an installed mricron-data, of the cache, or unpacked into
// the cache from a fresh download. Nothing is installed and no system file is touched.
func fetch(ctx context.Context, cache string) (string, error) {
	cache, err := filepath.Abs(cache) // the tools run in a folder of their own
	if err != nil {
		return "", fmt.Errorf("fetch mricron-data: %w", err)
	}
	unpacked := filepath.Join(cache, "mricron-data")
	for _, folder := range []string{filepath.Join("/", templates), unpacked} {
		if has(folder) {
			return folder, nil
		}
	}
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("fetch mricron-data: %w", err)
		}
	}
	if err := os.MkdirAll(cache, 0o777); err != nil {
		return "", fmt.Errorf("fetch mricron-data: %w", err)
	}
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return "", fmt.Errorf("fetch mricron-data: %w", err)
	}
	defer os.RemoveAll(work)
	if err := download(ctx, work); err != nil {
		return "", fmt.Errorf("fetch mricron-data: %w", err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "mricron-data_*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("fetch mricron-data: apt-get download left %d packages", len(debs))
	}
	if err := command(ctx, work, "dpkg-deb", "-x", debs[0], "root"); err != nil {
		return "", fmt.Errorf("unpack mricron-data: %w", err)
	}
	from := filepath.Join(work, "root", templates)
	if !has(from) {
		return "", errors.New("unpack mricron-data: it holds no ch2.nii.gz and aal.nii.gz")
	}
	if err := os.Rename(from, unpacked); err != nil && !has(unpacked) {
		return "", fmt.Errorf("unpack mricron-data: %w", err)
	}
	return unpacked, nil
}

func has(folder string) bool {
	for _, name := range []string{"ch2.nii.gz", "aal.nii.gz"} {
		if _, err := os.Stat(filepath.Join(folder, name)); errors.Is(err, fs.ErrNotExist) || err != nil {
			return false
		}
	}
	return true
}

// download gets the package into work. Where the system's package lists are missing or old, lists of its own are
// fetched below work.
func download(ctx context.Context, work string) error {
	get := []string{"-qq", "-o", "APT::Sandbox::User=root", "download", "mricron-data"}
	first := command(ctx, work, "apt-get", get...)
	if first == nil {
		return nil
	}
	state := filepath.Join(work, "state")
	for _, dir := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(state, dir), 0o777); err != nil {
			return err
		}
	}
	own := []string{"-o", "Dir::State::lists=" + filepath.Join(state, "lists"), "-o", "Dir::Cache=" + state,
		"-o", "Debug::NoLocking=true"}
	if err := command(ctx, work, "apt-get", append(own, "-qq", "-o", "APT::Sandbox::User=root", "update")...); err != nil {
		return errors.Join(first, err)
	}
	return command(ctx, work, "apt-get", append(own, get...)...)
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s: %w: %s", name, err, lines[len(lines)-1])
	}
	return nil
}
