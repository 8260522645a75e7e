package plan

import (
	"errors"
	"fmt"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/pyjson"
)

// Configuration is one configuration of the plans (2d, 3d_fullres, …) with all that it inherits.
type Configuration struct {
	Name           string
	DataIdentifier string // folder of the preprocessed data
	BatchSize      int
	PatchSize      []int     // two or three axes, transposed order
	MedianSize     []float64 // voxels
	Spacing        []float64 // target; two axes for 2d
	Normalization  []string  // per channel
	UseMask        []bool    // per channel: normalise with the inside of the nonzero mask only
	Data           Resampling
	Seg            Resampling
	Probabilities  Resampling
	Architecture   *pyjson.Object
	BatchDice      bool
	PreviousStage  string   // empty: none
	NextStages     []string // of a cascade
	doc            *pyjson.Object
}

// Configuration resolves a configuration: its own keys over those of the one it inherits from.
func (p *Plans) Configuration(name string) (*Configuration, error) {
	doc, err := p.resolve(name, nil)
	if err != nil {
		return nil, err
	}
	c, err := newConfiguration(name, modern(doc))
	if err != nil {
		return nil, fmt.Errorf("plans %s, configuration %s: %w", p.PlansName, name, err)
	}
	return c, nil
}

func (p *Plans) resolve(name string, heirs []string) (*pyjson.Object, error) {
	for _, h := range heirs {
		if h == name {
			return nil, fmt.Errorf("plans %s: circular inheritance: %s → %s", p.PlansName, strings.Join(heirs, " → "), name)
		}
	}
	v, there := p.configurations().Get(name)
	own, ok := v.(*pyjson.Object)
	if !ok {
		if there {
			return nil, fmt.Errorf("plans %s: configurations.%s is %s, not an object", p.PlansName, name, pyjson.Describe(v))
		}
		if len(heirs) > 0 {
			return nil, fmt.Errorf("configuration %s inherits: %w", heirs[len(heirs)-1], p.unknown(name))
		}
		return nil, p.unknown(name)
	}
	parent, ok := own.Get("inherits_from")
	if !ok {
		return own.Clone(), nil
	}
	parentName, ok := parent.(string)
	if !ok {
		return nil, fmt.Errorf("plans %s, configuration %s: inherits_from is no text", p.PlansName, name)
	}
	doc, err := p.resolve(parentName, append(heirs, name))
	if err != nil {
		return nil, err
	}
	own = own.Clone()
	for _, k := range own.Keys() {
		v, _ := own.Get(k)
		doc.Set(k, v)
	}
	return doc, nil
}

// oldKeys describe the network in plans of nnU-Net before 2.5.
var oldKeys = []string{
	"UNet_class_name", "UNet_base_num_features", "n_conv_per_stage_encoder", "n_conv_per_stage_decoder",
	"num_pool_per_axis", "pool_op_kernel_sizes", "conv_kernel_sizes", "unet_max_num_features",
}

// modern gives a configuration of an old plans.json the entry architecture.
func modern(doc *pyjson.Object) *pyjson.Object {
	if doc.Has("architecture") || !doc.Has("UNet_class_name") {
		return doc
	}
	var old struct {
		Class   string  `json:"UNet_class_name"`
		Base    int     `json:"UNet_base_num_features"`
		Max     int     `json:"unet_max_num_features"`
		Encoder []int   `json:"n_conv_per_stage_encoder"`
		Decoder []int   `json:"n_conv_per_stage_decoder"`
		Pool    [][]int `json:"pool_op_kernel_sizes"`
		Kernels [][]int `json:"conv_kernel_sizes"`
	}
	if err := pyjson.Decode(doc, &old); err != nil || len(old.Kernels) == 0 || len(old.Encoder) > 62 {
		return doc // the keys that are missing then are reported
	}
	class, blocks := "unet."+old.Class, "n_conv_per_stage"
	if old.Class == "ResidualEncoderUNet" {
		class, blocks = "residual_unet.ResidualEncoderUNet", "n_blocks_per_stage"
	}
	features := make([]int, len(old.Encoder))
	for s := range features {
		features[s] = min(old.Base<<s, old.Max)
	}
	doc.Set("architecture", unet(class, blocks, features, old.Encoder, old.Decoder, old.Kernels, old.Pool))
	for _, k := range oldKeys {
		doc.Delete(k)
	}
	return doc
}

// preprocessorName is nnU-Net's only preprocessor, labelManager its only rule of labels; programs that extend it have others.
const (
	preprocessorName = "DefaultPreprocessor"
	labelManager     = "LabelManager"
)

