package predict

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
)

// place is where a case's files go, without their endings.
func (o Options) place(id, ending string) string {
	if o.oneFile(ending) {
		return strings.TrimSuffix(o.Output, ending)
	}
	return filepath.Join(o.Output, id)
}

// oneFile tells whether the output is the label map of one case.
func (o Options) oneFile(ending string) bool {
	return strings.HasSuffix(o.Output, ending) && !dataset.IsDir(o.Output)
}

// clash refuses an output that is to hold several cases in one file, or would replace an image or the stage before's labels.
func (o Options) clash(cases []dataset.Case, ending string) error {
	if o.oneFile(ending) && len(cases) > 1 {
		return fmt.Errorf("%d cases cannot go into the one file %s: name a folder", len(cases), o.Output)
	}
	for _, c := range cases {
		for _, path := range append(slices.Clone(c.Images), c.Label) {
			if atomicfile.Same(path, o.place(c.ID, ending)+ending) {
				return fmt.Errorf("the labels of case %s would replace its own input %s: choose another output", c.ID, path)
			}
		}
	}
	return nil
}

// Missing are the cases of the input that a prediction into the output folder, of which any number of processes may have
// done its part, left undone, with the part that each belongs to. It goes by the files that every prediction describes
// itself by; nothing else is read.
func Missing(o Options) (missing []Undone, of int, err error) {
	ds, err := dataset.Read(o.Output)
	if err != nil {
		return nil, 0, fmt.Errorf("%s holds no prediction: %w", o.Output, err)
	}
	all, err := ds.Inputs(o.Input, o.Files)
	if err != nil {
		return nil, 0, fmt.Errorf("predict: %w", err)
	}
	if o.Part.Of == 0 {
		o.Part.Of = o.parts()
	}
	for i, c := range all {
		if !o.finished(c.ID, ds.FileEnding) {
			missing = append(missing, Undone{c.ID, i % max(o.Part.Of, 1), o.Part.Of})
		}
	}
	return missing, len(all), nil
}

// Undone is a case that has no label map.
type Undone struct {
	Case     string
	Part, Of int // the part that it belongs to, of how many; Of 0 or 1: there are none
}

// parts is how many the last prediction into the output folder was divided into, 0 where it does not tell.
func (o Options) parts() int {
	var told struct {
		Parts int `json:"num_parts"`
	}
	text, err := os.ReadFile(filepath.Join(o.Output, argumentsName))
	if err != nil || json.Unmarshal(text, &told) != nil {
		return 0
	}
	return told.Parts
}
