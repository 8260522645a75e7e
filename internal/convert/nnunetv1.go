package convert

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/pyjson"
)

var (
	oldTask     = regexp.MustCompile(`^Task([0-9]{3})_(.+)$`)
	channelFile = regexp.MustCompile(`^(.+)_([0-9]{4})$`)
)

// NNUNetV1 converts a raw dataset of nnU-Net's first version, TaskNNN_Name with dataset.json, imagesTr, labelsTr and
// perhaps imagesTs, labelsTs, imagesVal and labelsVal, by nnU-Net's rules (convert_raw_dataset_from_old_nnunet_format.py).
// The keys of dataset.json that went out of use are dropped, whether or not they are there; numTraining is corrected as
// in MSD.
func NNUNetV1(ctx context.Context, o Options) (*Result, error) {
	o, err := o.named(oldTask, "Task005_Prostate")
	if err != nil {
		return nil, err
	}

	s := look(o.Source)
	s.apart = true
	path := filepath.Join(o.Source, dataset.FileName)
	doc := s.object(path)
	channels := 0
	if doc != nil {
		for _, key := range []string{"tensorImageSize", "numTest", "training", "test"} {
			doc.Delete(key)
		}
		s.channelNames(doc, path)
		v, _ := doc.Get("channel_names")
		if names, ok := v.(*pyjson.Object); ok {
			channels = len(names.Keys())
		}
		doc.Set("labels", s.inverted(doc, path))
		doc.Set("file_ending", ending)
	}
	images := s.oldImages(imagesTr, channels)
	labels := s.oldLabels(labelsTr)
	s.match(images, labels)
	s.pair(images, labels)
	if doc != nil {
		s.recount(doc, path, len(images))
	}
	for _, part := range []string{"Ts", "Val"} {
		var images map[string][]string
		var labels map[string]string
		if folder := "images" + part; dataset.IsDir(filepath.Join(o.Source, folder)) {
			images = s.oldImages(folder, channels)
		}
		if folder := "labels" + part; dataset.IsDir(filepath.Join(o.Source, folder)) {
			labels = s.oldLabels(folder)
		}
		s.pair(images, labels)
	}
	text, err := pyjson.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return s.write(ctx, o, text, nil)
}

// oldImages plans a folder of channel files and checks that each case has all its channels, unless their number is 0. It
// returns the files of each case.
func (s *survey) oldImages(folder string, channels int) map[string][]string {
	cases := map[string][]string{}
	seen := map[string]bool{}
	for _, name := range s.niftis(folder) {
		path := filepath.Join(s.dir, folder, name)
		id, _ := stem(name)
		m := channelFile.FindStringSubmatch(id)
		if m == nil {
			s.fail(ruleNames, "%s: an image is named CASE_0000%s, with four digits for the channel", path, ending)
			continue
		}
		if c, _ := strconv.Atoi(m[2]); channels > 0 && c >= channels {
			s.fail(ruleChannels, "%s: channel %d, but modality in dataset.json names %d", path, c, channels)
		}
		cases[m[1]] = append(cases[m[1]], path)
		seen[id] = true
		s.copy(m[1], path, folder+"/"+id+ending)
	}
	if len(cases) == 0 {
		s.fail(ruleMissing, "%s: no image", filepath.Join(s.dir, folder))
	}
	for _, id := range slices.Sorted(maps.Keys(cases)) {
		for c := range channels {
			if name := fmt.Sprintf("%s_%04d", id, c); !seen[name] {
				s.fail(ruleMissing, "%s: channel file %s%s of case %s is missing", filepath.Join(s.dir, folder), name, ending, id)
			}
		}
	}
	return cases
}

// oldLabels plans a folder of label maps and returns them by case.
func (s *survey) oldLabels(folder string) map[string]string {
	maps := map[string]string{}
	for _, name := range s.niftis(folder) {
		id, _ := stem(name)
		maps[id] = filepath.Join(s.dir, folder, name)
	}
	s.labels(maps, folder)
	return maps
}

// niftis lists the NIfTI files of a folder of the source and tells of what else is there.
func (s *survey) niftis(folder string) []string {
	var names, others []string
	for _, name := range s.files(filepath.Join(s.dir, folder)) {
		if _, ok := stem(name); ok {
			names = append(names, name)
		} else {
			others = append(others, name)
		}
	}
	if len(others) > 0 {
		s.warn("%s: no NIfTI files, left behind: %s", filepath.Join(s.dir, folder), strings.Join(others, ", "))
	}
	return names
}
