package convert

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/pyjson"
)

var taskName = regexp.MustCompile(`^Task([0-9]+)_([^_]+)$`)

// MSD converts a task of the Medical Segmentation Decathlon, TaskNN_Name with dataset.json, imagesTr, labelsTr and
// imagesTs, to DatasetNNN_Name by nnU-Net's rules (convert_MSD_dataset.py). 4-D images become one file per channel, with
// the samples and the geometry of the source. dataset.json keeps all but modality (now channel_names), training and
// test; a numTraining that does not count the images is corrected, as nnU-Net's planner trusts it.
func MSD(ctx context.Context, o Options) (*Result, error) {
	o, err := o.named(taskName, "Task05_Prostate")
	if err != nil {
		return nil, err
	}

	s := look(o.Source)
	images := s.msd(imagesTr, s.split)
	s.msd(imagesTs, s.split)
	labels := s.msd(labelsTr, func(from, to string) { s.copy(from, to+ending) })
	s.match(images, labels)

	path := filepath.Join(o.Source, dataset.FileName)
	doc := s.object(path)
	if doc != nil {
		doc.Set("labels", s.turned(doc, path))
		doc.Set("file_ending", ending)
		s.channelNames(doc, path)
		doc.Delete("training")
		doc.Delete("test")
		s.recount(doc, path, len(images))
	}
	text, err := pyjson.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return s.write(ctx, o, text, nil)
}

// msd plans the NIfTI files of a folder, those left out whose name begins with "_", and returns them by case.
func (s *survey) msd(folder string, plan func(from, to string)) map[string]string {
	files := map[string]string{}
	for _, name := range s.files(filepath.Join(s.dir, folder)) {
		id, ok := stem(name)
		if !ok || strings.HasPrefix(name, "_") {
			continue
		}
		files[id] = filepath.Join(s.dir, folder, name)
		plan(files[id], folder+"/"+id)
	}
	if len(files) == 0 && folder == imagesTr && dataset.IsDir(filepath.Join(s.dir, folder)) {
		s.fail("%s: no %s file", filepath.Join(s.dir, folder), ending)
	}
	return files
}

// split plans the files of an image's channels.
func (s *survey) split(from, to string) {
	meta, channels, err := imageio.ReadMeta(from)
	switch {
	case err != nil:
		s.fail("%w", err)
		return
	case meta.Dims != 3:
		s.fail("%s: has %d dimensions; a Decathlon image has 3, or 4 of which the last are channels", from, meta.Dims)
		return
	case channels == 1:
		s.copy(from, to+"_0000"+ending)
		return
	}
	name := func(c int) string { return fmt.Sprintf("%s_%04d%s", to, c, ending) }
	var all []string
	for c := range channels {
		all = append(all, name(c))
	}
	s.add(from, func(_ context.Context, dir string) error {
		return imageio.Split(from, func(c int) string { return filepath.Join(dir, name(c)) })
	}, all...)
}

// channelNames gives modality its present name, as the last entry.
func (s *survey) channelNames(doc *pyjson.Object, path string) {
	modality, ok := doc.Get("modality")
	if _, isObject := modality.(*pyjson.Object); !ok || !isObject {
		s.fail(`%s: "modality" is not of the form {"0": "CT", …}`, path)
		return
	}
	doc.Delete("modality")
	doc.Set("channel_names", modality)
}

// recount corrects numTraining.
func (s *survey) recount(doc *pyjson.Object, path string, images int) {
	n, ok := doc.Get("numTraining")
	if ok && n != images {
		s.warn("%s: numTraining is %v, but there are %d training cases: corrected", path, n, images)
	}
	doc.Set("numTraining", images)
}
