package convert

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/pyjson"
)

// AMOS converts AMOS22 (dataset.json, imagesTr, imagesVa, imagesTs, labelsTr, labelsVa) by nnU-Net's rules
// (Dataset218_Amos2022_task1.py, Dataset219_Amos2022_task2.py), under the published recipe's name: the cases for
// validation become training cases as well. It keeps the CT (cases up to 410 of training, 409 of validation, 500 of
// test) as Dataset052_AMOS22_OnlyCT; with all, CT and MR, as Dataset053_AMOS22.
func AMOS(ctx context.Context, o Options, all bool) (*Result, error) {
	s := look(o.Source)
	path := filepath.Join(o.Source, dataset.FileName)
	doc := s.object(path)
	count := 0
	names := pyjson.NewObject()
	if doc != nil {
		for _, part := range []struct {
			key, suffix, to string
			lastCT          int
		}{{"training", "Tr", imagesTr, 410}, {"validation", "Va", imagesTr, 409}, {"test", "Ts", imagesTs, 500}} {
			for _, name := range s.listed(doc, path, part.key) {
				id, ok := stem(name)
				n, err := strconv.Atoi(id[strings.LastIndexByte(id, '_')+1:])
				if !ok || err != nil {
					s.fail(ruleNames, "%s: %q in %q is not named like amos_0001%s", path, name, part.key, ending)
					continue
				}
				if n > part.lastCT && !all {
					continue
				}
				c := source{id: id}
				if image := filepath.Join(o.Source, "images"+part.suffix, name); s.require(id, image, part.to+"/"+id+"_0000"+ending) {
					c.images = []string{image}
				}
				if part.to == imagesTr {
					if label := filepath.Join(o.Source, "labels"+part.suffix, name); s.require(id, label, labelsTr+"/"+id+ending) {
						c.label = label
					}
					count++
				}
				s.cases = append(s.cases, c)
			}
		}
		names = s.inverted(doc, path)
		if count == 0 {
			s.fail(ruleMissing, "%s: lists no case for training", path)
		}
	}
	channel, id, name := "CT", 52, "AMOS22_OnlyCT"
	if all {
		channel, id, name = "either_CT_or_MR", 53, "AMOS22"
	}
	text, err := DatasetJSON(Description{
		Channels: []string{channel}, Labels: names, NumTraining: count, FileEnding: ending, Name: name,
		Reference: "AMOS: multi-modality abdominal multi-organ segmentation challenge 2022", Licence: "see the data's source",
		ConvertedBy: "masksam convert amos", Reader: "NibabelIOWithReorient",
		Description: "The release after the challenge; its validation cases are training cases here.",
	})
	if err != nil {
		return nil, err
	}
	return s.write(ctx, o.or(id, name), text, nil)
}

// listed are the file names of a list of AMOS's dataset.json, whose entries are {"image": path, …} or paths. Only
// "training" must be there.
func (s *survey) listed(doc *pyjson.Object, path, key string) []string {
	v, ok := doc.Get(key)
	list, isList := v.([]any)
	if !isList {
		if ok || key == "training" {
			s.fail(ruleDescription, "%s: %q is not a list of cases", path, key)
		}
		return nil
	}
	var names []string
	for i, v := range list {
		if entry, ok := v.(*pyjson.Object); ok {
			v, _ = entry.Get("image")
		}
		image, ok := v.(string)
		if !ok {
			s.fail(ruleDescription, "%s: entry %d of %q names no image", path, i+1, key)
			continue
		}
		names = append(names, image[strings.LastIndexByte(image, '/')+1:])
	}
	return names
}

// require plans the copy of a case's file that must be there.
func (s *survey) require(id, from, to string) bool {
	if !isFile(from) {
		s.fail(ruleMissing, "%s: the file is missing", from)
		return false
	}
	s.copy(id, from, to)
	return true
}
