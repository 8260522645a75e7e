package model

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/checkpoint"
	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/torch"
	"masksam/internal/weights"
)

// NoWeights stands for a file of weights where none shall be taken.
const NoWeights = "none"

// StartOptions say what a training begins with, or goes on from.
type StartOptions struct {
	Weights    string // file of SAM's weights; NoWeights: from scratch; empty: the one that weights.Find finds
	Pretrained string // file of a MaskSAM checkpoint to begin with, in place of SAM's weights
	Fold       string // folder of the fold
	Continue   bool   // go on from the fold's newest checkpoint, if there is one
}

// Start is what a training begins with, or goes on from.
type Start struct {
	Resume   string   // checkpoint to go on from; empty: the training begins
	Frozen   *Frozen  // file of the weights that do not train; nil: none is frozen
	Digest   string   // of the file that the training began with; empty: none
	Notes    []string // for the log
	Warnings []string
	Report   string // how the file fitted the network, once there is one

	recipe *recipe.Recipe
	began  masksam.Config // the recipe's network before anything was set in it
	asked  StartOptions
	step   int           // of Resume
	file   *weights.File // of the frozen weights, or SAM's where all train; nil: none
	from   *Checkpoint   // to begin with
}

// OpenStart decides with which weights a training of the resolved recipe begins, or goes on, and sets in the recipe what
// follows from it: whether SAM's own parameters are frozen and, after a checkpoint, in which of the two ways the network
// computes. Nothing is written.
func OpenStart(r *recipe.Recipe, o StartOptions) (*Start, error) {
	s := &Start{recipe: r, began: r.Network, asked: o}
	if r.UNet != nil {
		return s, s.openUNet()
	}
	if o.Continue {
		was, err := s.newest()
		if err != nil {
			return nil, err
		}
		if s.Resume != "" {
			if err := s.goOn(was, o); err != nil {
				return nil, fmt.Errorf("go on from %s: %w", s.Resume, err)
			}
			return s, nil
		}
	}
	var err error
	switch {
	case o.Pretrained != "" && o.Weights != "":
		err = errors.New("begin with SAM's weights or with those of a checkpoint, not with both")
	case o.Pretrained != "":
		err = s.pretrained(o.Pretrained)
	case o.Weights == NoWeights, o.Weights == "" && r.SAM == "":
		s.scratch()
	case r.SAM == "":
		err = fmt.Errorf("recipe %s begins with no weights: its encoder is none of SAM's", r.Short)
	default:
		err = s.sam(o.Weights)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Again decides anew where the fold's newest checkpoint is another by now: whoever has locked the fold calls it, since until
// then another process may have trained it.
func (s *Start) Again() error {
	if !s.asked.Continue {
		return nil
	}
	now := &Start{asked: s.asked}
	if _, err := now.newest(); err != nil || now.Resume == s.Resume && now.step == s.step {
		return err
	}
	s.recipe.Network = s.began
	fresh, err := OpenStart(s.recipe, s.asked)
	if err == nil {
		err = s.Close()
		*s = *fresh
	}
	return err
}

// newest finds the checkpoint of a fold to go on from, and opens none where there is none. Checkpoints that cannot be opened
// are left out with a warning, unless all of them are. A fold that another program trained is refused.
func (s *Start) newest() (was Meta, err error) {
	name, step, was, err := Newest(s.asked.Fold)
	if s.step = step; step < 0 {
		return was, errors.Join(err, foreign(s.asked.Fold))
	}
	s.Resume = CheckpointPath(s.asked.Fold, name)
	if err != nil {
		s.Warnings = []string{fmt.Sprintf("a checkpoint cannot be read and is left out, the run goes on from another one, %s: %v",
			filepath.Base(s.Resume), err)}
	}
	return was, nil
}

// foreign refuses a fold with checkpoints of another program, whose training nothing here goes on with: a run that began anew
// beside them would hide them from prediction.
func foreign(fold string) error {
	var theirs []string
	for _, name := range Checkpoints {
		if name += PublishedExt; atomicfile.Exists(filepath.Join(fold, name)) {
			theirs = append(theirs, name)
		}
	}
	if len(theirs) == 0 {
		return nil
	}
	err := fmt.Errorf("%s was trained by another program, whose run cannot be gone on with here: it holds %s", fold,
		strings.Join(theirs, ", "))
	return remedy.Add(err, "move what it holds to another folder, and begin a new run with those weights with ",
		remedy.Pretrained.With("FILE"), ", or from scratch")
}

// Newest is the name of the checkpoint with most steps in a fold's folder, of equals checkpoint_final, so that a finished
// run whose extension was stopped goes on with the extension. There is none where step is -1. The error is that of
// checkpoints that cannot be opened.
func Newest(fold string) (name string, step int, was Meta, err error) {
	step = -1
	for _, n := range Checkpoints {
		path := CheckpointPath(fold, n)
		if !atomicfile.Exists(path) {
			continue
		}
		var st struct {
			Meta
			Step int
		}
		file, failed := OpenCheckpoint(path, &st)
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		file.Close()
		if st.Step > step {
			name, step, was = n, st.Step, st.Meta
		}
	}
	return name, step, was, err
}

// follow makes the recipe's network compute as that of a checkpoint, and says so where it did not.
func (s *Start) follow(n masksam.Config, all bool) {
	own := &s.recipe.Network
	if own.DepthAxis != n.DepthAxis || own.AuxLogits != n.AuxLogits {
		s.Notes = append(s.Notes, fmt.Sprintf("The network computes as the checkpoint's: depth_axis %s and aux_logits %s, "+
			"where the recipe has %s and %s.", n.DepthAxis, n.AuxLogits, own.DepthAxis, own.AuxLogits))
	}
	own.DepthAxis, own.AuxLogits, own.TrainAll = n.DepthAxis, n.AuxLogits, all
}

// goOn opens what the run that a checkpoint is of began with. Other weights are refused.
func (s *Start) goOn(was Meta, o StartOptions) (err error) {
	if was.Origin != nil {
		s.Digest = was.Origin.Weights
	}
	s.follow(was.Recipe.Network, was.Recipe.Network.TrainAll)
	s.Notes = nil // the run's log has them
	given := o.Weights
	switch {
	case o.Pretrained != "":
		return errHasWeights
	case given == NoWeights && s.Digest == "", given == "":
		given = ""
	case s.Digest == "":
		return fmt.Errorf("the run began from scratch, it cannot go on with %s", given)
	case given == NoWeights:
		return errors.New("the run began with weights, it cannot go on from scratch")
	}
	switch s.Frozen = was.Frozen; {
	case s.Frozen != nil:
		if given == "" && CheckpointName(s.Resume) == Final {
			s.file, err = s.Frozen.try(s.Resume) // it has all weights, and needs no other file
		}
		if s.file == nil {
			s.file, err = s.Frozen.open(given, o.Fold)
		}
		if err == nil {
			s.Frozen, err = s.Frozen.at(s.file)
		}
	case given != "":
		err = same(given, s.Digest)
	}
	return err
}

// same refuses a file of another digest.
func same(path, digest string) error {
	f, err := weights.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if sum, err := f.Digest(); err != nil || sum != digest {
		return errors.Join(err, fmt.Errorf("the run began with a file with the SHA-256 %s, %s has %s", digest, path, sum))
	}
	return nil
}

func (s *Start) scratch() {
	n := &s.recipe.Network
	n.TrainAll = true
	text := "No weights are loaded: every parameter starts at random and trains."
	if s.recipe.SAM != "" {
		text += fmt.Sprintf(" The published method of %s begins with the weights of %s and keeps them: from scratch it is another "+
			"one, with more to learn, and the published Dice cannot be expected.", s.recipe.Name, weights.SAMName(s.recipe.SAM))
	}
	s.Notes = append(s.Notes, text)
}

// sam opens SAM's weights: the given file, or the one that is found.
func (s *Start) sam(path string) (err error) {
	r := s.recipe
	if path == "" {
		if path, err = weights.Find(r.SAM, ""); err != nil {
			err = fmt.Errorf("recipe %s begins with the weights of %s: %w", r.Short, weights.SAMName(r.SAM), err)
			return remedy.Add(err, "name their file with ", remedy.Weights.With("FILE"),
				"; to train every parameter from scratch, which is not the published method, take ", remedy.Weights.With(NoWeights))
		}
	}
	if s.file, err = weights.Open(path); err != nil {
		return err
	}
	if err = s.file.CheckEncoder(r.Short, r.SAM); err == nil {
		s.Frozen, err = newFrozen(s.file)
	}
	if err != nil {
		s.file.Close()
		return err
	}
	s.Frozen.Encoder = r.SAM // also of a file that is like it, but not the published one
	s.Digest = s.Frozen.SHA256
	what := "its tensors are frozen"
	if r.Network.TrainAll {
		what, s.Frozen = "its tensors train, since train_all is set", nil
	}
	s.Notes = append(s.Notes, fmt.Sprintf("Weights of %s: %s (SHA-256 %s); %s.", weights.SAMName(r.SAM), path, s.Digest, what))
	return nil
}

// apart refuses to begin with a file in the fold's own folder.
func (s *Start) apart(path string) error {
	if beside, err := os.Stat(filepath.Dir(path)); err == nil {
		if own, err := os.Stat(s.asked.Fold); err == nil && os.SameFile(beside, own) {
			return fmt.Errorf("%s lies in the folder of the fold to train, which renames an earlier run's checkpoints and later "+
				"removes them: copy it to another folder and begin with the copy", path)
		}
	}
	return nil
}

// pretrained opens a MaskSAM checkpoint to begin with: one of this program, or of the published code.
func (s *Start) pretrained(path string) (err error) {
	if err = s.apart(path); err != nil {
		return err
	}
	var meta Meta
	if s.from, meta, err = openWeights(path, ""); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.from.Close()
		}
	}()
	if kind := s.from.own.Kind(); kind != weights.MaskSAM && s.from.frozen == nil {
		return fmt.Errorf("%s: this is no checkpoint of MaskSAM (kind: %s); SAM's own weights are another option", path, kind)
	}
	s.file = s.from.holder(positions)
	made, err := newFrozen(s.file)
	if err != nil {
		return err
	}
	if s.Digest, err = s.from.own.Digest(); err != nil {
		return err
	}
	n, author := meta.Recipe.Network, "this program"
	if meta.Version == 0 {
		author = "the published code"
		n.DepthAxis, n.AuxLogits = published.DepthAxis, published.AuxLogits
	}
	all, what := s.recipe.Network.TrainAll, "SAM's part of it is frozen, as it was when the checkpoint was trained"
	switch {
	case n.TrainAll:
		what = "all of it trains, as when the checkpoint was trained"
	case all:
		what = "all of it trains, since train_all is set"
	default:
		s.Frozen = made
	}
	s.follow(n, all || n.TrainAll)
	s.Notes = append(s.Notes, fmt.Sprintf("Begins with the checkpoint %s of %s (SHA-256 %s); %s.", path, author, s.Digest, what))
	for _, note := range s.from.own.Notes() {
		s.Notes = append(s.Notes, path+": "+note+".")
	}
	return nil
}