func newConfiguration(name string, doc *pyjson.Object) (*Configuration, error) {
	c := &Configuration{Name: name, doc: doc}
	var errs []error
	get := func(key string, required bool, into any) {
		if ok, err := doc.Decode(key, into); err != nil {
			errs = append(errs, err)
		} else if !ok && required {
			errs = append(errs, fmt.Errorf("key %s is missing", key))
		}
	}
	get("data_identifier", true, &c.DataIdentifier)
	get("batch_size", true, &c.BatchSize)
	get("patch_size", true, &c.PatchSize)
	get("median_image_size_in_voxels", false, &c.MedianSize)
	get("spacing", true, &c.Spacing)
	get("normalization_schemes", true, &c.Normalization)
	get("use_mask_for_norm", true, &c.UseMask)
	get("batch_dice", true, &c.BatchDice)
	get("previous_stage", false, &c.PreviousStage)
	for _, f := range []struct {
		of   string
		into *Resampling
	}{{"data", &c.Data}, {"seg", &c.Seg}, {"probabilities", &c.Probabilities}} {
		var err error
		if *f.into, err = newResampling(doc, f.of); err != nil {
			errs = append(errs, err)
		}
	}
	if v, _ := doc.Get("preprocessor_name"); v != nil && v != preprocessorName {
		errs = append(errs, fmt.Errorf("key preprocessor_name: this program has nnU-Net's %s alone, not %v", preprocessorName, v))
	}
	if v, ok := doc.Get("architecture"); ok {
		c.Architecture, _ = v.(*pyjson.Object)
	}
	switch v, _ := doc.Get("next_stage"); v := v.(type) {
	case string:
		c.NextStages = []string{v}
	case []any:
		get("next_stage", false, &c.NextStages)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	switch dim := len(c.PatchSize); {
	case dim != 2 && dim != 3 || len(c.Spacing) != dim:
		errs = append(errs, fmt.Errorf("patch_size %v and spacing %v need two or three entries each", c.PatchSize, c.Spacing))
	case !(minOf(c.Spacing) > 0) || minOf(floats(c.PatchSize)) < 1 || c.BatchSize < 1:
		errs = append(errs, fmt.Errorf("spacing %v, patch_size %v and batch_size %d must be above 0", c.Spacing, c.PatchSize, c.BatchSize))
	}
	if len(c.Normalization) != len(c.UseMask) || len(c.Normalization) == 0 {
		errs = append(errs, fmt.Errorf("%d normalization_schemes, but %d entries of use_mask_for_norm",
			len(c.Normalization), len(c.UseMask)))
	}
	if c.Data.Keeps != c.Seg.Keeps || c.Data.Keeps != c.Probabilities.Keeps {
		errs = append(errs, fmt.Errorf("%s is for images, labels and probabilities together, or for none of them", keepsFn))
	}
	return c, errors.Join(errs...)
}

// Document is the resolved configuration as an object. It is not to be changed.
func (c *Configuration) Document() *pyjson.Object { return c.doc }

// Extra decodes a key of this program's own, such as "masksam"; ok is false if the configuration lacks it.
func (c *Configuration) Extra(key string, into any) (ok bool, err error) {
	if ok, err = c.doc.Decode(key, into); err != nil {
		return true, fmt.Errorf("configuration %s: %w", c.Name, err)
	}
	return ok, nil
}

// Stages are the kernels and the numbers of convolutions of the stages of the configuration's own network, the finest
// first. A residual encoder has blocks, not convolutions: there they are 2, as in nnU-Net's plain networks. Both are nil in
// a plan without an architecture; a 2-D one is an error.
func (c *Configuration) Stages() (kernels [][3]int, convs []int, err error) {
	if c.Architecture == nil {
		return nil, nil, nil
	}
	var network struct {
		Args struct {
			Kernels [][]int `json:"kernel_sizes"`
			Convs   []int   `json:"n_conv_per_stage"`
		} `json:"arch_kwargs"`
	}
	if err := pyjson.Decode(c.Architecture, &network); err != nil {
		return nil, nil, fmt.Errorf("configuration %s: the kernels and convolutions of its architecture are no lists "+
			"of whole numbers", c.Name)
	}
	for _, k := range network.Args.Kernels {
		if len(k) != 3 {
			return nil, nil, fmt.Errorf("configuration %s: kernel %v of its architecture has not three axes", c.Name, k)
		}
		kernels = append(kernels, [3]int(k))
	}
	if convs = network.Args.Convs; convs == nil {
		convs = filled(len(kernels), 2)
	}
	return kernels, convs, nil
}

// Channels is the number of channels of a network's input: those of the dataset's images and, in a cascade, one for each
// foreground label, which says where the stage before saw it.
func (c *Configuration) Channels(ds *dataset.Dataset) int {
	n := len(ds.Channels)
	if c.PreviousStage != "" {
		n += len(ds.Labels.Foreground())
	}
	return n
}

// Target is the spacing to resample a case of the given spacing (transposed order) to: one that does not resample keeps it, a
// 2-D configuration keeps it along axis 0.
func (c *Configuration) Target(spacing [3]float64) [3]float64 {
	switch {
	case c.Data.Keeps:
		return spacing
	case len(c.Spacing) == 2:
		return [3]float64{spacing[0], c.Spacing[0], c.Spacing[1]}
	}
	return [3]float64(c.Spacing)
}
