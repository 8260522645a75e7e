package steps

import (
	"context"

	"masksam/internal/model"
	"masksam/internal/predict"
	"masksam/internal/torch"
)

// PredictOptions say what Predict labels, and with which model.
type PredictOptions struct {
	Model      string      // folder of the model; empty: the one that Query finds
	Query      model.Query // used without Model
	Folds      []string    // to average; none: all numbered ones that are trained
	Checkpoint string      // of each fold; empty: checkpoint_final
	Weights    string      // file of the weights that a checkpoint on the way refers to; empty: it is looked for
	Device     torch.Device
	predict.Options
}

// Predict labels a folder of images (predict.Model.Folder) and names the model that it was done with.
func Predict(ctx context.Context, o PredictOptions) (folder string, err error) {
	if o.Model == "" {
		if o.Model, err = model.Find(o.Query); err != nil {
			return "", err
		}
	}
	if o.Checkpoint == "" {
		o.Checkpoint = model.Final
	}
	m, err := predict.Open(o.Model, o.Folds, o.Checkpoint, o.Weights, o.Device)
	if err != nil {
		return o.Model, err
	}
	defer m.Close()
	return o.Model, m.Folder(ctx, o.Options)
}
