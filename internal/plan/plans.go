// Package plan makes, reads and writes nnU-Net's plans: what a dataset's fingerprint says about spacing, patch, batch,
// normalisation and resampling. A plans.json of nnU-Net 2.8.1 is made and read without change; what this program adds (the
// network as data) are further keys of a configuration, which nnU-Net leaves alone.
package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/pyjson"
)

// Normalisation schemes by nnU-Net's class names.
const (
	ZScore      = "ZScoreNormalization"
	CT          = "CTNormalization"
	NoNorm      = "NoNormalization"
	RescaleTo01 = "RescaleTo01Normalization"
	RGBTo01     = "RGBTo01Normalization"
)

// Plans is a plans.json. Its fields are views; what is written is the document that it was read or made from.
type Plans struct {
	DatasetName string
	PlansName   string
	Reader      string // image_reader_writer
	Planner     string // experiment_planner_used
	// TransposeForward[a] is the file axis (z, y, x as read) that becomes axis a; TransposeBackward undoes it.
	TransposeForward  [3]int
	TransposeBackward [3]int
	MedianSpacing     []float64   // original_median_spacing_after_transp
	MedianShape       []int       // original_median_shape_after_transp
	Intensity         []Intensity // foreground intensities per channel

	doc *pyjson.Object
}

// CheckName refuses names that plans cannot have: one becomes a file in the folder of the preprocessed dataset, and part of
// a model's folder, TRAINER__PLANS__CONFIGURATION.
func CheckName(name string) error {
	switch file := name + ".json"; {
	case strings.ContainsAny(name, `/\`) || strings.HasPrefix(name, "."):
		return fmt.Errorf("plans cannot be named %q: the name becomes a file name, which may hold neither / nor \\ "+
			"and may not begin with a dot", name)
	case strings.Contains("_"+name+"_", "__"):
		return fmt.Errorf("plans cannot be named %q: models' folders are TRAINER__PLANS__CONFIGURATION, so no _ at "+
			"an end and no __ inside", name)
	case slices.Contains([]string{dataset.FileName, dataset.SplitsName, FingerprintName}, file):
		return fmt.Errorf("plans cannot be named %q: %s is another file of the dataset", name, file)
	}
	return nil
}

// Read reads a plans.json.
func Read(path string) (*Plans, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read plans: %w", err)
	}
	p, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read plans: %s: %w", path, err)
	}
	return p, nil
}

// Parse reads the text of a plans.json.
func Parse(text []byte) (*Plans, error) {
	doc, err := pyjson.ParseObject(text)
	if err != nil {
		return nil, err
	}
	return FromDocument(doc)
}

// FromDocument takes over the document of a plans.json.
func FromDocument(doc *pyjson.Object) (*Plans, error) {
	if twice := pyjson.Repeated(doc); len(twice) > 0 {
		return nil, &pyjson.RepeatedError{Paths: twice}
	}
	p := &Plans{doc: doc}
	var errs []error
	need := func(key string, into any) {
		if ok, err := doc.Decode(key, into); err != nil {
			errs = append(errs, err)
		} else if !ok {
			errs = append(errs, fmt.Errorf("key %s is missing", key))
		}
	}
	need("dataset_name", &p.DatasetName)
	need("plans_name", &p.PlansName)
	need("image_reader_writer", &p.Reader)
	if doc.Has("experiment_planner_used") {
		need("experiment_planner_used", &p.Planner)
	}
	need("original_median_spacing_after_transp", &p.MedianSpacing)
	var medianShape []float64
	need("original_median_shape_after_transp", &medianShape)
	for _, v := range medianShape {
		p.MedianShape = append(p.MedianShape, round(v))
	}
	need("transpose_forward", &p.TransposeForward)
	need("transpose_backward", &p.TransposeBackward)
	for to, from := range p.TransposeForward {
		if from < 0 || from > 2 || p.TransposeBackward[from] != to {
			errs = append(errs, fmt.Errorf("transpose_forward %v and transpose_backward %v do not undo each other",
				p.TransposeForward, p.TransposeBackward))
			break
		}
	}
	if v, _ := doc.Get("label_manager"); v != nil && v != labelManager {
		errs = append(errs, fmt.Errorf("key label_manager: this program has nnU-Net's %s alone, not %v", labelManager, v))
	}
	if v, _ := doc.Get("configurations"); !isObject(v) {
		errs = append(errs, errors.New("key configurations is missing or not an object"))
	}
	properties, ok := doc.Get("foreground_intensity_properties_per_channel")
	if !ok {
		properties, ok = doc.Get("foreground_intensity_properties_by_modality")
	}
	if !ok {
		errs = append(errs, errors.New("key foreground_intensity_properties_per_channel is missing"))
	} else if intensity, err := intensities(properties); err != nil {
		errs = append(errs, err)
	} else {
		p.Intensity = intensity
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

func isObject(v any) bool {
	_, ok := v.(*pyjson.Object)
	return ok
}

// JSON is the text of plans.json as nnU-Net writes it.
func (p *Plans) JSON() ([]byte, error) { return pyjson.Marshal(p.doc) }

// Write writes a plans.json.
func (p *Plans) Write(path string) error {
	text, err := p.JSON()
	if err != nil {
		return fmt.Errorf("write plans: %w", err)
	}
	return atomicfile.WriteBytes(path, text)
}

// Standard are the configurations that nnU-Net's planners make where a dataset asks for them.
var Standard = []string{"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}

// AddMissing adds the configurations of an older plans.json that these plans lack, so that hand-made ones are not lost.
// Standard ones are not added, though nnU-Net does so: an old low resolution does not fit the new full resolution.
func (p *Plans) AddMissing(old *Plans) {
	mine := p.configurations()
	for _, name := range old.Configurations() {
		if !mine.Has(name) && !slices.Contains(Standard, name) {
			v, _ := old.configurations().Get(name)
			mine.Set(name, v)
		}
	}
}

func (p *Plans) configurations() *pyjson.Object {
	v, _ := p.doc.Get("configurations")
	return v.(*pyjson.Object)
}

// Configurations are the names of the configurations in the order of the file.
func (p *Plans) Configurations() []string { return p.configurations().Keys() }

// Put sets one key of a configuration to a value that encoding/json can write.
func (p *Plans) Put(configuration, key string, value any) error {
	c, _ := p.configurations().Get(configuration)
	object, ok := c.(*pyjson.Object)
	if !ok {
		return p.unknown(configuration)
	}
	v, err := pyjson.Encode(value)
	if err != nil {
		return fmt.Errorf("configuration %s: key %s: %w", configuration, key, err)
	}
	object.Set(key, v)
	return nil
}

func (p *Plans) unknown(configuration string) error {
	return fmt.Errorf("plans %s have no configuration %q; there are %s", p.PlansName, configuration, strings.Join(p.Configurations(), ", "))
}

// Clone copies the plans under a name.
func (p *Plans) Clone(plansName string) *Plans {
	out := *p
	out.doc = p.doc.Clone()
	out.PlansName = plansName
	out.doc.Set("plans_name", plansName)
	return &out
}

// AddMissingFrom calls AddMissing with the plans at path, if there are any.
func (p *Plans) AddMissingFrom(path string) error {
	old, err := Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w; mend or remove it to plan again", err)
	}
	p.AddMissing(old)
	return nil
}
