package modeltest

import (
	"encoding/json"
	"path/filepath"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/pickle"
	"masksam/internal/plan"
	"masksam/internal/pth/pthtest"
	"masksam/internal/torch"
	"masksam/internal/unet"
)

// UNet is the folder of nnU-Net's own model below that of results.
const UNet = "Dataset005_Shapes/nnUNetTrainer__nnUNetPlans__3d_fullres"

const unetArchitecture = `{"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet", "arch_kwargs": {
	"n_stages": 2, "features_per_stage": [4, 8], "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": [[1, 3, 3], [3, 3, 3]],
	"strides": [[1, 1, 1], [1, 2, 2]], "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1], "conv_bias": true,
	"norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-05, "affine": true}, "dropout_op": null,
	"dropout_op_kwargs": null, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}},
	"_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}`

// Change makes another checkpoint of a U-Net than nnU-Net's: it may change or drop tensors.
type Change func(tensors []pthtest.Tensor) []pthtest.Tensor

// WriteUNet makes a model as nnU-Net's trainer leaves it, of one channel and one fold, below a folder of results, and gives its
// folder: plans.json, dataset.json and fold_0/checkpoint_final.pth. Its network is a U-Net that gives every voxel of any image
// the label 2, ball. change may be nil.
func WriteUNet(results, trainer string, change Change) (dir string, err error) {
	dir = filepath.Join(results, filepath.FromSlash(strings.Replace(UNet, "nnUNetTrainer", trainer, 1)))
	if err := put(filepath.Join(dir, dataset.FileName), datasetJSON); err != nil {
		return "", err
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		return "", err
	}
	fp := &plan.Fingerprint{Intensity: []plan.Intensity{{Max: 900, Mean: 310.5, Median: 300, Min: 2, Low: 20, High: 800, Std: 99.25}},
		RelativeSize: 1, Shapes: [][3]int{{8, 20, 22}}, Spacings: [][3]float64{{3, 1.1, 1.1}}}
	plans, err := plan.Make(ds, "Dataset005_Shapes", fp, plan.Options{})
	if err != nil {
		return "", err
	}
	var architecture any
	if err := json.Unmarshal([]byte(unetArchitecture), &architecture); err != nil {
		return "", err
	}
	for key, value := range map[string]any{"patch_size": []int{4, 16, 16}, "architecture": architecture} {
		if err := plans.Put("3d_fullres", key, value); err != nil {
			return "", err
		}
	}
	if err := plans.Write(filepath.Join(dir, model.PlansName)); err != nil {
		return "", err
	}
	tensors, err := unetTensors(ds.Labels.Heads())
	if err != nil {
		return "", err
	}
	if change != nil {
		tensors = change(tensors)
	}
	path := filepath.Join(model.FoldDir(dir, "0"), model.Final+model.PublishedExt)
	if err := put(path, ""); err != nil {
		return "", err
	}
	return dir, pthtest.Write(path, tensors, "network_weights",
		"init_args", pickle.NewDict("configuration", "3d_fullres"), "trainer_name", trainer, "inference_allowed_mirroring_axes",
		pickle.NewTuple(0, 1, 2))
}

// unetTensors are the names of the network's state_dict, each tensor stored once.
func unetTensors(heads int) (tensors []pthtest.Tensor, err error) {
	a, err := unet.Parse([]byte(unetArchitecture))
	if err != nil {
		return nil, err
	}
	net, err := unet.New(a, 1, heads, torch.CPU, 7)
	if err != nil {
		return nil, err
	}
	defer net.Free()
	stored := map[string]string{}
	for _, e := range a.StateDict(1, heads) {
		p := net.Parameters().Lookup(e.Of).Value
		t := pthtest.Tensor{Name: e.Name, Shape: p.Shape(), Same: stored[e.Of]}
		if t.Same == "" {
			data := p.Float32s()
			switch {
			case strings.HasSuffix(e.Name, "seg_layers.0.weight"):
				clear(data)
			case strings.HasSuffix(e.Name, "seg_layers.0.bias"):
				copy(data, []float32{-1, 0, 1})
			}
			t.Data, stored[e.Of] = func() []float32 { return data }, e.Name
		}
		tensors = append(tensors, t)
	}
	return tensors, nil
}
