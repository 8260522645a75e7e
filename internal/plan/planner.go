package plan

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/ndimage"
	"masksam/internal/pyjson"
)

// planner holds what sets nnU-Net's experiment planners apart (default_experiment_planner.py).
type planner struct {
	class     string
	plansName string
	memoryGB  float64 // default target, which the reference figures belong to
	reference map[int]float64
	share     float64 // of the dataset's voxels that a batch may cover
	residual  bool
	decoder   int    // convolutions per stage
	resample  string // function
	separate  any    // its force_separate_z
}

var planners = []planner{
	{DefaultPlanner, DefaultPlans, 8, map[int]float64{2: 85e6, 3: 560e6}, 0.05, false, 2, scipyFn, nil},
	{"nnUNetPlanner_torchres", "nnUNetPlans_torchres", 8, map[int]float64{2: 85e6, 3: 560e6}, 0.05, false, 2, torchFn, false},
	{"ResEncUNetPlanner", "nnUNetResEncUNetPlans", 8, map[int]float64{2: 135e6, 3: 680e6}, 0.05, true, 1, scipyFn, nil},
	{"nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans", 8, map[int]float64{2: 135e6, 3: 680e6}, 1, true, 1, scipyFn, nil},
	{"nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans", 24, map[int]float64{2: 380e6, 3: 2.1e9}, 1, true, 1, scipyFn, nil},
	{"nnUNetPlannerResEncL_torchres", "nnUNetResEncUNetLPlans_torchres", 24, map[int]float64{2: 380e6, 3: 2.1e9}, 1, true, 1, torchFn, false},
	{"nnUNetPlannerResEncL_torchres_sepz", "nnUNetResEncUNetLPlans_torchres_sepz", 24, map[int]float64{2: 380e6, 3: 2.1e9}, 1, true, 1, torchFn, nil},
	{"nnUNetPlannerResEncL_noResampling", "nnUNetResEncUNetLPlans_noResampling", 24, map[int]float64{2: 380e6, 3: 2.1e9}, 1, true, 1, keepsFn, nil},
	{"nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans", 40, map[int]float64{2: 560e6, 3: 3.6e9}, 1, true, 1, scipyFn, nil},
}

// DefaultPlanner is the planner of Options that name none, DefaultPlans the name of its plans.
const (
	DefaultPlanner = "ExperimentPlanner"
	DefaultPlans   = "nnUNetPlans"
)

// Planners are the names that Options.Planner may have.
func Planners() []string {
	var names []string
	for _, p := range planners {
		names = append(names, p.class)
	}
	return names
}

const (
	baseFeatures    = 32
	minBatch        = 2
	lowresThreshold = 0.25 // share of the median image that a full-resolution patch must cover
	lowresStep      = 1.03 // growth of the spacing in search of the low resolution

	// Larger values fit no dataset and no machine: they are typing errors.
	maxMemoryGB = 10_000
	maxVoxels   = 1 << 40 // of the median image
)

// Rules for two and three dimensions.
var (
	maxFeatures    = map[int]int{2: 512, 3: 320}
	referenceBatch = map[int]float64{2: 12, 3: 2}
	startVoxels    = map[int]float64{2: 2048 * 2048, 3: 256 * 256 * 256}
	convOp         = map[int]string{2: "torch.nn.modules.conv.Conv2d", 3: "torch.nn.modules.conv.Conv3d"}
	normOp         = map[int]string{2: "torch.nn.modules.instancenorm.InstanceNorm2d", 3: "torch.nn.modules.instancenorm.InstanceNorm3d"}
)

// Options choose a planner and its targets. The zero value means nnU-Net's defaults.
type Options struct {
	Planner           string    // one of Planners
	PlansName         string    // default: the planner's
	GPUMemoryGB       float64   // default: the planner's
	Spacing           []float64 // target spacing in file order (z, y, x as read); of 2d and 3d_lowres as well
	SuppressTranspose bool
	Reader            string // image_reader_writer; default: by overwrite_image_reader_writer and file_ending
}

