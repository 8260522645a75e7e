package convert

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/pyjson"
)

// organs of BTCV in the order of their values, from 1.
var organs = []string{"spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
	"inferior vena cava", "portal and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland"}

// benchmark are the values of the eight organs that the Synapse benchmark scores; their place here, from 1, is their
// value in a dataset of eight.
var benchmark = []int{1, 2, 3, 4, 6, 7, 8, 11}

var (
	abdomenImage = regexp.MustCompile(`^img([0-9]{4})$`)
	abdomenLabel = regexp.MustCompile(`^(?:label|img)([0-9]{4})$`)
)

// Synapse converts BTCV, the abdominal CT of "Beyond the Cranial Vault" on Synapse, to Dataset028_Synapse: imgNNNN and
// labelNNNN become the case imgNNNN, of 13 organs; with eight, the organs of the usual benchmark get the labels 1 to 8
// and the others become background. The source is RawData as it is unpacked, or the folder Training in it, or a folder
// of img and label (or imagesTr and labelsTr); images for testing become imagesTs.
func Synapse(ctx context.Context, o Options, eight bool) (*Result, error) {
	s := look(o.Source)
	images, labels, tests := s.abdomen()
	s.images(images, imagesTr)
	s.images(tests, imagesTs)
	s.match(lists(images), labels)
	s.pair(lists(images), labels)
	s.pair(lists(tests), nil)
	for v := range len(organs) + 1 {
		s.values = append(s.values, v)
	}
	names := pyjson.NewObject("background", 0)
	if eight {
		for i, v := range benchmark {
			names.Set(organs[v-1], i+1)
		}
		for _, id := range slices.Sorted(maps.Keys(labels)) {
			from, to := labels[id], labelsTr+"/"+id+ending
			st := step{id: id, run: func(_ context.Context, dir string) error { return toBenchmark(from, filepath.Join(dir, to)) }}
			if meta, _, err := imageio.ReadMeta(from); err == nil {
				st.need = labelBytes(meta)
			}
			s.add(from, st, to)
		}
	} else {
		for i, organ := range organs {
			names.Set(organ, i+1)
		}
		s.labels(labels, labelsTr)
	}
	text, err := DatasetJSON(Description{
		Channels: []string{"CT"}, Labels: names, NumTraining: len(images), FileEnding: ending, Name: "Synapse",
		Reference: "Multi-Atlas Labeling Beyond the Cranial Vault, MICCAI 2015", Licence: "see the data's source",
		ConvertedBy: "masksam convert synapse",
	})
	if err != nil {
		return nil, err
	}
	return s.write(ctx, o.or(28, "Synapse"), text, nil)
}

// abdomen finds the folders of the source and lists their files by case.
func (s *survey) abdomen() (images, labels, tests map[string]string) {
	for _, base := range []string{".", "Training", "RawData", "RawData/Training", "Abdomen/RawData/Training", "RawData/RawData/Training"} {
		for _, pair := range [][2]string{{"img", "label"}, {imagesTr, labelsTr}} {
			img, label := filepath.Join(s.dir, base, pair[0]), filepath.Join(s.dir, base, pair[1])
			if !dataset.IsDir(img) {
				continue
			}
			images, labels = s.named(img, abdomenImage, "img0001"), s.named(label, abdomenLabel, "label0001")
			for _, test := range []string{"../Testing/img", "../Test/img", "Testing/img", imagesTs} {
				if dir := filepath.Join(s.dir, base, test); dataset.IsDir(dir) {
					return images, labels, s.named(dir, abdomenImage, "img0061")
				}
			}
			return images, labels, nil
		}
	}
	if dataset.IsDir(filepath.Join(s.dir, "averaged-training-images")) {
		s.fail(ruleMissing, "%s: averaged-training-images (DET…_avg) is another data set of the same Synapse "+
			"project, not the abdominal CT; unpack its Abdomen/RawData.zip and give the folder RawData", s.dir)
	} else {
		s.fail(ruleMissing, "%s: no folders img and label here or in RawData/Training", s.dir)
	}
	return nil, nil, nil
}

// named lists a folder's NIfTI files, whose names must match, by the case imgNNNN. Other files are passed over.
func (s *survey) named(dir string, form *regexp.Regexp, example string) map[string]string {
	cases := map[string]string{}
	for _, name := range s.files(dir) {
		id, ok := stem(name)
		if !ok {
			continue
		}
		path := filepath.Join(dir, name)
		m := form.FindStringSubmatch(id)
		if m == nil {
			s.fail(ruleNames, "%s: the files of this folder are named like %s%s", path, example, ending)
			continue
		}
		id = "img" + m[1]
		if cases[id] != "" {
			s.fail(ruleTwice, "%s and %s are the same; remove one", cases[id], path)
		}
		cases[id] = path
	}
	if len(cases) == 0 {
		s.fail(ruleMissing, "%s: no file like %s%s", dir, example, ending)
	}
	return cases
}

// toBenchmark rewrites a label map of 13 organs as one of eight.
func toBenchmark(from, to string) error {
	l, err := imageio.ReadLabel(from)
	if err != nil {
		return err
	}
	table := make([]int32, len(organs)+1)
	for i, v := range benchmark {
		table[v] = int32(i + 1)
	}
	for i, v := range l.Data {
		if v < 0 || int(v) >= len(table) {
			return fmt.Errorf("%s: holds the label %d, but BTCV has 0 to %d", from, v, len(organs))
		}
		l.Data[i] = table[v]
	}
	return imageio.WriteLabel(to, l.Data, l.Meta)
}
