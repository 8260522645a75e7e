package steps

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"masksam/internal/model"
	"masksam/internal/modelzip"
	"masksam/internal/predict"
	"masksam/internal/remedy"
	"masksam/internal/torch"
)

// PredictOptions say what Predict labels, and with which model.
type PredictOptions struct {
	Model      string      // folder of the model, or a zip of models; empty: the one that Query finds
	Query      model.Query // used without Model, and for a zip of several models
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
	if info, err := os.Stat(o.Model); err == nil && info.Mode().IsRegular() {
		temp, err := os.MkdirTemp("", "masksam-*")
		if err != nil {
			return o.Model, err
		}
		defer os.RemoveAll(temp)
		if o.Model, err = unzip(ctx, o.Model, temp, o.Query); err != nil {
			return o.Model, err
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

// unzip unpacks a zip into a folder and gives the folder of its model; of several the only one that fits the query.
func unzip(ctx context.Context, zip, to string, q model.Query) (string, error) {
	models, err := modelzip.Unpack(ctx, zip, to, 0, nil)
	if err != nil {
		return zip, err
	}
	var all, found []string
	for _, m := range models {
		n, _ := model.ParseName(filepath.Base(m.Dir))
		if len(models) == 1 || n.Configuration == q.Configuration && (q.Trainer == "" || n.Trainer == q.Trainer) && (q.Plans == "" || n.Plans == q.Plans) {
			found = append(found, m.Dir)
		}
		all = append(all, filepath.Base(m.Dir))
	}
	if len(found) == 1 {
		return found[0], nil
	}
	err = fmt.Errorf("%s holds the models %s", zip, strings.Join(all, ", "))
	return zip, remedy.Add(err, "name one by ", remedy.Configuration.With("CONFIGURATION"), ", ", remedy.Trainer.With("TRAINER"), " and ",
		remedy.Plans.With("PLANS"))
}
