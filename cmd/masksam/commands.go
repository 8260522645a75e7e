package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"masksam/internal/dataset"
	"masksam/internal/demo"
	"masksam/internal/doctor"
	"masksam/internal/machine"
	"masksam/internal/masksam"
	"masksam/internal/plan"
	"masksam/internal/predict"
	"masksam/internal/steps"
	"masksam/internal/torch"
	"masksam/internal/train"
	"masksam/internal/work"
)

// cli is the grammar of masksam itself.
type cli struct {
	Verbose bool `help:"Log more." short:"v"`

	Convert    convertCmd    `cmd:"" help:"Bring a published data set into nnU-Net's layout, or DICOM series into NIfTI."`
	Check      checkCmd      `cmd:"" help:"Check a raw dataset: all that is wrong with it, and what to do."`
	Splits     splitsCmd     `cmd:"" help:"Deal a dataset's cases out to folds, or check the folds that are there."`
	Plan       planCmd       `cmd:"" help:"Fingerprint a raw dataset and write its plans, with a recipe's network."`
	MovePlans  movePlansCmd  `cmd:"" help:"Give a dataset the plans of another one, to train on from its weights."`
	Preprocess preprocessCmd `cmd:"" help:"Crop, normalise and resample a planned dataset's cases."`
	Train      trainCmd      `cmd:"" help:"Train one fold, or go on with it."`
	Predict    predictCmd    `cmd:"" help:"Label a folder of images with a trained model."`
	Evaluate   evaluateCmd   `cmd:"" help:"Score label maps against references; writes summary.json."`
	Info       infoCmd       `cmd:"" help:"Tell what an image file holds, or what there is of a dataset."`
	Overlay    overlayCmd    `cmd:"" help:"Draw cases with their labels, one by one or as a montage."`
	Verify     verifyCmd     `cmd:"" help:"Compute golden folders again and compare tensor by tensor."`
	Doctor     doctorCmd     `cmd:"" help:"Examine engine, processor, memory, devices and folders."`
	Demo       demoCmd       `cmd:"" help:"Go the whole way on one real head: data, training, prediction, score, pictures."`
	Version    versionCmd    `cmd:"" help:"Tell the version and the engine's."`
}

// roots are the three folders; a flag wins over its environment variable.
type roots struct {
	Raw          string `help:"Folder of raw datasets." env:"nnUNet_raw" placeholder:"DIR"`
	Preprocessed string `help:"Folder of plans and preprocessed cases." env:"nnUNet_preprocessed" placeholder:"DIR"`
	Results      string `help:"Folder of trained models." env:"nnUNet_results" placeholder:"DIR"`
}

func (r roots) roots() dataset.Roots { return dataset.Roots(r) }

func recipeNames() string {
	var names []string
	for _, r := range masksam.Recipes() {
		names = append(names, r.Short)
	}
	return strings.Join(names, ", ")
}

type planCmd struct {
	Dataset   string        `arg:"" help:"Number or name of the dataset: 4 or Dataset004_Hippocampus."`
	Recipe    string        `help:"Also plan this recipe: ${recipes}."`
	Name      string        `help:"Name of the recipe's plan, else the recipe's own." placeholder:"PLANS"`
	Set       []string      `help:"Override a hyper-parameter of the recipe, as encoder.width=32; repeatable." sep:"none" placeholder:"KEY=VALUE"`
	Patch     []int         `help:"Patch of the recipe in voxels, slices first, as 8,256,256; names the plan, unless --name does." placeholder:"T,H,W"`
	Batch     *int          `help:"Batch size of the recipe; likewise." placeholder:"N"`
	Planner   string        `help:"nnU-Net planner: ${planners}." default:"ExperimentPlanner"`
	GPUMemory float64       `help:"GPU memory in GB that nnU-Net's plans are made for; 0: the planner's own target." name:"gpu-memory" placeholder:"GB"`
	Spacing   []float64     `help:"Target spacing in mm, in the order of the file's array: slices, rows, columns." placeholder:"Z,Y,X"`
	Plans     string        `help:"Name of nnU-Net's plans, else the planner's own." placeholder:"PLANS"`
	Clean     bool          `help:"Extract the fingerprint and plan again."`
	Check     bool          `help:"Check the dataset's integrity first."`
	Workers   workers       `help:"Cases at a time at most; 0: one per core." placeholder:"N"`
	Memory    machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
	roots     `embed:""`
}

