package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/masksam"
	"masksam/internal/plan"
	"masksam/internal/predict"
	"masksam/internal/steps"
	"masksam/internal/train"
)

// nnunetCommand is one of nnU-Net's commands, with its flags under their own names. A flag tagged unbuilt is known but
// refused by name when it asks for more than its default.
type nnunetCommand struct {
	help string
	new  func() any
}

var nnunetCommands = map[string]nnunetCommand{
	"nnUNetv2_plan_and_preprocess":         {"Fingerprint, plan and preprocess datasets.", func() any { return &nnunetPlan{} }},
	"nnUNetv2_extract_fingerprint":         {"Extract the fingerprints of datasets.", func() any { return &nnunetFingerprint{} }},
	"nnUNetv2_plan_experiment":             {"Plan datasets.", func() any { return &nnunetExperiment{} }},
	"nnUNetv2_preprocess":                  {"Preprocess planned datasets.", func() any { return &nnunetPreprocess{} }},
	"nnUNetv2_move_plans_between_datasets": {"Give a dataset the plans of another one.", func() any { return &nnunetMovePlans{} }},
	"nnUNetv2_convert_MSD_dataset":         {"Convert a task of the Medical Segmentation Decathlon.", func() any { return &nnunetConvertMSD{} }},
	"nnUNetv2_convert_old_nnUNet_dataset":  {"Convert a raw dataset of nnU-Net's first version.", func() any { return &nnunetConvertOld{} }},
	"nnUNetv2_train":                       {"Train one fold of a configuration.", func() any { return &nnunetTrain{} }},
	"nnUNetv2_predict":                     {"Label a folder of images with a trained model.", func() any { return &nnunetPredict{} }},
	"nnUNetv2_evaluate_folder":             {"Score label maps against references.", func() any { return &nnunetEvaluate{} }},
	"nnUNetv2_plot_overlay_pngs":           {"Draw every case's slice with most labels.", func() any { return &nnunetOverlay{} }},
}

// The three steps of nnUNetv2_plan_and_preprocess have commands of their own; the flags that they share are these.
type (
	nnunetExtraction struct {
		Extractor string `name:"fpe" help:"Fingerprint extractor." default:"DatasetFingerprintExtractor" unbuilt:"there is one extractor"`
		Verify    bool   `name:"verify_dataset_integrity" help:"Check the datasets first."`
		Clean     bool   `name:"clean" help:"Extract the fingerprints again."`
	}
	nnunetPlanning struct {
		Planner      string    `name:"pl" help:"Planner: ${planners}." default:"ExperimentPlanner"`
		Memory       float64   `name:"gpu_memory_target" help:"GPU memory to plan for in GB; 0: the planner's own target." default:"0"`
		Preprocessor string    `name:"preprocessor_name" help:"Preprocessor." default:"DefaultPreprocessor" unbuilt:"there is one preprocessor"`
		Spacing      []float64 `name:"overwrite_target_spacing" help:"Target spacing in mm, in the order of the file's array (z y x)."`
		PlansName    string    `name:"overwrite_plans_name" help:"Name of the plans."`
	}
	nnunetTalk struct {
		Verbose bool `name:"verbose" help:"Say more."`
		NoBar   bool `name:"no_pbar" help:"No progress bar."`
	}
)

func (c nnunetPlanning) options() plan.Options {
	return plan.Options{Planner: c.Planner, PlansName: c.PlansName, GPUMemoryGB: c.Memory, Spacing: c.Spacing}
}

