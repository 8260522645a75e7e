package postprocess

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/evaluate"
	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/work"
)

// Options say what Determine looks at.
type Options struct {
	work.Work
	Prediction, Reference string // folders
	Labels                *dataset.Labels
	Ending                string // of label maps
	Reader                string // reader class; empty or unknown: chosen by the ending and the first reference
	Keep                  bool   // the predictions with the operations carried out stay, in Prediction/postprocessed
}

// Result is what Determine found.
type Result struct {
	Trials        []Trial
	Operations    []Operation // the accepted ones
	Before, After *evaluate.Summary
}

// Trial is an operation on top of those accepted before it. Dice before and after is that of its class, or the mean of all
// classes of the operation on all of the foreground.
type Trial struct {
	Operation     Operation
	Before, After float64
	Accepted      bool
}

// Names in a folder of predictions.
const (
	summaryName   = "summary.json"
	processedName = "postprocessed"
)

// Determine tries by the references which largest components to keep. First all foreground labels together: accepted if the
// mean Dice rises and that of no class falls. Then, if there are several, each class of the dataset (a label or a region)
// alone: accepted if its own Dice rises. It writes postprocessing.pkl and postprocessing.json into the folder of
// predictions, summary.json where there is none, and the folder postprocessed. The figures and the files are nnU-Net's, which
// names in the last summary.json the places where it kept label maps meanwhile.
func Determine(ctx context.Context, o Options) (*Result, error) {
	d := &determination{Options: o}
	opt, _ := evaluate.OptionsOf(o.Labels)
	d.classes, d.ignore = opt.Classes, opt.Ignore
	r, place, err := d.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("determine post-processing: %w", err)
	}
	folder := filepath.Join(o.Prediction, processedName)
	if o.Keep {
		err = atomicfile.Replace(folder, func(temp string) error { return d.process(ctx, r, place, temp) })
	}
	if err == nil {
		err = write(o.Prediction, r.Operations, r.Before, r.After)
	}
	if err == nil && !o.Keep {
		err = os.RemoveAll(folder) // it is of earlier operations
	}
	return r, err
}

type determination struct {
	Options
	classes []evaluate.Class
	ignore  *int
	names   []string // of the label maps
	cases   []evaluate.Score
	reader  *imageio.Reader
}

// run finds the operations, and in which of nnU-Net's places the last accepted label maps lay.
func (d *determination) run(ctx context.Context) (r *Result, place string, err error) {
	scored, err := evaluate.Folder(ctx, d.Reference, d.Prediction, evaluate.Options{Work: d.Work, Classes: d.classes, Ignore: d.ignore,
		Ending: d.Ending, Reader: d.Reader, Chill: true, AsStored: true})
	if err != nil {
		return nil, "", err
	}
	if d.names, err = list(d.Prediction, d.Ending); err != nil {
		return nil, "", err
	}
	d.cases = scored.Cases
	references, err := list(d.Reference, d.Ending)
	if err != nil {
		return nil, "", err
	}
	if missing := len(references) - len(d.names); missing > 0 {
		slog.Warn("not all references have a prediction: post-processing should be determined on all cases of a dataset",
			"missing", missing, "of", len(references), "folder", d.Prediction)
	}
	if d.reader, err = imageio.ChooseReader(d.Reader, d.Ending, filepath.Join(d.Reference, d.names[0])); err != nil {
		return nil, "", err
	}
	r = &Result{}
	if r.Before, err = d.summary(scored); err != nil {
		return nil, "", err
	}
	current := scored

	all := Operation{Labels: d.Labels.Foreground(), Form: List}
	results, err := d.try(ctx, "all labels", nil, []Operation{all})
	if err != nil {
		return nil, "", err
	}
	better := results[0].ForegroundMean.Dice > current.ForegroundMean.Dice
	for key, m := range results[0].Mean {
		better = better && !(m.Dice < current.Mean[key].Dice)
	}
	r.Trials = append(r.Trials, Trial{all, current.ForegroundMean.Dice, results[0].ForegroundMean.Dice, better})
	if better {
		r.Operations, current, place = append(r.Operations, all), results[0], "keep_largest_fg"
	}

	var single []Operation
	for _, c := range d.classes {
		o := Operation{Labels: c.Values}
		if c.Region {
			o.Form = Tuple
		}
		single = append(single, o)
	}
	// An operation on one label changes no other label's figures, so one pass over the cases tries all labels. A region may
	// share labels with others: once one is accepted, those after it are tried on top of it.
	for from := 0; from < len(single) && len(single) > 1; {
		results, err := d.try(ctx, "each class", r.Operations, single[from:])
		if err != nil {
			return nil, "", err
		}
		next := len(single)
		for i := from; i < next; i++ {
			key, result := d.classes[i].Key(), results[i-from]
			before, after := current.Mean[key].Dice, result.Mean[key].Dice
			r.Trials = append(r.Trials, Trial{single[i], before, after, after > before})
			if !(after > before) {
				continue
			}
			r.Operations, place = append(r.Operations, single[i]), "keep_largest_perClassOrRegion"
			if d.Labels.HasRegions() {
				current, next = result, i+1
			} else {
				current = d.with(current, result, key)
			}
		}
		from = next
	}
	r.After = current
	if len(r.Operations) == 0 {
		r.After = r.Before
	}
	return r, place, nil
}

