package commands

import (
	"fmt"
	"io"
	"path/filepath"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/remedy"
	"masksam/internal/report"
	"masksam/internal/steps"
)

// scoring are the flags of the commands that compare label maps.
type scoring struct {
	DatasetJSON string        `help:"The dataset.json; by default the prediction folder's." name:"dataset-json" placeholder:"FILE"`
	PlansJSON   string        `help:"The plans.json, whose reader reads the files where dataset.json names none; by default the prediction folder's, if it has one." name:"plans-json" placeholder:"FILE"`
	Label       []int         `help:"Score these labels, by number, instead of dataset.json's, which then need not be there." placeholder:"N"`
	IgnoreLabel *int          `help:"With --label: voxels whose reference is this label do not count." placeholder:"N"`
	Chill       bool          `help:"Pass over references without a prediction." name:"skip-missing"`
	Surface     bool          `help:"Measure distances between surfaces too: HD95, ASSD, surface Dice, Hausdorff distance."`
	Tolerance   string        `help:"Measure them with this tolerance of the surface Dice in mm, by default 1, of all classes or of single ones by name: 2, or 1,liver=3." placeholder:"MM"`
	Table       string        `help:"Write a table over all cases; the ending .csv, .json, .md or .txt says in which format." placeholder:"FILE"`
	Workers     Workers       `help:"Cases at a time; 0: one per core." placeholder:"N"`
	Memory      machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
}

// options finds dataset.json and plans.json beside the predictions, and refuses tables whose format is not known.
func (c *scoring) options(a *App, reference, prediction string, tables ...string) (o steps.EvaluateOptions, err error) {
	for _, path := range tables {
		if _, err := report.FormatOf(path); path != "" && err != nil {
			return o, err
		}
	}
	if c.DatasetJSON == "" && len(c.Label) == 0 {
		if !atomicfile.Exists(prediction) {
			return o, fmt.Errorf("there is no folder %s of predicted label maps", prediction)
		}
		c.DatasetJSON = filepath.Join(prediction, dataset.FileName)
		if atomicfile.Exists(reference) && !atomicfile.Exists(c.DatasetJSON) {
			return o, remedy.Add(fmt.Errorf("%s is missing: the predictions' folder has no dataset.json, which names the labels", c.DatasetJSON),
				"name the dataset's with ", remedy.DatasetJSON)
		}
	}
	if path := filepath.Join(prediction, "plans.json"); c.PlansJSON == "" && atomicfile.Exists(path) {
		c.PlansJSON = path
	}
	return steps.EvaluateOptions{Reference: reference, Prediction: prediction, Dataset: c.DatasetJSON, Plans: c.PlansJSON,
		Labels: c.Label, Ignore: c.IgnoreLabel, Chill: c.Chill, Surfaces: c.Surface || c.Tolerance != "", Tolerance: c.Tolerance, Work: a.Work(c.Workers, c.Memory)}, nil
}

// writeTable writes a table in the format that its file's ending says; an empty path none.
func writeTable(path string, write func(io.Writer, report.Format) error) error {
	if path == "" {
		return nil
	}
	format, err := report.FormatOf(path)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, func(w io.Writer) error { return write(w, format) })
}

type compareCmd struct {
	Reference string `arg:"" help:"Folder of reference label maps."`
	A         string `arg:"" help:"Folder of predicted label maps."`
	B         string `arg:"" help:"Folder of other predictions of the same cases."`
	scoring   `embed:""`
}

func (c *compareCmd) Run(a *App) error {
	o, err := c.options(a, c.Reference, c.A, c.Table)
	if err != nil {
		return err
	}
	compared, names, err := steps.Compare(a.Ctx, steps.CompareOptions{EvaluateOptions: o, B: c.B})
	if err != nil {
		return err
	}
	write := func(w io.Writer, f report.Format) error { return report.Comparison(w, f, compared, names) }
	if err := writeTable(c.Table, write); err != nil {
		return err
	}
	return write(a.Out, report.Text)
}