// complete checks the options and fills in defaults.
func (opt Options) complete() (Options, planner, error) {
	if opt.Planner == "" {
		opt.Planner = DefaultPlanner
	}
	i := slices.IndexFunc(planners, func(p planner) bool { return p.class == opt.Planner })
	if i < 0 {
		return opt, planner{}, fmt.Errorf("unknown planner %q; there are %s", opt.Planner, strings.Join(Planners(), ", "))
	}
	p := planners[i]
	if opt.PlansName == "" {
		opt.PlansName = p.plansName
	}
	if opt.GPUMemoryGB == 0 {
		opt.GPUMemoryGB = p.memoryGB
	}
	if !(opt.GPUMemoryGB > 0 && opt.GPUMemoryGB <= maxMemoryGB) {
		return opt, p, fmt.Errorf("a GPU memory target of %v GB: it must be above 0 and at most %d", opt.GPUMemoryGB, maxMemoryGB)
	}
	if s := opt.Spacing; s != nil && (len(s) != 3 || !(minOf(s) > 0) || math.IsInf(slices.Max(s), 1)) {
		return opt, p, fmt.Errorf("target spacing %v: give three numbers above 0, in the order of the file's array (z y x)", opt.Spacing)
	}
	return opt, p, CheckName(opt.PlansName)
}

// Check reports options that are wrong for every dataset.
func (opt Options) Check() error {
	_, _, err := opt.complete()
	return err
}

// Make plans a dataset of the given name (DatasetXXX_Name) as nnU-Net 2.8.1 does.
func Make(ds *dataset.Dataset, name string, fp *Fingerprint, opt Options) (*Plans, error) {
	opt, p, err := opt.complete()
	if err != nil {
		return nil, err
	}
	if opt.Reader == "" {
		r, err := imageio.ChooseReader(ds.Reader, ds.FileEnding, "")
		if err != nil {
			return nil, err
		}
		opt.Reader = r.Name
	}
	if err := fp.check(len(ds.Channels)); err != nil {
		return nil, err
	}
	j := &job{planner: p, opt: opt, ds: ds, fp: fp, name: name}
	doc := j.plan()
	if j.err != nil {
		return nil, j.err
	}
	made, err := FromDocument(doc)
	if err != nil {
		return nil, err
	}
	for _, c := range made.Configurations() {
		if _, err := made.Configuration(c); err != nil {
			return nil, fmt.Errorf("these plans cannot be used: %w", err)
		}
	}
	return made, nil
}

// job is one run of a planner.
type job struct {
	planner
	opt  Options
	ds   *dataset.Dataset
	fp   *Fingerprint
	name string
	err  error // first configuration that does not fit
}

func (j *job) plan() *pyjson.Object {
	target := j.targetSpacing()
	forward := transpose(target)
	if j.opt.SuppressTranspose {
		forward = [3]int{0, 1, 2}
	}
	var backward [3]int
	for to, from := range forward {
		backward[from] = to
	}

	resampled := make([][3]int, len(j.fp.Shapes))
	for i, shape := range j.fp.Shapes {
		resampled[i] = NewShape(shape, j.fp.Spacings[i], target)
	}
	spacing := permute(target, forward)
	median := permute(medians(resampled), forward)
	if !(minOf(median[:]) >= 0 && product(median[:]) <= maxVoxels) { // below 0: more than an integer holds
		j.err = fmt.Errorf("at a spacing of %v the median image would have more than 2^40 voxels; choose a coarser target spacing", target)
		return nil
	}
	voxels := product(median[:]) * float64(j.ds.NumTraining)

	configurations := pyjson.NewObject()
	configurations.Set("2d", j.configuration("2d", spacing[1:], median[1:], voxels, true, true))
	if median[0] != 1 {
		full := j.configuration("3d_fullres", spacing[:], median[:], voxels, true, false)
		low := j.lowres(full, spacing, median)
		if low != nil {
			full.Set("batch_dice", true)
			low.Set("next_stage", "3d_cascade_fullres")
			configurations.Set("3d_lowres", low)
		}
		configurations.Set("3d_fullres", full)
		if low != nil {
			configurations.Set("3d_cascade_fullres", pyjson.NewObject("inherits_from", "3d_fullres", "previous_stage", "3d_lowres"))
		}
	}

	medianSpacing, medianShape := permute(medians(j.fp.Spacings), forward), permute(medians(j.fp.Shapes), forward)
	rounded := make([]int, 3)
	for a, v := range medianShape {
		rounded[a] = round(v)
	}
	return pyjson.NewObject(
		"dataset_name", j.name,
		"plans_name", j.opt.PlansName,
		"original_median_spacing_after_transp", list(medianSpacing[:]),
		"original_median_shape_after_transp", list(rounded),
		"image_reader_writer", j.opt.Reader,
		"transpose_forward", list(forward[:]),
		"transpose_backward", list(backward[:]),
		"configurations", configurations,
		"experiment_planner_used", j.class,
		"label_manager", labelManager,
		"foreground_intensity_properties_per_channel", j.fp.intensities(),
	)
}