// summary is the summary.json of the predictions, which is written where there is none, or one of other figures.
func (d *determination) summary(scored *evaluate.Summary) (*evaluate.Summary, error) {
	path := filepath.Join(d.Prediction, summaryName)
	old, err := evaluate.ReadSummary(path)
	same := func(a, b evaluate.Metrics) bool {
		return a == b || math.IsNaN(a.Dice) && math.IsNaN(b.Dice) && a.NRef == b.NRef
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return scored, scored.WriteJSON(path)
	case err != nil:
		return nil, err
	case maps.EqualFunc(old.Mean, scored.Mean, same):
		return old, nil
	}
	slog.Warn("the scores that were there are of other label maps: they are written anew", "file", path)
	return scored, scored.WriteJSON(path)
}

// try scores every case after the operations of base and one candidate, for every candidate.
func (d *determination) try(ctx context.Context, what string, base, candidates []Operation) ([]*evaluate.Summary, error) {
	scores := make([][]evaluate.Score, len(candidates))
	for k := range scores {
		scores[k] = make([]evaluate.Score, len(d.names))
	}
	_, err := work.Each(ctx, d.Work, work.Cases{What: "trying " + what, IDs: ids(d.names, d.Ending), Need: func(i int) machine.Bytes {
		return need(4, filepath.Join(d.Reference, d.names[i]))
	}}, func(i int) error {
		reference, err := d.reader.ReadLabel(filepath.Join(d.Reference, d.names[i]))
		if err != nil {
			return err
		}
		prediction, err := d.reader.ReadLabel(filepath.Join(d.Prediction, d.names[i]))
		if err != nil {
			return err
		}
		size := prediction.Grid.Size
		Apply(base, prediction.Data, size)
		for k, o := range candidates {
			labels := prediction.Data
			if k < len(candidates)-1 {
				labels = slices.Clone(labels)
			}
			Apply([]Operation{o}, labels, size)
			scores[k][i].Metrics = evaluate.Count(reference.Data, labels, d.classes, d.ignore)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]*evaluate.Summary, len(candidates))
	for k := range out {
		out[k] = evaluate.Summarize(scores[k], d.classes)
	}
	return out, nil
}

// with is a summary with the figures of one class from another.
func (d *determination) with(s, other *evaluate.Summary, key string) *evaluate.Summary {
	cases := make([]evaluate.Score, len(s.Cases))
	for i, c := range s.Cases {
		cases[i].Metrics = maps.Clone(c.Metrics)
		cases[i].Metrics[key] = other.Cases[i].Metrics[key]
	}
	return evaluate.Summarize(cases, d.classes)
}

// process fills the folder of post-processed predictions: label maps and summary.json, or copies of all files of the
// predictions' folder where no operation was accepted.
func (d *determination) process(ctx context.Context, r *Result, place, folder string) error {
	if len(r.Operations) == 0 {
		return d.copyAll(folder)
	}
	if _, err := Folder(ctx, d.Prediction, folder, r.Operations, d.reader.Name, d.Ending, d.Work); err != nil {
		return err
	}
	s := *r.After
	s.Cases = slices.Clone(s.Cases)
	for i := range s.Cases {
		before, name := d.cases[i], d.names[i]
		s.Cases[i].Reference = before.Reference
		s.Cases[i].Prediction = strings.TrimSuffix(before.Prediction, name) + filepath.Join(processedName, "temp", place, name)
	}
	return s.WriteJSON(filepath.Join(folder, summaryName))
}

func (d *determination) copyAll(folder string) error {
	entries, err := os.ReadDir(d.Prediction)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if !e.Type().IsRegular() || name == PickleName || name == JSONName || strings.HasPrefix(name, ".") {
			continue
		}
		if err := atomicfile.Copy(filepath.Join(d.Prediction, name), filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	return nil
}