func (c *planCmd) Run(a *app) error {
	if c.Planner == plan.DefaultPlanner {
		c.Planner = "" // which nobody asked for: a recipe may build on the plans that are there
	}
	planned, err := steps.Plan(a.ctx, steps.PlanOptions{Roots: c.roots.roots(), Dataset: c.Dataset, Recipe: c.Recipe,
		Set: c.Set, Name: c.Name, Patch: c.Patch, Batch: c.Batch,
		Nnunet: plan.Options{Planner: c.Planner, PlansName: c.Plans, GPUMemoryGB: c.GPUMemory, Spacing: c.Spacing},
		Clean:  c.Clean, Verify: a.verify(c.Check), Work: a.work(c.Workers, c.Memory)})
	if err != nil {
		return err
	}
	a.tellPlanned(planned)
	return nil
}

// work is how much of the machine a command's flags give to its step.
func (a *app) work(w workers, memory machine.Bytes) work.Work {
	return work.Work{Workers: int(w), Memory: memory, Progress: a.progress}.LeaveRoom()
}

func (a *app) tellPlanned(p *steps.Planned) {
	for _, f := range p.Files {
		fmt.Fprintln(a.out, "wrote", f)
	}
	if r := p.Recipe; r != nil {
		fmt.Fprintf(a.out, "recipe %s: plans %s, patch %v, batch %d\n", r.Name, r.Plans, r.Patch, r.Batch)
	}
}

type movePlansCmd struct {
	Source string `arg:"" help:"Number or name of the dataset whose plans they are."`
	Target string `arg:"" help:"Number or name of the dataset to give them to."`
	Plans  string `help:"Plans to move." default:"nnUNetPlans" short:"p"`
	As     string `help:"Their name there, else the same." placeholder:"PLANS"`
	roots  `embed:""`
}

func (c *movePlansCmd) Run(a *app) error {
	return a.movePlans(c.roots.roots(), c.Source, c.Target, c.Plans, c.As)
}

func (a *app) movePlans(roots dataset.Roots, source, target, plans, as string) error {
	path, err := steps.MovePlans(roots, source, target, plans, as)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, "wrote", path)
	return nil
}

type preprocessCmd struct {
	Dataset string        `arg:"" help:"Number or name of the dataset."`
	Plans   string        `help:"Plans to follow." default:"nnUNetPlans"`
	Config  []string      `help:"Configurations." default:"3d_fullres" short:"c"`
	Workers workers       `help:"Cases at a time at most; 0: one per core." placeholder:"N"`
	Memory  machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
	Force   bool          `help:"Also the cases that are done already."`
	roots   `embed:""`
}

func (c *preprocessCmd) Run(a *app) error {
	return steps.Preprocess(a.ctx, steps.PreprocessOptions{Roots: c.roots.roots(), Dataset: c.Dataset, Plans: c.Plans,
		Configurations: c.Config, Force: c.Force, Work: a.work(c.Workers, c.Memory)})
}

type trainCmd struct {
	Dataset           string   `arg:"" help:"Number or name of the dataset."`
	Config            string   `arg:"" optional:"" help:"Configuration." default:"3d_fullres"`
	Fold              string   `arg:"" optional:"" help:"Fold: a number or all." default:"0"`
	Recipe            string   `help:"Recipe, whose plans are trained unless --plans names others: ${recipes}." default:"small" short:"r"`
	Plans             string   `help:"Plans to train, else the recipe's own." short:"p"`
	Set               []string `help:"Override a hyper-parameter of training, as epochs=2; repeatable." sep:"none" placeholder:"KEY=VALUE"`
	Minutes           float64  `help:"Budget of training time; short for --set minutes=…" placeholder:"N"`
	Continue          bool     `help:"Go on from the newest checkpoint." short:"c"`
	Validate          bool     `help:"Only the final validation of a finished run."`
	SkipValidation    bool     `help:"End after the last checkpoint."`
	SaveProbabilities bool     `help:"Keep the scores of the final validation."`
	Device            string   `help:"cpu, cuda, cuda:1 …; auto takes a GPU if there is one." default:"auto"`
	Seed              uint64   `help:"Seed of weights, batches and sampled points." default:"12345"`
	roots             `embed:""`
}

func (c *trainCmd) Run(a *app) error {
	r, err := masksam.FindRecipe(c.Recipe)
	if err != nil {
		return err
	}
	if c.Plans == "" {
		c.Plans = r.Plans
	}
	if c.Minutes > 0 {
		c.Set = append(c.Set, fmt.Sprintf("minutes=%g", c.Minutes))
	}
	return a.train(c.roots.roots(), r.Name, c.Set, c.Device, train.Options{Dataset: c.Dataset, Plans: c.Plans,
		Configuration: c.Config, Fold: c.Fold, Seed: c.Seed, Continue: c.Continue, ValidateOnly: c.Validate,
		SkipValidation: c.SkipValidation, SaveProbabilities: c.SaveProbabilities})
}