// Holds tells whether a parameter does not train and has its values in the frozen file.
func (s *Start) Holds(name string) bool {
	return s.Frozen != nil && !s.recipe.Network.Trains(name) && s.file.HasParameter(name)
}

// FrozenValues reads the values of a frozen parameter, as an nn.Source.
func (s *Start) FrozenValues(name string) ([]float32, []int, error) { return s.file.Parameter(name) }

// FrozenTensors are the frozen ones of parameters, for a checkpoint, which reads them from their file one at a time.
func (s *Start) FrozenTensors(params *nn.Params) (tensors []checkpoint.Tensor) {
	for _, p := range params.All() {
		if !s.Holds(p.Name) {
			continue
		}
		read := func(write func([]byte) error) error {
			data, shape, err := s.FrozenValues(p.Name)
			if err != nil {
				return err
			}
			return write(checkpoint.Float32Tensor(p.Name, data, shape...).Data)
		}
		tensors = append(tensors, checkpoint.Tensor{Name: p.Name, DType: checkpoint.F32, Shape: p.Value.Shape(), Stream: read})
	}
	return tensors
}

// Unchanged is an error where the file of the frozen weights is no longer what the run began with. Of a checkpoint of the
// fold, whose checksum was compared when it was opened, nobody but this run writes another.
func (s *Start) Unchanged() error {
	if s.Frozen == nil || s.Frozen.copied(s.file) {
		return nil
	}
	return s.file.Unchanged()
}

