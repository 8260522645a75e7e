package plan

import (
	"fmt"
	"slices"
	"strings"

	"masksam/internal/pyjson"
)

// Resampling is how images, labels or scores change their grid: by one of nnU-Net's functions with its arguments. Its JSON is
// part of what preprocessed cases are known by.
type Resampling struct {
	IsSeg          bool    `json:"is_seg"`
	Order          int     `json:"order"`
	OrderZ         int     `json:"order_z"`
	ForceSeparateZ *bool   `json:"force_separate_z"`                          // nil: by the spacings
	Threshold      float64 `json:"separate_z_anisotropy_threshold,omitempty"` // ratio of spacings above which z is separate; 0: 3
	Torch          bool    `json:"torch,omitempty"`                           // by resample_torch_fornnunet
	Thrifty        bool    `json:"memefficient_seg_resampling,omitempty"`     // Torch's rule for labels that takes less memory
	Keeps          bool    `json:"keeps,omitempty"`                           // the grid stays as it is (no_resampling_hack)
}

// nnU-Net's functions.
const (
	scipyFn = "resample_data_or_seg_to_shape"
	torchFn = "resample_torch_fornnunet"
	keepsFn = "no_resampling_hack"
)

// functions are those that plans may name, with the arguments that each has. The number of threads and the device change no
// result.
var functions = map[string][]string{
	scipyFn: {"is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"},
	torchFn: {"is_seg", "num_threads", "device", "memefficient_seg_resampling", "force_separate_z", "separate_z_anisotropy_threshold",
		"mode", "aniso_axis_mode"},
	keepsFn: nil,
}

// newResampling reads the function for images ("data"), labels ("seg") or scores ("probabilities") with its arguments, of
// which those that are not given have the function's own defaults.
func newResampling(doc *pyjson.Object, of string) (Resampling, error) {
	key := "resampling_fn_" + of
	var fn string
	args := pyjson.NewObject()
	if ok, err := doc.Decode(key, &fn); err != nil {
		return Resampling{}, err
	} else if !ok {
		return Resampling{}, fmt.Errorf("key %s is missing", key)
	}
	known, ok := functions[fn]
	if !ok {
		return Resampling{}, fmt.Errorf("key %s: this program resamples as %s, %s or %s do, not as %s", key, scipyFn, torchFn, keepsFn, fn)
	}
	key += "_kwargs"
	switch v, ok := doc.Get(key); {
	case !ok:
		return Resampling{}, fmt.Errorf("key %s is missing", key)
	case v != nil:
		if args, ok = v.(*pyjson.Object); !ok {
			return Resampling{}, fmt.Errorf("key %s is %s, not an object", key, pyjson.Describe(v))
		}
	}
	for _, name := range args.Keys() {
		if !slices.Contains(known, name) {
			return Resampling{}, fmt.Errorf("key %s.%s: %s has no such argument; it has %s", key, name, fn, strings.Join(known, ", "))
		}
	}
	r := Resampling{Keeps: fn == keepsFn, Torch: fn == torchFn}
	modes := struct {
		Within string `json:"mode"`
		Across string `json:"aniso_axis_mode"`
	}{"linear", "nearest-exact"}
	switch fn {
	case scipyFn:
		r.Order, r.ForceSeparateZ = 3, new(bool)
	case torchFn:
		r.Order = 1
	}
	if _, err := doc.Decode(key, &r); err != nil {
		return r, err
	}
	if _, err := doc.Decode(key, &modes); err != nil {
		return r, err
	}
	switch {
	case modes.Within != "linear" || modes.Across != "nearest-exact":
		return r, fmt.Errorf("key %s: mode %s with aniso_axis_mode %s: this program has linear with nearest-exact alone",
			key, modes.Within, modes.Across)
	case args.Has("separate_z_anisotropy_threshold") && !(r.Threshold > 0):
		return r, fmt.Errorf("key %s: a threshold of %v must be above 0", key, r.Threshold)
	case !interpolates(r.Order) || !interpolates(r.OrderZ) || (r.IsSeg || of == "seg") && max(r.Order, r.OrderZ) > 1:
		return r, fmt.Errorf("%s: order %d with order_z %d: images take 0, 1 or 3, labels 0 or 1", key, r.Order, r.OrderZ)
	}
	return r, nil
}

func interpolates(order int) bool { return order == 0 || order == 1 || order == 3 }
