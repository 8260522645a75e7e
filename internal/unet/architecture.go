// Package unet is nnU-Net's own networks and their losses: PlainConvUNet, ResidualEncoderUNet and ResidualUNet, in two and
// three dimensions, built from the key architecture of a plan (dynamic_network_architectures 0.4.4).
package unet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Architecture is what a plan says of a network: of PlainConvUNet.__init__ and its kin.
type Architecture struct {
	Class    string  // PlainConvUNet, ResidualEncoderUNet or ResidualUNet
	Flat     bool    // it has two dimensions
	Features []int   // channels of each stage, the finest first
	Kernels  [][]int // of each stage, an entry for each axis
	Strides  [][]int // by which a stage is coarser than the one before
	Encoder  []int   // convolutions of each stage, or residual blocks
	Decoder  []int   // convolutions, or residual blocks, of each stage of the decoder, the coarsest first
	Stem     int     // channels of the stem of a residual network
	Bias     bool    // of convolutions in blocks
	Norm     string  // instance, batch, or empty: none
	Affine   bool    // the norm scales and shifts
	Eps      float64 // of the norm
	Slope    float64 // of the activation below zero; 1: there is no activation
	NormLast bool    // it follows the activation
	Dropout  bool    // there is one between convolution and norm, which matters to training alone
}

// Classes are the networks that are built.
var Classes = []string{"PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet"}