// Close closes the files.
func (s *Start) Close() error {
	switch {
	case s.from != nil:
		return s.from.Close()
	case s.file != nil:
		return s.file.Close()
	}
	return nil
}

// Network makes the recipe's network with the weights to begin with. Where the training goes on, what is not frozen
// has no values: they are the checkpoint's to give. Nothing that is loaded is filled at random before.
func (s *Start) Network(r recipe.Recipe, dev torch.Device, seed uint64) (nn.Network, error) {
	if r.UNet != nil {
		return s.unet(r.UNet, dev, seed)
	}
	net, err := s.masksam(r.Network, dev, seed)
	if err != nil {
		return nil, err
	}
	return net, nil
}

func (s *Start) masksam(c masksam.Config, dev torch.Device, seed uint64) (*masksam.Net, error) {
	switch {
	case s.Resume != "":
		all := func(string) bool { return true }
		return masksam.From(c, dev, seed, all, func(p *nn.Params) error { return p.LoadSome(s.Holds, s.FrozenValues) })
	case s.from != nil:
		return masksam.From(c, dev, seed, s.begun, s.begin)
	case s.file != nil:
		return masksam.From(c, dev, seed, s.file.HasParameter, s.begin)
	}
	return masksam.New(c, dev, seed)
}

// classes is the part of a network that depends on the number of classes.
const classes = "sam_model.mask_decoder.classifier_embed_Adapter."

