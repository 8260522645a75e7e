package convert

import (
	"context"
	"maps"
	"path/filepath"
	"regexp"
	"slices"

	"masksam/internal/dataset"
	"masksam/internal/numpy"
	"masksam/internal/pyjson"
)

var (
	patientDir = regexp.MustCompile(`^patient[0-9]{3}$`)
	frameFile  = regexp.MustCompile(`^((patient[0-9]{3})_frame[0-9]{2,})(_gt)?$`)
	wholeHeart = regexp.MustCompile(`^patient[0-9]{3}_4d$`)
)

// ACDC converts the Automated Cardiac Diagnosis Challenge, a folder with training and perhaps testing of patientPPP
// folders, to Dataset027_ACDC as nnU-Net does (Dataset027_ACDC.py): cases patientPPP_frameFF, the cine (_4d) left out.
// Label maps of testing, which later releases have, go to labelsTs. The dataset's splits_final.json has nnU-Net's five
// folds of patients, which planning copies to the preprocessed folder.
func ACDC(ctx context.Context, o Options) (*Result, error) {
	s := look(o.Source)
	root := o.Source
	if inner := filepath.Join(root, "database"); !dataset.IsDir(filepath.Join(root, "training")) && dataset.IsDir(inner) {
		root = inner
	}
	images, labels := s.patients(filepath.Join(root, "training"))
	s.match(lists(images), labels)
	s.pair(lists(images), labels)
	s.images(images, imagesTr)
	s.labels(labels, labelsTr)
	if testing := filepath.Join(root, "testing"); dataset.IsDir(testing) {
		images, labels := s.patients(testing)
		if len(labels) > 0 {
			s.match(lists(images), labels)
		}
		s.pair(lists(images), labels)
		s.images(images, imagesTs)
		s.labels(labels, labelsTs)
	}
	text, err := DatasetJSON(Description{
		Channels: []string{"cineMRI"}, Labels: pyjson.NewObject("background", 0, "RV", 1, "MLV", 2, "LVC", 3),
		NumTraining: len(images), FileEnding: ending, Name: "ACDC", Reference: "Automated Cardiac Diagnosis Challenge, MICCAI 2017",
		Licence: "see the data's source", ConvertedBy: "masksam convert acdc",
	})
	if err != nil {
		return nil, err
	}
	splits := PatientFolds(slices.Sorted(maps.Keys(labels)))
	if splits == nil {
		s.warn("%s: a single patient cannot be split, so no %s is written", o.Source, dataset.SplitsName)
	}
	return s.write(ctx, o.or(27, "ACDC"), text, splits)
}

// patients finds the frames and their label maps, by case, in the patients' folders.
func (s *survey) patients(dir string) (images, labels map[string]string) {
	images, labels = map[string]string{}, map[string]string{}
	patients := s.folders(dir)
	if patients != nil && !slices.ContainsFunc(patients, patientDir.MatchString) {
		s.fail(ruleMissing, "%s: no folder patient001 …", dir)
	}
	for _, patient := range patients {
		if !patientDir.MatchString(patient) {
			continue
		}
		frames := 0
		for _, name := range s.files(filepath.Join(dir, patient)) {
			path := filepath.Join(dir, patient, name)
			id, ok := stem(name)
			if !ok || wholeHeart.MatchString(id) {
				continue
			}
			m := frameFile.FindStringSubmatch(id)
			if m == nil || m[2] != patient {
				s.fail(ruleNames, "%s: the frames of a patient are named %s_frame01%s and %s_frame01_gt%s", path,
					patient, ending, patient, ending)
				continue
			}
			found := images
			if m[3] != "" {
				found = labels
			}
			if found[m[1]] != "" {
				s.fail(ruleTwice, "%s and %s are the same; remove one", found[m[1]], path)
			}
			found[m[1]] = path
			frames++
		}
		if frames == 0 {
			s.fail(ruleMissing, "%s: no frame of this patient", filepath.Join(dir, patient))
		}
	}
	return images, labels
}

// PatientFolds is nnU-Net's split of ACDC (Dataset027_ACDC.py): the patients, the first ten characters of the case ids, are
// shuffled with seed 1234, and fold f validates on patients f, f+5, …; the lists keep the order of cases, which must be
// sorted. Fewer than five patients make as many folds, a single one makes none.
func PatientFolds(cases []string) []dataset.Split {
	patient := func(id string) string { return id[:min(len(id), len("patient000"))] }
	var patients []string
	for _, id := range cases {
		if p := patient(id); !slices.Contains(patients, p) {
			patients = append(patients, p)
		}
	}
	if len(patients) < 2 {
		return nil
	}
	numpy.NewRandom(1234).Shuffle(len(patients), func(i, j int) { patients[i], patients[j] = patients[j], patients[i] })
	splits := make([]dataset.Split, min(5, len(patients)))
	for f := range splits {
		for _, id := range cases {
			if slices.Index(patients, patient(id))%len(splits) == f {
				splits[f].Val = append(splits[f].Val, id)
			} else {
				splits[f].Train = append(splits[f].Train, id)
			}
		}
	}
	return splits
}
