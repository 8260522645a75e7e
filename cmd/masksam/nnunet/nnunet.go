// Package nnunet are nnU-Net's commands: their flags under their own names, and the masksam commands that do the same.
package nnunet

import (
	"maps"
	"slices"
)

// Command is one of nnU-Net's commands, with its flags under their own names. Tags say more of a flag: option, what
// masksam calls it; refused, why nothing but its default is taken; unused, why it is taken without effect.
type Command struct {
	Twin string // the masksam command that does the same
	Part string // else the one that does it as a part
	Help string
	New  func() any
}

// empty makes the struct of a command for kong to fill.
func empty[T any]() any { return new(T) }

var Commands = map[string]Command{
	"nnUNetv2_plan_and_preprocess":               {Twin: "plan", Help: "Fingerprint, plan and preprocess datasets.", New: empty[planCmd]},
	"nnUNetv2_extract_fingerprint":               {Part: "plan", Help: "Extract the fingerprints of datasets.", New: empty[fingerprintCmd]},
	"nnUNetv2_plan_experiment":                   {Part: "plan", Help: "Plan datasets.", New: empty[experimentCmd]},
	"nnUNetv2_preprocess":                        {Twin: "preprocess", Help: "Preprocess planned datasets.", New: empty[preprocessCmd]},
	"nnUNetv2_move_plans_between_datasets":       {Twin: "move-plans", Help: "Give a dataset the plans of another one.", New: empty[movePlansCmd]},
	"nnUNetv2_convert_MSD_dataset":               {Twin: "convert msd", Help: "Convert a task of the Medical Segmentation Decathlon.", New: empty[convertMSDCmd]},
	"nnUNetv2_convert_old_nnUNet_dataset":        {Twin: "convert nnunet-v1", Help: "Convert a raw dataset of nnU-Net's first version.", New: empty[convertOldCmd]},
	"nnUNetv2_train":                             {Twin: "train", Help: "Train one fold of a configuration.", New: empty[trainCmd]},
	"nnUNetv2_predict":                           {Twin: "predict", Help: "Label a folder of images with a trained model.", New: empty[predictCmd]},
	"nnUNetv2_predict_from_modelfolder":          {Twin: "predict", Help: "Label a folder of images with the model of a folder.", New: empty[modelFolderCmd]},
	"nnUNetv2_evaluate_folder":                   {Twin: "evaluate", Help: "Score label maps against references.", New: empty[evaluateCmd]},
	"nnUNetv2_evaluate_simple":                   {Twin: "evaluate", Help: "Score labels, given by number, against references.", New: empty[simpleCmd]},
	"nnUNetv2_ensemble":                          {Twin: "ensemble", Help: "Average the probabilities of several predictions.", New: empty[ensembleCmd]},
	"nnUNetv2_find_best_configuration":           {Twin: "find-best", Help: "Find the best model or pair of models by cross-validation.", New: empty[bestCmd]},
	"nnUNetv2_accumulate_crossval_results":       {Twin: "accumulate", Help: "Join the validation cases of folds in one folder, and score them.", New: empty[accumulateCmd]},
	"nnUNetv2_determine_postprocessing":          {Twin: "postprocess determine", Help: "Find which removals of small components raise the Dice.", New: empty[determineCmd]},
	"nnUNetv2_apply_postprocessing":              {Twin: "postprocess apply", Help: "Remove small components from predictions.", New: empty[applyCmd]},
	"nnUNetv2_plot_overlay_pngs":                 {Twin: "overlay", Help: "Draw every case's slice with most labels.", New: empty[overlayCmd]},
	"nnUNetv2_export_model_to_zip":               {Twin: "model export", Help: "Write trained models as one zip.", New: empty[exportCmd]},
	"nnUNetv2_install_pretrained_model_from_zip": {Twin: "model install", Help: "Install the models of a zip.", New: empty[installCmd]},
}

// The three steps of nnUNetv2_plan_and_preprocess have commands of their own; the flags that they share are these.
type (
	extraction struct {
		Extractor string `name:"fpe" help:"Fingerprint extractor." default:"DatasetFingerprintExtractor" refused:"there is no other extractor"`
		Verify    bool   `option:"check" name:"verify_dataset_integrity" help:"Check the datasets first."`
		Clean     bool   `name:"clean" help:"Extract the fingerprints again."`
	}
	planning struct {
		Planner      string    `option:"planner" name:"pl" help:"Planner: ${planners}." default:"ExperimentPlanner"`
		Memory       float64   `option:"gpu-memory" name:"gpu_memory_target" help:"GPU memory to plan for in GB; 0: the planner's own target." default:"0"`
		Preprocessor string    `name:"preprocessor_name" help:"Preprocessor." default:"DefaultPreprocessor" refused:"there is no other preprocessor"`
		Spacing      []float64 `option:"spacing" name:"overwrite_target_spacing" help:"Target spacing in mm, in the order of the file's array (z y x)."`
		PlansName    string    `option:"plans" name:"overwrite_plans_name" help:"Name of the plans."`
	}
	talk struct {
		Verbose bool `name:"verbose" help:"Say more."`
		NoBar   bool `name:"no_pbar" help:"No progress bar."`
	}
)

// Names lists the commands by name.
func Names() []string { return slices.Sorted(maps.Keys(Commands)) }
