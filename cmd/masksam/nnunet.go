package main

import (
	"maps"
	"slices"
)

// nnunetCommand is one of nnU-Net's commands, with its flags under their own names. Tags say more of a flag: option, what
// masksam calls it; refused, why nothing but its default is taken; unused, why it is taken without effect.
type nnunetCommand struct {
	twin string // the masksam command that does the same
	part string // else the one that does it as a part
	help string
	new  func() any
}

// empty makes the struct of a command for kong to fill.
func empty[T any]() any { return new(T) }

var nnunetCommands = map[string]nnunetCommand{
	"nnUNetv2_plan_and_preprocess":               {twin: "plan", help: "Fingerprint, plan and preprocess datasets.", new: empty[nnunetPlan]},
	"nnUNetv2_extract_fingerprint":               {part: "plan", help: "Extract the fingerprints of datasets.", new: empty[nnunetFingerprint]},
	"nnUNetv2_plan_experiment":                   {part: "plan", help: "Plan datasets.", new: empty[nnunetExperiment]},
	"nnUNetv2_preprocess":                        {twin: "preprocess", help: "Preprocess planned datasets.", new: empty[nnunetPreprocess]},
	"nnUNetv2_move_plans_between_datasets":       {twin: "move-plans", help: "Give a dataset the plans of another one.", new: empty[nnunetMovePlans]},
	"nnUNetv2_convert_MSD_dataset":               {twin: "convert msd", help: "Convert a task of the Medical Segmentation Decathlon.", new: empty[nnunetConvertMSD]},
	"nnUNetv2_convert_old_nnUNet_dataset":        {twin: "convert nnunet-v1", help: "Convert a raw dataset of nnU-Net's first version.", new: empty[nnunetConvertOld]},
	"nnUNetv2_train":                             {twin: "train", help: "Train one fold of a configuration.", new: empty[nnunetTrain]},
	"nnUNetv2_predict":                           {twin: "predict", help: "Label a folder of images with a trained model.", new: empty[nnunetPredict]},
	"nnUNetv2_evaluate_folder":                   {twin: "evaluate", help: "Score label maps against references.", new: empty[nnunetEvaluate]},
	"nnUNetv2_evaluate_simple":                   {twin: "evaluate", help: "Score labels, given by number, against references.", new: empty[nnunetSimple]},
	"nnUNetv2_ensemble":                          {twin: "ensemble", help: "Average the probabilities of several predictions.", new: empty[nnunetEnsemble]},
	"nnUNetv2_find_best_configuration":           {twin: "find-best", help: "Find the best model or pair of models by cross-validation.", new: empty[nnunetBest]},
	"nnUNetv2_accumulate_crossval_results":       {twin: "accumulate", help: "Join the validation cases of folds in one folder, and score them.", new: empty[nnunetAccumulate]},
	"nnUNetv2_determine_postprocessing":          {twin: "postprocess determine", help: "Find which removals of small components raise the Dice.", new: empty[nnunetDetermine]},
	"nnUNetv2_apply_postprocessing":              {twin: "postprocess apply", help: "Remove small components from predictions.", new: empty[nnunetApply]},
	"nnUNetv2_plot_overlay_pngs":                 {twin: "overlay", help: "Draw every case's slice with most labels.", new: empty[nnunetOverlay]},
	"nnUNetv2_export_model_to_zip":               {twin: "model export", help: "Write trained models as one zip.", new: empty[nnunetExport]},
	"nnUNetv2_install_pretrained_model_from_zip": {twin: "model install", help: "Install the models of a zip.", new: empty[nnunetInstall]},
}

// The three steps of nnUNetv2_plan_and_preprocess have commands of their own; the flags that they share are these.
type (
	nnunetExtraction struct {
		Extractor string `name:"fpe" help:"Fingerprint extractor." default:"DatasetFingerprintExtractor" refused:"there is no other extractor"`
		Verify    bool   `option:"check" name:"verify_dataset_integrity" help:"Check the datasets first."`
		Clean     bool   `name:"clean" help:"Extract the fingerprints again."`
	}
	nnunetPlanning struct {
		Planner      string    `option:"planner" name:"pl" help:"Planner: ${planners}." default:"ExperimentPlanner"`
		Memory       float64   `option:"gpu-memory" name:"gpu_memory_target" help:"GPU memory to plan for in GB; 0: the planner's own target." default:"0"`
		Preprocessor string    `name:"preprocessor_name" help:"Preprocessor." default:"DefaultPreprocessor" refused:"there is no other preprocessor"`
		Spacing      []float64 `option:"spacing" name:"overwrite_target_spacing" help:"Target spacing in mm, in the order of the file's array (z y x)."`
		PlansName    string    `option:"plans" name:"overwrite_plans_name" help:"Name of the plans."`
	}
	nnunetTalk struct {
		Verbose bool `name:"verbose" help:"Say more."`
		NoBar   bool `name:"no_pbar" help:"No progress bar."`
	}
)

// nnunetNames lists the commands by name.
func nnunetNames() []string { return slices.Sorted(maps.Keys(nnunetCommands)) }
