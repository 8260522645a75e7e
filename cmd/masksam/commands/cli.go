package commands

import "masksam/internal/dataset"

// CLI is the grammar of masksam itself.
type CLI struct {
	Verbose bool `help:"Log more." short:"v"`

	Convert    convertCmd    `cmd:"" help:"Bring a published data set into nnU-Net's layout, or DICOM series into NIfTI."`
	Check      checkCmd      `cmd:"" help:"Check a raw dataset: all that is wrong with it, and what to do."`
	Splits     splitsCmd     `cmd:"" help:"Deal a dataset's cases out to folds, or check the folds that are there."`
	Plan       planCmd       `cmd:"" help:"Fingerprint a raw dataset and write its plans, with a recipe's network."`
	MovePlans  movePlansCmd  `cmd:"" help:"Give a dataset the plans of another one, so that both are preprocessed alike."`
	Preprocess preprocessCmd `cmd:"" help:"Crop, normalise and resample a planned dataset's cases."`
	Weights    weightsCmd    `cmd:"" help:"Inspect, convert and download files of weights."`
	Train      trainCmd      `cmd:"" help:"Train one fold, or go on with it."`
	Replay     replayCmd     `cmd:"" help:"Repeat one training step that was skipped, and tell what in it is not finite."`
	Predict    predictCmd    `cmd:"" help:"Label a folder of images with a trained model."`
	Evaluate   evaluateCmd   `cmd:"" help:"Score label maps against references; writes summary.json."`
	Compare    compareCmd    `cmd:"" help:"Compare two folders of predictions with the references, case by case, and test the difference."`
	Ensemble   EnsembleCmd   `cmd:"" help:"Average the probabilities of several predictions, of masksam or nnU-Net."`
	Accumulate AccumulateCmd `cmd:"" help:"Join the validation cases of a model's folds in one folder, and score them."`
	FindBest   BestCmd       `cmd:"" help:"Compare the models of a dataset, and their pairs, by cross-validation; tells how to use the best."`
	Post       postCmd       `cmd:"" name:"postprocess" help:"Keep largest components where cross-validation says that it helps."`
	Model      modelCmd      `cmd:"" help:"Describe, export and install trained models."`
	Info       infoCmd       `cmd:"" help:"Tell what an image file holds, or what there is of a dataset."`
	Overlay    overlayCmd    `cmd:"" help:"Draw cases with their labels, one by one or as a montage."`
	Verify     verifyCmd     `cmd:"" help:"Compute golden folders again and compare tensor by tensor."`
	Bench      benchCmd      `cmd:"" help:"Measure what the program does most against what the machine can do."`
	Doctor     doctorCmd     `cmd:"" help:"Examine engine, processor, memory, devices and folders."`
	Demo       demoCmd       `cmd:"" help:"Run every step on one real head: data, training, prediction, score, pictures."`
	Version    versionCmd    `cmd:"" help:"Tell the version and the engine's."`
}

// Roots are the three folders; a flag wins over its environment variable.
type Roots struct {
	Raw          string `help:"Folder of raw datasets." env:"nnUNet_raw" placeholder:"DIR"`
	Preprocessed string `help:"Folder of plans and preprocessed cases." env:"nnUNet_preprocessed" placeholder:"DIR"`
	Results      string `help:"Folder of trained models." env:"nnUNet_results" placeholder:"DIR"`
}

func (r Roots) roots() dataset.Roots { return dataset.Roots(r) }
