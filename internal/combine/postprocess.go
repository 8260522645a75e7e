package combine

import (
	"context"

	"masksam/internal/postprocess"
	"masksam/internal/work"
)

// PostprocessOptions say for which label maps post-processing is determined.
type PostprocessOptions struct {
	work.Work
	Prediction, Reference  string // folders
	DatasetJSON, PlansJSON string // files that describe the label maps; empty: those of the predictions' folder
	Keep                   bool   // the post-processed predictions stay, in Prediction/postprocessed
}

// DeterminePostprocessing finds by the references which removals of small components raise the Dice of the predictions
// (postprocess.Determine).
func DeterminePostprocessing(ctx context.Context, o PostprocessOptions) (*postprocess.Result, error) {
	labels, err := describe(o.Prediction, o.DatasetJSON, o.PlansJSON)
	if err != nil {
		return nil, err
	}
	return postprocess.Determine(ctx, postprocess.Options{Work: o.Work, Prediction: o.Prediction, Reference: o.Reference,
		Labels: labels.Labels, Ending: labels.FileEnding, Reader: labels.Reader, Keep: o.Keep})
}

// ApplyOptions say which post-processing is applied to what.
type ApplyOptions struct {
	work.Work
	Input, Output          string // folders; Output must not exist, or be empty
	Operations             string // postprocessing.pkl or postprocessing.json
	DatasetJSON, PlansJSON string // files that describe the label maps; empty: those of Input
}

// ApplyPostprocessing carries out post-processing on every label map of a folder, into a folder that is whole or absent. It
// gives the operations and the number of label maps.
func ApplyPostprocessing(ctx context.Context, o ApplyOptions) (operations []postprocess.Operation, n int, err error) {
	if operations, err = postprocess.Read(o.Operations); err != nil {
		return nil, 0, err
	}
	labels, err := describe(o.Input, o.DatasetJSON, o.PlansJSON)
	if err != nil {
		return nil, 0, err
	}
	err = newFolder(o.Output, func(temp string) (err error) {
		n, err = postprocess.Folder(ctx, o.Input, temp, operations, labels.Reader, labels.FileEnding, o.Work)
		return err
	})
	return operations, n, err
}