// last is the last part of a dotted Python name.
func last(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// Parse reads the key architecture of a configuration. It names the class that is not built, or the key that it does not know
// or that has another value than nnU-Net gives it. What stands beside class and arguments it passes over, as nnU-Net does.
func Parse(text []byte) (a Architecture, err error) {
	var plan struct {
		Class string                     `json:"network_class_name"`
		Args  map[string]json.RawMessage `json:"arch_kwargs"`
	}
	if err := json.Unmarshal(text, &plan); err != nil {
		return a, fmt.Errorf("architecture: %w", err)
	}
	if a.Class = last(plan.Class); !slices.Contains(Classes, a.Class) {
		return a, fmt.Errorf("architecture: the network class %q is not built; %s are", plan.Class, strings.Join(Classes, ", "))
	}
	k := arguments{of: plan.Args, class: a.Class, taken: map[string]bool{}}
	a.read(&k)
	for key := range plan.Args {
		if !k.taken[key] {
			k.fail(key, "is not known")
		}
	}
	if len(k.errs) == 0 {
		k.errs = append(k.errs, a.check())
	}
	return a, errors.Join(k.errs...)
}

func (a *Architecture) residual() bool { return a.Class != "PlainConvUNet" }

func (a *Architecture) read(k *arguments) {
	stages := k.number("n_stages", 0)
	if stages < 1 || stages > 20 {
		k.fail("n_stages", "must be 1 to 20")
		return
	}
	conv := k.name("conv_op")
	if conv != "Conv2d" && conv != "Conv3d" {
		k.fail("conv_op", fmt.Sprintf("is %q, neither Conv2d nor Conv3d", conv))
	}
	a.Flat = conv == "Conv2d"
	axes := 3
	if a.Flat {
		axes = 2
	}
	encoder := "n_conv_per_stage"
	if a.residual() {
		encoder = "n_blocks_per_stage"
	}
	a.Features = k.list("features_per_stage", stages)
	a.Encoder = k.list(encoder, stages)
	decoder := "n_conv_per_stage_decoder"
	if a.Class == "ResidualUNet" && k.has("n_blocks_per_stage_decoder") {
		decoder = "n_blocks_per_stage_decoder"
	}
	a.Decoder = k.list(decoder, stages-1)
	a.Kernels = k.lists("kernel_sizes", stages, axes)
	a.Strides = k.lists("strides", stages, axes)
	k.get("conv_bias", &a.Bias)
	a.norm(k)
	a.activation(k)
	a.Dropout = k.name("dropout_op") != ""
	k.get("dropout_op_kwargs", new(any))
	k.get("deep_supervision", new(any))
	if a.residual() {
		if a.Stem = k.number("stem_channels", 0); a.Stem == 0 && len(a.Features) > 0 {
			a.Stem = a.Features[0]
		}
		for _, key := range []string{"block", "bottleneck_channels"} {
			var v any
			if k.get(key, &v); v != nil {
				k.fail(key, "is set, which nnU-Net's planners never do; such a network is not built")
			}
		}
	} else {
		k.get("nonlin_first", &a.NormLast)
	}
}

func (a *Architecture) norm(k *arguments) {
	kwargs := struct {
		Eps      float64 `json:"eps"`
		Affine   *bool   `json:"affine"`
		Track    *bool   `json:"track_running_stats"`
		Momentum float64 `json:"momentum"`
	}{Eps: 1e-5, Momentum: momentum}
	k.get("norm_op_kwargs", &kwargs)
	if kwargs.Momentum != momentum || kwargs.Track != nil && *kwargs.Track != strings.HasPrefix(k.name("norm_op"), "Batch") {
		k.fail("norm_op_kwargs", "has another momentum or track_running_stats than PyTorch's, which nnU-Net's planners never set")
	}
	a.Eps = kwargs.Eps
	switch name := k.name("norm_op"); name {
	case "InstanceNorm2d", "InstanceNorm3d":
		a.Norm, a.Affine = "instance", kwargs.Affine != nil && *kwargs.Affine
	case "BatchNorm2d", "BatchNorm3d":
		a.Norm, a.Affine = "batch", kwargs.Affine == nil || *kwargs.Affine
	case "":
	default:
		k.fail("norm_op", fmt.Sprintf("is %q; InstanceNorm and BatchNorm are known", name))
	}
}

func (a *Architecture) activation(k *arguments) {
	kwargs := struct {
		Slope   float64 `json:"negative_slope"`
		InPlace any     `json:"inplace"`
	}{Slope: 0.01}
	k.get("nonlin_kwargs", &kwargs)
	switch name := k.name("nonlin"); name {
	case "LeakyReLU":
		a.Slope = kwargs.Slope
	case "ReLU":
		a.Slope = 0
	case "":
		a.Slope = 1
	default:
		k.fail("nonlin", fmt.Sprintf("is %q; LeakyReLU and ReLU are known", name))
	}
}

func (a *Architecture) check() error {
	if len(a.Features) < 2 {
		return errors.New("architecture: a U-Net has at least two stages")
	}
	for _, list := range [][]int{a.Features, a.Encoder, a.Decoder} {
		for _, n := range list {
			if n < 1 || n > 1<<16 {
				return fmt.Errorf("architecture: %v: channels and numbers of convolutions are at least 1 and at most 65536", list)
			}
		}
	}
	for s := range a.Kernels {
		for d, k := range a.Kernels[s] {
			if k < 1 || k > 31 || k%2 == 0 {
				return fmt.Errorf("architecture: kernel %v of stage %d: only odd sizes up to 31 keep an image's size", a.Kernels[s], s)
			}
			if t := a.Strides[s][d]; t < 1 || t > 64 {
				return fmt.Errorf("architecture: stride %v of stage %d: it must be 1 to 64", a.Strides[s], s)
			}
		}
	}
	for _, t := range a.Strides[0] {
		if t != 1 {
			return fmt.Errorf("architecture: stride %v of the first stage: its output would be smaller than the image", a.Strides[0])
		}
	}
	return nil
}

// Batch is a with BatchNorm in place of its norm (nnUNetTrainerBN).
func (a Architecture) Batch() Architecture {
	a.Norm, a.Affine, a.Eps = "batch", true, 1e-5
	return a
}

// Divisor is what the sizes (z, y, x) of a patch must be divisible by: the product of the strides.
func (a Architecture) Divisor() [3]int {
	d := [3]int{1, 1, 1}
	for _, t := range a.Strides {
		for i := range t {
			d[3-len(t)+i] *= t[i]
		}
	}
	return d
}

// Fits refuses a patch (z, y, x) whose sizes the strides do not divide. A network of two dimensions has patches of one slice.
func (a Architecture) Fits(patch [3]int) error {
	d := a.Divisor()
	for i := range d {
		if patch[i] < 1 || patch[i]%d[i] != 0 {
			return fmt.Errorf("patch %v: the network's strides divide its sizes by %v", patch, d)
		}
	}
	if a.Flat && patch[0] != 1 {
		return fmt.Errorf("patch %v: the network has two dimensions", patch)
	}
	return nil
}

// arguments reads the entries of arch_kwargs.
type arguments struct {
	of    map[string]json.RawMessage
	class string
	taken map[string]bool
	errs  []error
}

func (k *arguments) has(key string) bool { _, ok := k.of[key]; return ok }

func (k *arguments) fail(key, why string) {
	k.errs = append(k.errs, fmt.Errorf("architecture: arch_kwargs of %s: %s %s", k.class, key, why))
}

// get decodes an entry, if it is there and not null.
func (k *arguments) get(key string, v any) {
	k.taken[key] = true
	if text, ok := k.of[key]; ok && string(text) != "null" {
		if err := strict(text, v); err != nil {
			k.fail(key, "cannot be read: "+err.Error())
		}
	}
}

func (k *arguments) name(key string) (name string) {
	k.get(key, &name)
	return last(name)
}

func (k *arguments) number(key string, missing int) int {
	n := missing
	k.get(key, &n)
	return n
}

// list reads a number for each of n stages; one number stands for all.
func (k *arguments) list(key string, n int) (list []int) {
	if text := k.of[key]; len(text) > 0 && text[0] != '[' {
		return slices.Repeat([]int{k.number(key, 0)}, n)
	}
	if k.get(key, &list); len(list) != n {
		k.fail(key, fmt.Sprintf("has %d entries, not %d", len(list), n))
	}
	return list
}

// lists reads a number for each of n stages and each axis.
func (k *arguments) lists(key string, n, axes int) (lists [][]int) {
	var stages []json.RawMessage
	if text := k.of[key]; len(text) > 0 && text[0] != '[' {
		one := k.number(key, 0)
		for range n {
			lists = append(lists, slices.Repeat([]int{one}, axes))
		}
		return lists
	}
	if k.get(key, &stages); len(stages) != n {
		k.fail(key, fmt.Sprintf("has %d entries, not %d", len(stages), n))
		return nil
	}
	for _, text := range stages {
		one := arguments{of: map[string]json.RawMessage{key: text}, class: k.class, taken: map[string]bool{}}
		lists = append(lists, one.list(key, axes))
		k.errs = append(k.errs, one.errs...)
	}
	return lists
}

// strict decodes all of text into v, without unknown keys.
func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("something follows the value")
	}
	return nil
}
