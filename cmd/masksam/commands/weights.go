package commands

import (
	"fmt"
	"log/slog"

	"masksam/internal/machine"
	"masksam/internal/pytorch"
	"masksam/internal/report"
	"masksam/internal/weights"
)

type weightsCmd struct {
	Inspect   weightsInspect `cmd:"" help:"Tell what a file of weights holds: safetensors, or a PyTorch file, of which nothing is run."`
	Convert   weightsConvert `cmd:"" help:"Write the weights of a file as safetensors."`
	ExportPth weightsExport  `cmd:"" name:"export-pth" help:"Write checkpoints of nnU-Net's networks as PyTorch files, with which nnU-Net's own program predicts and trains on."`
	Fetch     weightsFetch   `cmd:"" help:"Download SAM's published weights, and check them."`
}

type weightsInspect struct {
	File string `arg:"" help:"Safetensors or PyTorch file."`
	JSON bool   `help:"As JSON." name:"json"`
}

func (c *weightsInspect) Run(a *App) error {
	in, err := weights.Inspect(c.File)
	if err != nil {
		return err
	}
	if !c.JSON {
		return report.Weights(a.Out, in)
	}
	text, err := in.JSON()
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "%s\n", text)
	return nil
}

type weightsConvert struct {
	In  string `arg:"" help:"File of weights."`
	Out string `arg:"" help:"Safetensors file to write."`
}

func (c *weightsConvert) Run(a *App) error {
	if err := weights.Convert(c.In, c.Out); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, "wrote", c.Out)
	return nil
}

type weightsExport struct {
	In         string `arg:"" help:"Folder of a trained model, of which all folds are written, or the file of a checkpoint in it."`
	Out        string `arg:"" optional:"" help:"PyTorch file to write, where the first argument is a file; without it, it lies beside the checkpoint and has its name with the ending .pth, as each fold's does."`
	Checkpoint string `help:"Of each fold, where the first argument is a folder." default:"checkpoint_final" placeholder:"NAME"`
}

func (c *weightsExport) Run(a *App) error {
	all, err := pytorch.Export(c.In, c.Out, c.Checkpoint)
	for _, w := range all {
		fmt.Fprintln(a.Out, "wrote", w.Path)
		for _, note := range w.Notes {
			slog.Warn(w.Path + ": " + note)
		}
	}
	return err
}

type weightsFetch struct {
	Encoder string `arg:"" help:"vit_b, vit_l or vit_h."`
	To      string `help:"Folder, instead of that of the environment variable masksam_weights; without both it is the current one." placeholder:"DIR"`
	From    string `help:"Address of a folder that has the same file, instead of the published one." placeholder:"URL"`
}

func (c *weightsFetch) Run(a *App) error {
	official, err := weights.OfficialFile(c.Encoder)
	if err != nil {
		return err
	}
	dir, err := weights.Folder(c.To)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "from %s\nto   %s (%v)\n", official.URL(c.From), dir, machine.Bytes(official.Bytes))
	path, saved, err := weights.Fetch(a.Ctx, official, weights.FetchOptions{Dir: dir, From: c.From, Progress: a.Progress})
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Out, map[bool]string{true: "saved " + path, false: path + " is there already"}[saved])
	if found, _ := weights.Find(c.Encoder, ""); found != path {
		fmt.Fprintf(a.Out, "set %s=%s so that training finds it\n", weights.EnvDir, dir)
	}
	return nil
}
