// Package evaluate scores label maps against reference label maps as nnU-Net does and keeps its summary.json.
package evaluate

import (
	"context"
	"errors"
	"io"
)

// Class is what is scored: one label, or the union of several.
type Class struct {
	Values []int
	Region bool // written in dataset.json as a list; decides the key's text
}

// Label is the class of one label.
func Label(value int) Class { return Class{Values: []int{value}} }

// Region is the class of a list of labels taken together.
func Region(values ...int) Class { return Class{Values: values, Region: true} }

// Key is the class's key in summary.json, Python's text: "2", "(1, 2)", and "(3,)" for a list of one.
func (c Class) Key() string { return "" }

// Options say what Folder scores and how.
type Options struct {
	Classes []Class // foreground labels, or regions if dataset.json has any
	Ignore  *int    // voxels whose reference is this label count nowhere
	Ending  string  // of the files, such as ".nii.gz"
	Chill   bool    // a reference without a prediction is passed over; else it is an error
	Workers int     // cases at a time; 0: as many as there are CPUs
	// Progress, if set, is called after each case, from one goroutine at a time.
	Progress func(done, of int)
}

// Metrics are the figures of one class: counts of voxels, and ratios that are NaN where neither label map has the class.
type Metrics struct {
	Dice, IoU                   float64
	TP, FP, FN, TN, NPred, NRef float64 // whole numbers in a case, fractions in a mean
}

// Case is one pair of files.
type Case struct {
	Prediction, Reference string // paths
	Metrics               map[string]Metrics
}

// Summary is the content of summary.json. Metrics are keyed by Class.Key.
type Summary struct {
	ForegroundMean Metrics            // plain mean over classes, NaN if one is
	Mean           map[string]Metrics // mean over the cases where the figure is a number
	Cases          []Case             // in order of file name
}

// Folder scores every file with opt.Ending in predDir against the file of the same name in gtDir. Size and spacing of a
// pair must agree. All failing cases are named in the error.
func Folder(ctx context.Context, gtDir, predDir string, opt Options) (*Summary, error) {
	return nil, errors.ErrUnsupported
}

// Simple is nnU-Net's evaluate_simple: labels only, the ending taken from the first reference file.
func Simple(ctx context.Context, gtDir, predDir string, labels []int, opt Options) (*Summary, error) {
	return nil, errors.ErrUnsupported
}

// Pair scores one case from its two files.
func Pair(reference, prediction string, classes []Class, ignore *int) (Case, error) {
	return Case{}, errors.ErrUnsupported
}

// Count scores one case from label maps of equal size.
func Count(reference, prediction []int32, classes []Class, ignore *int) map[string]Metrics {
	return nil
}

// Summarize takes the means over cases.
func Summarize(cases []Case, classes []Class) *Summary { return nil }

// WriteJSON writes summary.json, byte for byte as nnU-Net does: keys sorted as text, the bare word NaN.
func (s *Summary) WriteJSON(path string) error { return errors.ErrUnsupported }

// ReadSummary reads a summary.json of ours or of nnU-Net; a missing number may be NaN or null.
func ReadSummary(path string) (*Summary, error) { return nil, errors.ErrUnsupported }

// Table prints the classes' mean scores; names, which may be nil, gives a class's name by its key.
func (s *Summary) Table(w io.Writer, names map[string]string) {}
