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
	tests := s.msd(imagesTs, s.split)
	labels := s.msd(labelsTr, func(id, from, to string) { s.copy(id, from, to+ending) })
	s.match(lists(images), labels)
	s.pair(lists(images), labels)
	s.pair(lists(tests), nil)

	path := filepath.Join(o.Source, dataset.FileName)
	doc := s.object(path)
	if doc != nil {
		s.listedFiles(doc, path)
		doc.Set("labels", s.inverted(doc, path))
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
func (s *survey) msd(folder string, plan func(id, from, to string)) map[string]string {
	files := map[string]string{}
	for _, name := range s.files(filepath.Join(s.dir, folder)) {
		path := filepath.Join(s.dir, folder, name)
		id, ok := stem(name)
		if !ok || strings.HasPrefix(name, "_") {
			continue
		}
		if other := files[id]; other != "" {
			s.fail(ruleTwice, "%s and %s are the same case; remove one", other, path)
			continue
		}
		files[id] = path
		plan(id, path, folder+"/"+id)
	}
	if len(files) == 0 && folder == imagesTr && dataset.IsDir(filepath.Join(s.dir, folder)) {
		s.fail(ruleMissing, "%s: no %s file", filepath.Join(s.dir, folder), ending)
	}
	return files
}

// split plans the files of an image's channels.
func (s *survey) split(id, from, to string) {
	meta, channels, err := imageio.ReadMeta(from)
	switch {
	case err != nil:
		return // check reports it
	case meta.Dims != 3:
		s.fail(ruleShape, "%s: has %d dimensions; a Decathlon image has 3, or 4 of which the last are channels", from, meta.Dims)
		return
	case channels == 1:
		s.copy(id, from, to+"_0000"+ending)
		return
	}
	name := func(c int) string { return fmt.Sprintf("%s_%04d%s", to, c, ending) }
	var all []string
	for c := range channels {
		all = append(all, name(c))
	}
	s.add(from, step{id: id, run: func(_ context.Context, dir string) error {
		return imageio.Split(from, func(c int) string { return filepath.Join(dir, name(c)) })
	}}, all...)
}

// channelNames gives modality its present name, as the last entry.
func (s *survey) channelNames(doc *pyjson.Object, path string) {
	modality, ok := doc.Get("modality")
	if _, isObject := modality.(*pyjson.Object); !ok || !isObject {
		s.fail(ruleDescription, `%s: "modality" is not of the form {"0": "CT", …}`, path)
		return
	}
	doc.Delete("modality")
	doc.Set("channel_names", modality)
}

// listedFiles checks that the files which dataset.json lists are there: a part of a download may be missing.
func (s *survey) listedFiles(doc *pyjson.Object, path string) {
	for _, key := range []string{"training", "test"} {
		v, _ := doc.Get(key)
		list, _ := v.([]any)
		for _, v := range list {
			files := []any{v}
			if entry, ok := v.(*pyjson.Object); ok {
				image, _ := entry.Get("image")
				label, _ := entry.Get("label")
				files = []any{image, label}
			}
			for _, f := range files {
				if name, ok := f.(string); ok && !isFile(filepath.Join(s.dir, filepath.FromSlash(name))) {
					s.fail(ruleMissing, "%s: the file is missing; %s lists it", filepath.Join(s.dir, filepath.FromSlash(name)), path)
				}
			}
		}
	}
}

// recount corrects numTraining.
func (s *survey) recount(doc *pyjson.Object, path string, images int) {
	n, ok := doc.Get("numTraining")
	if ok && n != images {
		s.warn("%s: numTraining is %v, but there are %d training cases: corrected", path, n, images)
	}
	doc.Set("numTraining", images)
}