// train completes the options from the plan and runs them.
func (a *app) train(roots dataset.Roots, trainer string, set []string, device string, o train.Options) error {
	var err error
	if o.Dataset, err = roots.Name(o.Dataset); err != nil {
		return err
	}
	if _, err := roots.ResultsDir(o.Dataset); err != nil {
		return err
	}
	recipe, err := steps.Recipe(roots, o.Dataset, o.Plans, o.Configuration, trainer, set)
	if err != nil {
		return err
	}
	if o.Device, err = pickDevice(device); err != nil {
		return err
	}
	o.Raw, o.Preprocessed, o.Results = roots.Raw, roots.Preprocessed, roots.Results
	o.Recipe, o.Progress = *recipe, a.progress
	result, err := train.Run(a.ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "trained %d steps, results in %s\n", result.Steps, result.Folder)
	if !math.IsNaN(result.Dice) {
		fmt.Fprintf(a.out, "mean validation Dice: %.4f\n", result.Dice)
	}
	return nil
}

type predictCmd struct {
	Input         string   `help:"Folder of images CASE_0000.nii.gz …" short:"i" required:"" placeholder:"DIR"`
	Output        string   `help:"Folder for the label maps." short:"o" required:"" placeholder:"DIR"`
	Model         string   `help:"Folder of the model: TRAINER__PLANS__CONFIGURATION." short:"m" placeholder:"DIR"`
	Dataset       string   `help:"Instead of --model: number or name of the dataset that it was trained on." short:"d"`
	Recipe        string   `help:"With --dataset: recipe or trainer of the model."`
	Plans         string   `help:"With --dataset: plans of the model." short:"p"`
	Config        string   `help:"With --dataset: configuration of the model." short:"c" default:"3d_fullres"`
	Fold          []string `help:"Folds to average; none: all that are trained." short:"f"`
	Checkpoint    string   `help:"Checkpoint of each fold." default:"checkpoint_final"`
	Step          float64  `help:"Distance of tiles as a share of the patch." default:"0.5"`
	Mirror        bool     `help:"Average over flips along the axes that training mirrored." default:"true" negatable:""`
	Batch         int      `help:"Patches in one pass." default:"4"`
	Precision     string   `help:"float32 or bf16." default:"float32" enum:"float32,bf16"`
	Probabilities bool     `help:"Also save the scores as CASE.npz."`
	Continue      bool     `help:"Skip the cases whose output exists."`
	Device        string   `help:"cpu, cuda, cuda:1 …; auto takes a GPU if there is one." default:"auto"`
	roots         `embed:""`
}

func (c *predictCmd) Run(a *app) error {
	if (c.Model == "") == (c.Dataset == "") {
		return errors.New("name the model by --model or by --dataset, one of the two")
	}
	if c.Model == "" {
		var err error
		if c.Model, err = steps.FindModel(c.roots.roots(), c.Dataset, c.Recipe, c.Plans, c.Config); err != nil {
			return err
		}
	}
	return a.predict(c.Model, c.Fold, c.Checkpoint, c.Device, predict.Options{Input: c.Input, Output: c.Output,
		Tiling:            predict.Tiling{Step: c.Step, Mirror: c.Mirror, Batch: c.Batch, Precision: c.Precision},
		SaveProbabilities: c.Probabilities, Continue: c.Continue})
}

func (a *app) predict(folder string, folds []string, checkpoint, device string, o predict.Options) error {
	if !(o.Tiling.Step > 0) { // in the package 0 stands for the default
		return fmt.Errorf("a step of %g: the distance of tiles must be above 0 and at most 1", o.Tiling.Step)
	}
	dev, err := pickDevice(device)
	if err != nil {
		return err
	}
	model, err := predict.Open(folder, folds, checkpoint, dev)
	if err != nil {
		return err
	}
	defer model.Close()
	o.Progress = a.progress
	if err := model.Folder(a.ctx, o); err != nil {
		return err
	}
	fmt.Fprintln(a.out, "predictions are in", o.Output)
	return nil
}

type evaluateCmd struct {
	Reference   string  `arg:"" help:"Folder of reference label maps."`
	Prediction  string  `arg:"" help:"Folder of predicted label maps."`
	DatasetJSON string  `help:"The dataset.json; by default the prediction folder's." name:"dataset-json" placeholder:"FILE"`
	Output      string  `help:"Where to write the summary; by default summary.json in the prediction folder." short:"o" placeholder:"FILE"`
	Chill       bool    `help:"Pass over references without a prediction."`
	Workers     workers `help:"Cases at a time; 0: one per core." placeholder:"N"`
}

func (c *evaluateCmd) Run(a *app) error {
	if c.DatasetJSON == "" {
		c.DatasetJSON = filepath.Join(c.Prediction, dataset.FileName)
	}
	return a.evaluate(steps.EvaluateOptions{Reference: c.Reference, Prediction: c.Prediction, Dataset: c.DatasetJSON,
		Out: c.Output, Chill: c.Chill, Workers: int(c.Workers)})
}