// targetSpacing is the median spacing; along a coarse axis of few voxels the 10th percentile, so that not half of the
// cases lose slices.
func (j *job) targetSpacing() (target [3]float64) {
	if j.opt.Spacing != nil {
		return [3]float64(j.opt.Spacing)
	}
	target, size := medians(j.fp.Spacings), medians(j.fp.Shapes)
	coarse := slices.Index(target[:], slices.Max(target[:]))
	others, smallest := 0.0, math.Inf(1)
	for a := range 3 {
		if a != coarse {
			others, smallest = max(others, target[a]), min(smallest, size[a])
		}
	}
	if target[coarse] > anisotropy*others && size[coarse]*anisotropy < smallest {
		column := make([]float64, len(j.fp.Spacings))
		for i, s := range j.fp.Spacings {
			column[i] = s[coarse]
		}
		slices.Sort(column)
		q := percentile(column, 10)
		if q < others {
			q = others + 1e-5
		}
		target[coarse] = q
	}
	return target
}

// transpose puts the axis of the largest spacing first.
func transpose(spacing [3]float64) [3]int {
	first := slices.Index(spacing[:], slices.Max(spacing[:]))
	forward := []int{first}
	for a := range 3 {
		if a != first {
			forward = append(forward, a)
		}
	}
	return [3]int(forward)
}

// lowres searches the spacing at which the patch covers enough of the median image. It gives nil where the full
// resolution does, or nearly does.
func (j *job) lowres(full *pyjson.Object, spacing, median [3]float64) (low *pyjson.Object) {
	fine := spacing
	voxels := product(median[:])
	patch := patchVoxels(full)
	for patch/voxels < lowresThreshold {
		coarsest := slices.Max(spacing[:])
		uneven := slices.ContainsFunc(spacing[:], func(s float64) bool { return coarsest/s > 2 })
		var scaled, rounded [3]float64
		for a := range 3 {
			if !uneven || coarsest/spacing[a] > 2 {
				spacing[a] *= lowresStep
			}
		}
		for a := range 3 {
			scaled[a] = fine[a] / spacing[a] * median[a]
			rounded[a] = math.RoundToEven(scaled[a])
		}
		voxels = product(scaled[:])
		low = j.configuration("3d_lowres", spacing[:], rounded[:], voxels*float64(j.ds.NumTraining), false, false)
		patch = patchVoxels(low)
	}
	if product(median[:])/voxels < 2 {
		return nil
	}
	return low
}

func patchVoxels(configuration *pyjson.Object) float64 {
	v, _ := configuration.Get("patch_size")
	n := 1
	for _, p := range v.([]any) {
		n *= p.(int)
	}
	return float64(n)
}

// configuration fits patch and batch into the memory target. fractional says whether the median size stays a float in
// the plan; voxels is the size of the dataset.
func (j *job) configuration(name string, spacing, median []float64, voxels float64, fractional, batchDice bool) *pyjson.Object {
	dim := len(spacing)
	inverse := make([]float64, dim)
	for d := range inverse {
		inverse[d] = 1 / spacing[d]
	}
	edge := math.Pow(startVoxels[dim]/product(inverse), 1/float64(dim))
	patch := make([]float64, dim)
	for d := range patch {
		patch[d] = min(math.RoundToEven(inverse[d]*edge), median[d])
	}
	t := newTopology(spacing, patch)
	limit := j.reference[dim] * (j.opt.GPUMemoryGB / j.memoryGB)
	size := j.featureMaps(t)
	for j.tooLarge(size, dim, limit) {
		axis := 0
		for d := range dim {
			if float64(t.patch[d])/median[d] >= float64(t.patch[axis])/median[axis] {
				axis = d
			}
		}
		smaller := t.shrink(spacing, axis)
		if slices.Min(smaller.patch) < 1 || product(smaller.patch) >= product(t.patch) {
			if j.err == nil {
				j.err = fmt.Errorf("plan %s: not even a patch of %v fits into %v GB; raise the GPU memory target", name,
					t.patch, j.opt.GPUMemoryGB)
			}
			break
		}
		t = smaller
		size = j.featureMaps(t)
	}
	batch := round(limit / size * referenceBatch[dim])
	share := round(voxels * j.share / product(floats(t.patch)))
	batch = max(min(batch, share), minBatch)

	var medianSize any = list(median)
	if !fractional {
		ints := make([]int, dim)
		for d := range ints {
			ints[d] = int(median[d])
		}
		medianSize = list(ints)
	}
	identifier := j.opt.PlansName + "_" + name
	if j.residual && j.resample == scipyFn && name != "3d_lowres" {
		identifier = "nnUNetPlans_" + name // shares the default planner's data
	}
	schemes, masks := j.normalization()
	return pyjson.NewObject(
		"data_identifier", identifier,
		"preprocessor_name", preprocessorName,
		"batch_size", batch,
		"patch_size", list(t.patch),
		"median_image_size_in_voxels", medianSize,
		"spacing", list(spacing),
		"normalization_schemes", list(schemes),
		"use_mask_for_norm", list(masks),
		"resampling_fn_data", j.resample,
		"resampling_fn_seg", j.resample,
		"resampling_fn_data_kwargs", j.resampling(false, 3),
		"resampling_fn_seg_kwargs", j.resampling(true, 1),
		"resampling_fn_probabilities", j.resample,
		"resampling_fn_probabilities_kwargs", j.resampling(false, 1),
		"architecture", j.architecture(t),
		"batch_dice", batchDice,
	)
}

