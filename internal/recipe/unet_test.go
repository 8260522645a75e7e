package recipe_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/unet"
)

func TestKnownTrainer(t *testing.T) {
	for name, want := range map[string]bool{
		"nnUNetTrainer": true, "nnUNetTrainer_1epoch": true, "nnUNetTrainer_8000epochs_NoMirroring": true, "nnUNetTrainerDA5": true,
		"nnUNetTrainer_onlyMirror01_DA5": true, "nnUNetTrainerVanillaAdam3en4": true, "nnUNetTrainerBN": true,
		"nnUNet_Trainer_BS8": true, "nnUNetTrainer_probabilisticOversampling_010": true,
		"nnUNetTrainerMine": false, "nnUNet_Primus_M_Trainer": false, "MaskSAM_ACDC": false, "": false,
	} {
		if got := recipe.KnownTrainer(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// A 2-D plan with regions and an ignore label becomes a recipe that says all of its network.
func TestOfUNet(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write("dataset.json", `{"channel_names": {"0": "CT", "1": "T2"}, "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
		"regions_class_order": [1, 2], "numTraining": 1, "file_ending": ".nii.gz"}`)
	resample := `{"is_seg": false, "order": 1, "order_z": 0, "force_separate_z": null}`
	write("plans.json", `{"dataset_name": "Dataset001_A", "plans_name": "nnUNetPlans", "original_median_spacing_after_transp": [1, 1, 1],
		"original_median_shape_after_transp": [9, 9, 9], "image_reader_writer": "SimpleITKIO",
		"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"2d": {"data_identifier": "a",
		"batch_size": 5, "patch_size": [32, 48], "spacing": [1, 1], "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
		"use_mask_for_norm": [false, false], "batch_dice": true, "resampling_fn_data": "resample_data_or_seg_to_shape",
		"resampling_fn_seg": "resample_data_or_seg_to_shape", "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
		"resampling_fn_data_kwargs": `+resample+`, "resampling_fn_seg_kwargs": `+resample+`,
		"resampling_fn_probabilities_kwargs": `+resample+`, "architecture": {"network_class_name": "x.PlainConvUNet"}}},
		"foreground_intensity_properties_per_channel": {}}`)
	ds, err := dataset.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Read(filepath.Join(dir, "plans.json"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Configuration("2d")
	if err != nil {
		t.Fatal(err)
	}
	r, err := recipe.OfUNet("nnUNetTrainerBN", p, c, ds)
	if err != nil {
		t.Fatal(err)
	}
	var architecture map[string]string
	if err := json.Unmarshal(r.UNet.Architecture, &architecture); err != nil || architecture["network_class_name"] != "x.PlainConvUNet" {
		t.Errorf("architecture %s", r.UNet.Architecture)
	}
	r.UNet.Architecture = nil
	want := recipe.UNet{Norm: "batch", Channels: 2, Heads: 2, Regions: [][]int{{1, 2}, {2}}, Ignore: 3, DeepSupervision: true,
		Loss: unet.Loss{CE: 1, Dice: 1, Smooth: 1e-5, BatchDice: true}}
	if !reflect.DeepEqual(*r.UNet, want) || r.Patch != [3]int{1, 32, 48} || r.Batch != 5 || r.Name != "nnUNetTrainerBN" {
		t.Errorf("recipe %+v of %+v, want %+v", r, *r.UNet, want)
	}
	for _, trainer := range []string{"nnUNet_Primus_M_Trainer", "PretrainedTrainer"} {
		if _, err := recipe.OfUNet(trainer, p, c, ds); err == nil || !strings.Contains(err.Error(), trainer) {
			t.Errorf("%s: %v", trainer, err)
		}
	}
	c.Architecture = nil
	if _, err := recipe.OfUNet("nnUNetTrainer", p, c, ds); err == nil || !strings.Contains(err.Error(), "architecture") {
		t.Errorf("no architecture: %v", err)
	}
}