func (a *app) evaluate(o steps.EvaluateOptions) error {
	o.Progress = a.progress
	summary, names, err := steps.Evaluate(a.ctx, o)
	if err != nil {
		return err
	}
	summary.Table(a.out, names)
	return nil
}

type verifyCmd struct {
	Dirs     []string `arg:"" name:"dir" help:"Golden folders: spec.json with its tensors."`
	Device   string   `help:"cpu, cuda, cuda:1 …" default:"cpu"`
	Autocast string   `help:"Compute under autocast, with looser tolerances." enum:"float32,bf16" default:"float32"`
}

func (c *verifyCmd) Run(a *app) error {
	dev, err := torch.ParseDevice(c.Device)
	if err != nil {
		return err
	}
	opt := masksam.VerifyOptions{Device: dev, Autocast: torch.Float32}
	if c.Autocast == "bf16" {
		opt.Autocast = torch.BFloat16
	}
	missed := 0
	for _, dir := range c.Dirs {
		rows, err := masksam.Verify(dir, opt)
		if err != nil {
			return fmt.Errorf("verify %s: %w", dir, err)
		}
		t := a.table("tensor", "error", "tolerance", "measure", "")
		bad := 0
		for _, r := range rows {
			verdict := "ok"
			if !r.OK() {
				verdict = "MISS"
				bad++
			}
			t.AppendRow(table.Row{r.Name, fmt.Sprintf("%.2e", r.Error), fmt.Sprintf("%.0e", r.Tolerance), r.Measure, verdict})
		}
		t.Render()
		fmt.Fprintf(a.out, "%s: %d of %d within tolerance\n", dir, len(rows)-bad, len(rows))
		missed += bad
	}
	if missed > 0 {
		return fmt.Errorf("%d tensors miss their tolerance", missed)
	}
	return nil
}

// table begins a table on the command's output.
func (a *app) table(header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(a.out)
	style := table.StyleLight
	style.Options = table.Options{SeparateHeader: true}
	style.Format.Header = 0
	t.SetStyle(style)
	t.AppendHeader(header)
	return t
}

type doctorCmd struct {
	roots `embed:""`
}

func (c *doctorCmd) Run(a *app) error {
	report := doctor.Examine([]doctor.Folder{
		{Name: dataset.EnvRaw, Path: c.Raw},
		{Name: dataset.EnvPreprocessed, Path: c.Preprocessed, Written: true},
		{Name: dataset.EnvResults, Path: c.Results, Written: true},
	})
	fmt.Fprintln(a.out, "masksam", version())
	report.Table(a.out)
	if !report.Usable() {
		return errors.New("something on this machine cannot be used; see the rows marked UNUSABLE")
	}
	return nil
}

type demoCmd struct {
	Dir     string   `help:"Folder for everything that the demo makes." default:"masksam-demo" placeholder:"DIR"`
	Cache   string   `help:"Where the head is kept between runs; by default the user's cache folder." placeholder:"DIR"`
	Cases   int      `help:"Training cases." default:"${demo_cases}"`
	Minutes float64  `help:"Budget of training time." default:"${demo_minutes}"`
	Set     []string `help:"Override a hyper-parameter of the recipe small; repeatable." sep:"none" placeholder:"KEY=VALUE"`
	Seed    uint64   `help:"Seed of cases and weights." default:"1"`
	Phantom bool     `help:"Use the built-in phantom, not the real head."`
	Device  string   `help:"cpu, cuda, cuda:1 …; auto takes a GPU if there is one." default:"auto"`
}

func (c *demoCmd) Run(a *app) error {
	dev, err := pickDevice(c.Device)
	if err != nil {
		return err
	}
	if c.Cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			base = c.Dir
		}
		c.Cache = filepath.Join(base, "masksam")
	}
	result, err := demo.Run(a.ctx, demo.Options{Dir: c.Dir, Cache: c.Cache, Cases: c.Cases, Minutes: c.Minutes, Set: c.Set,
		Seed: c.Seed, Phantom: c.Phantom, Device: dev, Progress: a.progress})
	if err != nil {
		return err
	}
	result.Tell(a.out)
	return nil
}

type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	fmt.Fprintf(a.out, "masksam %s, libtorch %s\n", version(), torch.Version())
	return nil
}

// version is the commit that the binary was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of unknown origin"
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = ", changed since"
			}
		}
	}
	if revision == "" {
		return strings.Trim(info.Main.Version, "()") + " " + info.GoVersion
	}
	return revision + dirty + " " + info.GoVersion
}