// begun tells whether the checkpoint to begin with has a parameter that fits the network's classes.
func (s *Start) begun(name string) bool {
	if strings.HasPrefix(name, classes) {
		_, shape, err := s.from.Float32s(classes + "bias")
		if err != nil || len(shape) != 1 || shape[0] != s.recipe.Network.Classes+1 {
			return false
		}
	}
	return s.from.Has(name)
}

// begin loads a file into a network's parameters and reports how it fits. nnU-Net's rule for a checkpoint
// (load_pretrained_weights.py): all but the layer that gives the classes must be there, in the same shape.
func (s *Start) begin(p *nn.Params) error {
	var names, sam []string
	for _, q := range p.All() {
		names = append(names, q.Name)
		if masksam.OfSAM(q.Name) {
			sam = append(sam, q.Name)
		}
	}
	shape := func(name string) []int { return p.Lookup(name).Value.Shape() }
	if s.from == nil {
		if err := s.file.CheckSAM(s.recipe.Short, s.recipe.SAM, sam, shape); err != nil {
			return err
		}
		s.Report = s.file.Fit(names, shape, func(string) bool { return false }).String()
		return p.LoadSome(s.file.HasParameter, s.file.Parameter)
	}
	skip := func(name string) bool { return !s.begun(name) }
	fit := s.from.own.Fit(names, shape, skip)
	fit.LeftOver = slices.DeleteFunc(fit.LeftOver, func(name string) bool { // not the network's, but the run's
		return strings.HasPrefix(name, TrainedPrefix) || strings.HasPrefix(name, OptimizerPrefix)
	})
	if s.from.frozen != nil {
		rest := s.from.frozen.Fit(fit.Fresh, shape, skip)
		fit.Loaded, fit.Values, fit.Fresh = append(fit.Loaded, rest.Loaded...), fit.Values+rest.Values, rest.Fresh
		fit.Mismatched = append(fit.Mismatched, rest.Mismatched...)
	}
	for _, name := range fit.Fresh {
		if !strings.HasPrefix(name, classes) {
			return fmt.Errorf("%s lacks %s, one of %d parameters that it lacks; was it trained with another recipe?", s.from.own.Path(),
				name, len(fit.Fresh))
		}
	}
	if len(fit.Mismatched) > 0 {
		return fmt.Errorf("%s does not fit the network: %s (%d tensors have another shape); was it trained with another recipe or "+
			"patch?", s.from.own.Path(), fit.Mismatched[0], len(fit.Mismatched))
	}
	if len(fit.Fresh) > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("The checkpoint was trained for another number of classes than %d: the layer that "+
			"gives the classes starts fresh.", s.recipe.Network.Classes))
	}
	s.Report = fit.String()
	return p.LoadSome(s.begun, s.from.Float32s)
}