type nnunetFingerprint struct {
	Datasets         []string `name:"d" help:"Dataset numbers." required:""`
	Workers          workers  `name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	nnunetExtraction `embed:""`
	nnunetTalk       `embed:""`
}

func (c *nnunetFingerprint) Run(a *app) error {
	a.say(c.Verbose, c.NoBar)
	for _, id := range c.Datasets {
		path, err := steps.Fingerprint(a.ctx, steps.PlanOptions{Roots: dataset.Env(), Dataset: id, Clean: c.Clean,
			Verify: a.verify(c.Verify), Work: a.work(c.Workers, 0)})
		if err != nil {
			return err
		}
		fmt.Fprintln(a.out, "the fingerprint is", path)
	}
	return nil
}

type nnunetExperiment struct {
	Datasets       []string `name:"d" help:"Dataset numbers." required:""`
	nnunetPlanning `embed:""`
}

func (c *nnunetExperiment) Run(a *app) error {
	for _, id := range c.Datasets {
		p, err := steps.Plan(a.ctx, steps.PlanOptions{Roots: dataset.Env(), Dataset: id, Work: a.work(0, 0), Nnunet: c.options()})
		if err != nil {
			return err
		}
		a.tellPlanned(p)
	}
	return nil
}

type nnunetPreprocess struct {
	Datasets   []string  `name:"d" help:"Dataset numbers." required:""`
	Plans      string    `name:"plans_name" help:"Plans to follow." default:"nnUNetPlans"`
	Configs    []string  `name:"c" help:"Configurations; those that the plans lack are passed over." default:"2d,3d_fullres,3d_lowres"`
	Workers    []workers `name:"np" help:"Cases at a time, for each configuration or one for all; 0, the default: one per core."`
	nnunetTalk `embed:""`
}

func (c *nnunetPreprocess) Run(a *app) error {
	a.say(c.Verbose, c.NoBar)
	for _, id := range c.Datasets {
		if err := steps.Preprocess(a.ctx, steps.PreprocessOptions{Roots: dataset.Env(), Dataset: id, Plans: c.Plans,
			Configurations: c.Configs, Processes: counts(c.Workers), Work: a.work(0, 0)}); err != nil {
			return err
		}
	}
	return nil
}

type nnunetPlan struct {
	Datasets         []string  `name:"d" help:"Dataset numbers." required:""`
	FPWorkers        workers   `name:"npfp" help:"Processes of the fingerprint; 0: one per core." default:"8"`
	NoPreprocess     bool      `name:"no_pp" help:"Plan only."`
	Configs          []string  `name:"c" help:"Configurations to preprocess; those that the plans lack are passed over." default:"2d,3d_fullres,3d_lowres"`
	Workers          []workers `name:"np" help:"Cases at a time, for each configuration or one for all; 0, the default: one per core."`
	nnunetExtraction `embed:""`
	nnunetPlanning   `embed:""`
	nnunetTalk       `embed:""`
}

func (c *nnunetPlan) Run(a *app) error {
	a.say(c.Verbose, c.NoBar)
	roots := dataset.Env()
	limits := a.work(c.FPWorkers, 0)
	var plans []*steps.Planned
	for _, id := range c.Datasets {
		p, err := steps.Plan(a.ctx, steps.PlanOptions{Roots: roots, Dataset: id, Clean: c.Clean, Verify: a.verify(c.Verify),
			Work: limits, Nnunet: c.options()})
		if err != nil {
			return err
		}
		a.tellPlanned(p)
		plans = append(plans, p)
	}
	if c.NoPreprocess {
		return nil
	}
	for _, p := range plans {
		if err := steps.Preprocess(a.ctx, steps.PreprocessOptions{Roots: roots, Dataset: p.Dataset, Plans: p.Plans,
			Configurations: c.Configs, Processes: counts(c.Workers), Work: limits}); err != nil {
			return err
		}
	}
	return nil
}

type nnunetMovePlans struct {
	Source      string `name:"s" help:"Dataset whose plans they are." required:""`
	Target      string `name:"t" help:"Dataset to give them to." required:""`
	SourcePlans string `name:"sp" help:"Plans to move." required:""`
	TargetPlans string `name:"tp" help:"Their name there, else the same."`
}

func (c *nnunetMovePlans) Run(a *app) error {
	return a.movePlans(dataset.Env(), c.Source, c.Target, c.SourcePlans, c.TargetPlans)
}

type nnunetTrain struct {
	Dataset       string   `arg:"" help:"Dataset number or name."`
	Config        string   `arg:"" help:"Configuration: 3d_fullres."`
	Fold          string   `arg:"" help:"Fold: 0 to 4, or all."`
	Trainer       string   `name:"tr" help:"Trainer: MaskSAM_ACDC, MaskSAM_Synapse, MaskSAM_AMOS or MaskSAM_Small." default:"nnUNetTrainer"`
	Plans         string   `name:"p" help:"Plans." default:"nnUNetPlans"`
	Pretrained    string   `name:"pretrained_weights" help:"Weights to start from." unbuilt:"starting from other weights is not built"`
	GPUs          string   `name:"num_gpus" help:"Number of GPUs." default:"1" unbuilt:"training on several devices is not built; leave it at 1"`
	NPZ           bool     `name:"npz" help:"Save the scores of the final validation."`
	Continue      bool     `name:"c" help:"Go on from the newest checkpoint."`
	Validate      bool     `name:"val" help:"Only the final validation."`
	ValidateBest  bool     `name:"val_best" help:"Validate checkpoint_best."`
	NoCheckpoints bool     `name:"disable_checkpointing" help:"Write no checkpoints."`
	Device        string   `name:"device" help:"cuda or cpu; auto takes a GPU if there is one." default:"auto"`
	Set           []string `name:"set" help:"Override a hyper-parameter of training, as epochs=2 (not nnU-Net's)." sep:"none"`
}

func (c *nnunetTrain) Run(a *app) error {
	if _, err := masksam.FindRecipe(c.Trainer); err != nil {
		return fmt.Errorf("-tr %s: only MaskSAM is built, nnU-Net's own networks are not: %w", c.Trainer, err)
	}
	switch {
	case c.Validate && c.Continue:
		return errors.New("--val and --c exclude each other")
	case c.ValidateBest && c.NoCheckpoints:
		return errors.New("--val_best and --disable_checkpointing exclude each other")
	}
	return a.train(dataset.Env(), c.Trainer, c.Set, c.Device, train.Options{Dataset: c.Dataset, Plans: c.Plans,
		Configuration: c.Config, Fold: c.Fold, Seed: 12345, Continue: c.Continue, ValidateOnly: c.Validate,
		ValidateBest: c.ValidateBest, SaveProbabilities: c.NPZ, NoCheckpoints: c.NoCheckpoints})
}

type nnunetPredict struct {
	Input         string   `name:"i" help:"Folder of images." required:""`
	Output        string   `name:"o" help:"Folder for the label maps." required:""`
	Dataset       string   `name:"d" help:"Dataset of the model." required:""`
	Config        string   `name:"c" help:"Configuration of the model." required:""`
	Plans         string   `name:"p" help:"Plans of the model; by default nnUNetPlans, else the only ones trained."`
	Trainer       string   `name:"tr" help:"Trainer of the model." default:"nnUNetTrainer"`
	Folds         []string `name:"f" help:"Folds; by default all that are trained."`
	Step          float64  `name:"step_size" help:"Distance of tiles as a share of the patch." default:"0.5"`
	NoMirror      bool     `name:"disable_tta" help:"No averaging over flips."`
	Verbose       bool     `name:"verbose" help:"Say more."`
	Probabilities bool     `name:"save_probabilities" help:"Also save the scores."`
	Continue      bool     `name:"continue_prediction" help:"Skip the cases whose output exists."`
	Checkpoint    string   `name:"chk" help:"Checkpoint of each fold." default:"checkpoint_final.pth"`
	NPP           string   `name:"npp" help:"Processes for preprocessing." default:"3" unbuilt:"cases are prepared by the predicting process"`
	NPS           string   `name:"nps" help:"Processes for export." default:"3" unbuilt:"label maps are written by the predicting process"`
	PrevStage     string   `name:"prev_stage_predictions" help:"Predictions of the stage before." unbuilt:"cascades are not built"`
	Parts         int      `name:"num_parts" help:"Number of parts." default:"1"`
	Part          int      `name:"part_id" help:"This part, from 0." default:"0"`
	Device        string   `name:"device" help:"cuda or cpu; auto takes a GPU if there is one." default:"auto"`
	NoBar         bool     `name:"disable_progress_bar" help:"No progress bar."`
	NotOnDevice   bool     `name:"not_on_device" help:"Keep the scores in main memory." unbuilt:"choosing where scores are kept is not built"`
}

func (c *nnunetPredict) Run(a *app) error {
	a.say(c.Verbose, c.NoBar)
	if c.Parts < 1 || c.Part < 0 || c.Part >= c.Parts {
		return fmt.Errorf("-part_id %d is not below -num_parts %d", c.Part, c.Parts)
	}
	roots := dataset.Env()
	plans := c.Plans
	if plans == "" {
		plans = "nnUNetPlans"
	}
	model, err := steps.FindModel(roots, c.Dataset, c.Trainer, plans, c.Config)
	if err != nil && c.Plans == "" {
		model, err = steps.FindModel(roots, c.Dataset, c.Trainer, "", c.Config)
	}
	if err != nil {
		return err
	}
	checkpoint := strings.TrimSuffix(c.Checkpoint, filepath.Ext(c.Checkpoint))
	return a.predict(model, c.Folds, checkpoint, c.Device, predict.Options{Input: c.Input, Output: c.Output,
		Tiling:            predict.Tiling{Step: c.Step, Mirror: !c.NoMirror},
		SaveProbabilities: c.Probabilities, Continue: c.Continue, Parts: c.Parts, Part: c.Part})
}

type nnunetEvaluate struct {
	Reference  string  `arg:"" help:"Folder of reference label maps."`
	Prediction string  `arg:"" help:"Folder of predicted label maps."`
	Dataset    string  `name:"djfile" help:"The dataset.json." required:""`
	Plans      string  `name:"pfile" help:"The plans.json; what it tells is not needed here." required:""`
	Output     string  `name:"o" help:"The summary; by default summary.json in the prediction folder."`
	Workers    workers `name:"np" help:"Processes; 0: one per core." default:"8"`
	Chill      bool    `name:"chill" help:"Pass over references without a prediction."`
}

func (c *nnunetEvaluate) Run(a *app) error {
	return a.evaluate(steps.EvaluateOptions{Reference: c.Reference, Prediction: c.Prediction, Dataset: c.Dataset,
		Out: c.Output, Chill: c.Chill, Workers: int(c.Workers)})
}
