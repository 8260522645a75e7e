package main

import (
	"fmt"

	"masksam/internal/machine"
	"masksam/internal/report"
	"masksam/internal/weights"
)

type weightsCmd struct {
	Inspect weightsInspect `cmd:"" help:"Tell what a file of weights holds: safetensors, or a PyTorch file, of which nothing is run."`
	Convert weightsConvert `cmd:"" help:"Write the weights of a file as safetensors."`
	Fetch   weightsFetch   `cmd:"" help:"Download SAM's published weights, and check them."`
}

type weightsInspect struct {
	File string `arg:"" help:"Safetensors or PyTorch file."`
	JSON bool   `help:"As JSON." name:"json"`
}

func (c *weightsInspect) Run(a *app) error {
	in, err := weights.Inspect(c.File)
	if err != nil {
		return err
	}
	if !c.JSON {
		return report.Weights(a.out, in)
	}
	text, err := in.JSON()
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "%s\n", text)
	return nil
}

type weightsConvert struct {
	In  string `arg:"" help:"File of weights."`
	Out string `arg:"" help:"Safetensors file to write."`
}

func (c *weightsConvert) Run(a *app) error {
	if err := weights.Convert(c.In, c.Out); err != nil {
		return err
	}
	fmt.Fprintln(a.out, "wrote", c.Out)
	return nil
}

type weightsFetch struct {
	Encoder string `arg:"" help:"vit_b, vit_l or vit_h."`
	To      string `help:"Folder, instead of that of the environment variable masksam_weights; without both it is the current one." placeholder:"DIR"`
	From    string `help:"Address of a folder that has the same file, instead of the published one." placeholder:"URL"`
}

func (c *weightsFetch) Run(a *app) error {
	official, err := weights.OfficialFile(c.Encoder)
	if err != nil {
		return err
	}
	dir, err := weights.Folder(c.To)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "from %s\nto   %s (%v)\n", official.URL(c.From), dir, machine.Bytes(official.Bytes))
	path, saved, err := weights.Fetch(a.ctx, official, weights.FetchOptions{Dir: dir, From: c.From, Progress: a.progress})
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, map[bool]string{true: "saved " + path, false: path + " is there already"}[saved])
	if found, _ := weights.Find(c.Encoder, ""); found != path {
		fmt.Fprintf(a.out, "set %s=%s so that training finds it\n", weights.EnvDir, dir)
	}
	return nil
}
