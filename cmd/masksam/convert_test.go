package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"masksam/internal/imageio"
)

// mkpublished DIR makes small data sets in the layouts in which they are published: Task09_Spleen (the Decathlon's, with
// a 4-D image), Task005_Old (nnU-Net v1's), acdc, btcv and amos.
func mkpublished(args []string) error {
	dir := args[0]
	work, err := os.MkdirTemp(filepath.Dir(dir), "mkpublished")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, sub := range []string{"imagesTr", "labelsTr"} {
		if err := os.Mkdir(filepath.Join(work, sub), 0o777); err != nil {
			return err
		}
	}
	seed := uint64(0)
	// pair makes an image of two channels in one file, or a file for each, and its label map; empty names are left out.
	pair := func(label string, images ...string) error {
		seed++
		if err := mkcase(work, "Tr", "x", [3]int{6, 16, 16}, 2, rand.New(rand.NewPCG(2, seed))); err != nil {
			return err
		}
		from := []string{filepath.Join(work, "imagesTr/x_0000.nii.gz"), filepath.Join(work, "imagesTr/x_0001.nii.gz")}
		if strings.HasSuffix(images[0], "4d.nii.gz") {
			images[0] = strings.Replace(images[0], "4d.nii.gz", ".nii.gz", 1)
			reader, err := imageio.ChooseReader("", ".nii.gz", "")
			if err != nil {
				return err
			}
			both, _, err := reader.ReadCase(from)
			if err != nil {
				return err
			}
			if err := imageio.WriteFloat(from[0], both.Channels, both.Meta); err != nil {
				return err
			}
		}
		for i, to := range append(images, label) {
			if to == "" {
				continue
			}
			source := filepath.Join(work, "labelsTr/x.nii.gz")
			if i < len(images) {
				source = from[i]
			}
			to = filepath.Join(dir, to)
			if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
				return err
			}
			if err := os.Rename(source, to); err != nil {
				return err
			}
		}
		return nil
	}
	var steps []error
	do := func(label string, images ...string) { steps = append(steps, pair(label, images...)) }
	text := func(path, text string) {
		steps = append(steps, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o666))
	}

	task := func(folder, kind, id, ending string) string { return folder + "/" + kind + "/" + id + ending }
	for _, id := range []string{"a", "b"} {
		do(task("Task09_Spleen", "labelsTr", id, ".nii.gz"), task("Task09_Spleen", "imagesTr", id, "4d.nii.gz"))
		do(task("Task005_Old", "labelsTr", id, ".nii.gz"), task("Task005_Old", "imagesTr", id, "_0000.nii.gz"),
			task("Task005_Old", "imagesTr", id, "_0001.nii.gz"))
	}
	do("", "Task09_Spleen/imagesTs/c4d.nii.gz")
	text("Task09_Spleen/dataset.json",
		`{"name": "Spleen", "modality": {"0": "MRI", "1": "MRI"}, "labels": {"0": "background", "1": "box", "2": "ball"}, "numTraining": 2, "numTest": 1, "training": [], "test": []}`)
	text("Task005_Old/dataset.json",
		`{"name": "Old", "modality": {"0": "MRI", "1": "MRI"}, "labels": {"0": "background", "1": "box", "2": "ball"}, "numTraining": 2}`)
	for p := 1; p <= 4; p++ {
		for _, frame := range []string{"01", "12"} {
			name, part, gt := fmt.Sprintf("patient%03d", p), "training", "_gt.nii.gz"
			base := fmt.Sprintf("%s/%s_frame%s", name, name, frame)
			if p == 4 {
				part = "testing"
				do("", "acdc/"+part+"/"+base+".nii.gz")
				continue
			}
			do("acdc/"+part+"/"+base+gt, "acdc/"+part+"/"+base+".nii.gz")
		}
	}
	for n := 1; n <= 2; n++ {
		do(fmt.Sprintf("btcv/RawData/Training/label/label%04d.nii.gz", n), fmt.Sprintf("btcv/RawData/Training/img/img%04d.nii.gz", n))
	}
	do("", "btcv/RawData/Testing/img/img0061.nii.gz")
	do("amos/labelsTr/amos_0001.nii.gz", "amos/imagesTr/amos_0001.nii.gz")
	do("amos/labelsTr/amos_0507.nii.gz", "amos/imagesTr/amos_0507.nii.gz")
	do("amos/labelsVa/amos_0008.nii.gz", "amos/imagesVa/amos_0008.nii.gz")
	do("", "amos/imagesTs/amos_0501.nii.gz")
	text("amos/dataset.json", `{"labels": {"0": "background", "1": "spleen", "2": "right kidney"}, "training": [{"image": "./imagesTr/amos_0001.nii.gz"}, {"image": "./imagesTr/amos_0507.nii.gz"}],
 "validation": [{"image": "./imagesVa/amos_0008.nii.gz"}], "test": [{"image": "./imagesTs/amos_0501.nii.gz"}]}`)
	for _, err := range steps {
		if err != nil {
			return err
		}
	}
	return nil
}