// The plain planner compares at a batch of two whatever the reference batch is.
func (j *job) tooLarge(size float64, dim int, limit float64) bool {
	if j.residual {
		return size > limit
	}
	return size/referenceBatch[dim]*2 > limit
}

// resampling are the arguments of the planner's function.
func (p planner) resampling(isSeg bool, order int) *pyjson.Object {
	switch p.resample {
	case keepsFn:
		return pyjson.NewObject()
	case torchFn:
		args := pyjson.NewObject("is_seg", isSeg, "force_separate_z", p.separate, "memefficient_seg_resampling", false)
		if p.separate == nil {
			args.Set("separate_z_anisotropy_threshold", ndimage.Anisotropy)
		}
		return args
	}
	return pyjson.NewObject("is_seg", isSeg, "order", order, "order_z", 0, "force_separate_z", p.separate)
}

// schemeOf maps a folded channel name to its normalisation; any other is z-scored.
var schemeOf = map[string]string{
	"ct":             CT,
	"nonorm":         NoNorm,
	"zscore":         ZScore,
	"rescale_to_0_1": RescaleTo01,
	"rgb_to_0_1":     RGBTo01,
}

// maskedBelow is the relative size after cropping below which z-scoring looks at the inside of the mask only.
const maskedBelow = 0.75

func (j *job) normalization() (schemes []string, masks []bool) {
	for _, channel := range j.ds.Channels {
		scheme, ok := schemeOf[strings.ToLower(channel)]
		if !ok {
			scheme = ZScore
		}
		schemes = append(schemes, scheme)
		masks = append(masks, scheme == ZScore && j.fp.RelativeSize < maskedBelow)
	}
	return schemes, masks
}

// NewShape is the size of an image resampled from one spacing to another: per axis round(old/new·size), half to even. It
// can be 0.
func NewShape(size [3]int, spacing, target [3]float64) (n [3]int) {
	for a := range n {
		n[a] = round(spacing[a] / target[a] * float64(size[a]))
	}
	return n
}

// medians are the medians of the columns.
func medians[T int | float64](rows [][3]T) (m [3]float64) {
	column := make([]float64, len(rows))
	for a := range 3 {
		for i, r := range rows {
			column[i] = float64(r[a])
		}
		slices.Sort(column)
		n := len(column)
		m[a] = column[n/2]
		if n%2 == 0 {
			m[a] = (column[n/2-1] + column[n/2]) / 2
		}
	}
	return m
}

// percentile is NumPy's, of sorted values.
func percentile(sorted []float64, q float64) float64 {
	v := float64(len(sorted)-1) * (q / 100)
	i := int(v)
	return lerp(sorted[i], sorted[min(i+1, len(sorted)-1)], v-float64(i))
}

func lerp(a, b, t float64) float64 {
	if t < 0.5 {
		return a + (b-a)*t
	}
	return b - (b-a)*(1-t)
}

func permute[T any](v [3]T, order [3]int) [3]T {
	return [3]T{v[order[0]], v[order[1]], v[order[2]]}
}

// list converts a slice to a JSON list.
func list[T any](v []T) []any {
	out := make([]any, len(v))
	for i := range v {
		out[i] = v[i]
	}
	return out
}

func lists(v [][]int) []any {
	out := make([]any, len(v))
	for i := range v {
		out[i] = list(v[i])
	}
	return out
}
