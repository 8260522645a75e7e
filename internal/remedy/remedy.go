// Package remedy holds what a person can do about an error, as values. A package says which option or command helps;
// the command line that was called knows what that option is called there (masksam train --continue, nnUNetv2_train
// --c) and writes it out. No other package below cmd spells a flag or a command line.
package remedy

import (
	"errors"
	"slices"
)

// Error is an error with advice. Its text is that of the error alone: the advice is shown once, at the end, by whoever
// shows the error to a person (All).
type Error struct {
	Err    error
	Remedy Remedy
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Remedy is a sentence in parts: text, Option and Command values, in order. Texts bring their own spaces.
type Remedy []any

// Add gives err advice; the parts are strings, Options and Commands. A nil err stays nil.
func Add(err error, parts ...any) error {
	if err == nil {
		return nil
	}
	return &Error{Err: err, Remedy: parts}
}

// All lists the advice of err and of the errors that it wraps, outermost first, each once. same tells whether two
// remedies read alike.
func All(err error, same func(a, b Remedy) bool) []Remedy {
	var out []Remedy
	var walk func(err error)
	walk = func(err error) {
		if e, ok := err.(*Error); ok && !slices.ContainsFunc(out, func(r Remedy) bool { return same(r, e.Remedy) }) {
			out = append(out, e.Remedy)
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			if inner := e.Unwrap(); inner != nil {
				walk(inner)
			}
		case interface{ Unwrap() []error }:
			for _, inner := range e.Unwrap() {
				walk(inner)
			}
		}
	}
	walk(err)
	return out
}

// As is the nearest advice that err carries, nil for none.
func As(err error) Remedy {
	var e *Error
	if errors.As(err, &e) {
		return e.Remedy
	}
	return nil
}

// Option is one option of a command, by its meaning: the name is that of masksam's own flag or argument, without
// dashes. Value is what to give it, empty for a switch.
type Option struct {
	Name, Value string
}

// With is the option with a value.
func (o Option) With(value string) Option {
	o.Value = value
	return o
}

// Options that errors advise. Each is a flag of at least one of masksam's commands (a test of cmd holds that).
var (
	Continue      = Option{Name: "continue"}
	Validate      = Option{Name: "validate"}
	Clean         = Option{Name: "clean"}
	Name          = Option{Name: "name"}
	Plans         = Option{Name: "plans"}
	Trainer       = Option{Name: "recipe"}
	Set           = Option{Name: "set"} // with KEY=VALUE
	Device        = Option{Name: "device"}
	Replicas      = Option{Name: "replicas"}
	Dataset       = Option{Name: "dataset"}
	GPUMemory     = Option{Name: "gpu-memory"}
	Precision     = Option{Name: "precision"}
	Memory        = Option{Name: "memory"}
	Workers       = Option{Name: "workers"}
	Fold          = Option{Name: "fold"}
	Raw           = Option{Name: "raw"}
	Preprocessed  = Option{Name: "preprocessed"}
	Results       = Option{Name: "results"}
	SkipMissing   = Option{Name: "skip-missing"}
	DatasetJSON   = Option{Name: "dataset-json"}
	ID            = Option{Name: "id"}
	Series        = Option{Name: "series"} // with the series to take
	Configuration = Option{Name: "config"}
	Dir           = Option{Name: "dir"}     // of the demo
	Weights       = Option{Name: "weights"} // a file, or none
	Pretrained    = Option{Name: "pretrained"}
	To            = Option{Name: "to"} // the folder of fetched weights
	NumParts      = Option{Name: "num-parts"}
	Part          = Option{Name: "part"}
	Previous      = Option{Name: "previous"} // the folder of the predictions of the stage before
	Probabilities = Option{Name: "probabilities"}
	NoEnsembles   = Option{Name: "no-ensembles"}
	Incomplete    = Option{Name: "incomplete"}
	Replace       = Option{Name: "replace"}
	MaxSize       = Option{Name: "max-size"}
)

// Command is a command line of masksam: its name ("plan", "convert dicom"), its arguments in order, its options.
type Command struct {
	Name    string
	Args    []string
	Options []Option
}

// Run is the advice to run a command on args.
func Run(name string, args ...string) Command { return Command{Name: name, Args: args} }

// With is the command with more options.
func (c Command) With(options ...Option) Command {
	c.Options = append(slices.Clone(c.Options), options...)
	return c
}
