package commands

import (
	"context"
	"fmt"

	"masksam/internal/convert"
	"masksam/internal/machine"
)

type convertCmd struct {
	MSD      convertMSD      `cmd:"" name:"msd" help:"A task of the Medical Segmentation Decathlon: TaskNN_Name."`
	NNUNetV1 convertNNUNetV1 `cmd:"" name:"nnunet-v1" help:"A raw dataset of nnU-Net's first version: TaskNNN_Name."`
	ACDC     convertACDC     `cmd:"" name:"acdc" help:"ACDC, cine MR of the heart: training/patientPPP/…"`
	Synapse  convertSynapse  `cmd:"" name:"synapse" help:"BTCV on Synapse, abdominal CT: RawData/Training/img, …/label."`
	AMOS     convertAMOS     `cmd:"" name:"amos" help:"AMOS22, abdominal CT and MR: dataset.json, imagesTr, imagesVa, …"`
	DICOM    convertDICOM    `cmd:"" name:"dicom" help:"Series of DICOM files to images CASE_0000.nii.gz."`
}

// conversion are the flags of the converters that make a dataset.
type conversion struct {
	Source  string        `arg:"" help:"Folder of the data set as it is published."`
	ID      int           `help:"Number of the dataset, 1 to 999, instead of its usual one." placeholder:"N"`
	Name    string        `help:"Name of the dataset without its number, instead of its usual one." placeholder:"NAME"`
	Workers Workers       `help:"Files at a time; 0: one per core." placeholder:"N"`
	Memory  machine.Bytes `help:"Memory for the program with all files at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
	Roots   `embed:""`
}

func (c *conversion) options(a *App) convert.Options {
	return convert.Options{Source: c.Source, Roots: c.Roots.roots(), ID: c.ID, Name: c.Name, Work: a.Work(c.Workers, c.Memory)}
}

type convertMSD struct {
	conversion `embed:""`
}

func (c *convertMSD) Run(a *App) error { return a.Convert(convert.MSD, c.options(a)) }

type convertNNUNetV1 struct {
	conversion `embed:""`
}

func (c *convertNNUNetV1) Run(a *App) error { return a.Convert(convert.NNUNetV1, c.options(a)) }

type convertACDC struct {
	conversion `embed:""`
}

func (c *convertACDC) Run(a *App) error { return a.Convert(convert.ACDC, c.options(a)) }

type convertSynapse struct {
	conversion `embed:""`
	Organs     int `help:"13, or the 8 that the benchmark scores, as labels 1 to 8." default:"13" enum:"13,8"`
}

func (c *convertSynapse) Run(a *App) error {
	return a.Convert(func(ctx context.Context, o convert.Options) (*convert.Result, error) {
		return convert.Synapse(ctx, o, c.Organs == 8)
	}, c.options(a))
}

type convertAMOS struct {
	conversion `embed:""`
	Modality   string `help:"ct, or all for CT and MR." default:"ct" enum:"ct,all"`
}

func (c *convertAMOS) Run(a *App) error {
	return a.Convert(func(ctx context.Context, o convert.Options) (*convert.Result, error) {
		return convert.AMOS(ctx, o, c.Modality == "all")
	}, c.options(a))
}

// Convert makes a dataset and tells what it has become.
func (a *App) Convert(run func(context.Context, convert.Options) (*convert.Result, error), o convert.Options) error {
	r, err := run(a.Ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "made %s: %d training cases, %d test cases\n", r.Dir, r.Training, r.Test)
	return nil
}

type convertDICOM struct {
	Source      string        `arg:"" help:"Folder of a series, or of one folder per case."`
	Output      string        `arg:"" help:"Folder for the images."`
	ID          string        `help:"Name of the case, where there is one; by default its folder's." placeholder:"CASE"`
	Series      string        `help:"Instance UID or number of the series to take, where a case has several; with /1, /2 … where the series has several stacks of slices." placeholder:"UID"`
	Uncorrected bool          `help:"Take the slices as they are stored where the gantry was tilted or slices are missing; by default they are sheared back and interpolated to even steps, as an image's header can hold no other places."`
	Workers     Workers       `help:"Cases at a time; 0: one per core." placeholder:"N"`
	Memory      machine.Bytes `help:"Memory for the cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
}

func (c *convertDICOM) Help() string {
	return "Runs the program dcm2niix (Debian's package dcm2niix), and before it gdcmconv (libgdcm-tools) for files " +
		"that it cannot read: JPEG-LS, deflated."
}

func (c *convertDICOM) Run(a *App) error {
	made, err := convert.DICOM(a.Ctx, convert.DICOMOptions{Source: c.Source, Output: c.Output, ID: c.ID, Series: c.Series,
		Uncorrected: c.Uncorrected, Work: a.Work(c.Workers, c.Memory)})
	for _, path := range made {
		fmt.Fprintln(a.Out, "wrote", path)
	}
	return err
}
