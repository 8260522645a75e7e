package steps

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"image/png"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/draw"
	"masksam/internal/evaluate"
	"masksam/internal/imageio"
)

// AssessOptions say what Assess measures beyond Evaluate.
type AssessOptions struct {
	EvaluateOptions
	Worst  int    // so many of the worst cases are listed
	Draw   bool   // and drawn, and the files that were compared get their digests
	Images string // folder of the images, as for prediction, that the pictures show; empty: they show the labels alone
}

// Assessment is an evaluation with all that a report on it needs.
type Assessment struct {
	Summary   *evaluate.Summary
	Classes   []evaluate.Class
	Names     map[string]string // of the classes, by key
	Ending    string            // of the files
	Tolerance map[string]float64
	Table     *evaluate.Table
	Worst     []WorstCase // the worst first
	Inputs    []Input
}

// WorstCase is one of the worst cases.
type WorstCase struct {
	Case    int    // in Summary.Cases
	Picture []byte // PNG; nil: none was asked for
	Note    string // why the picture lacks the image; empty: it does not
}

// Input is a folder or a file that was read.
type Input struct {
	What, Path string
	Files      int    // of the folder; 0: it is a file
	Digest     string // SHA-256 of the file; of a folder that of the lines that sha256sum writes for its files
}

// Assess scores a folder like Evaluate, and describes what it finds: intervals, the worst cases with pictures.
func Assess(ctx context.Context, o AssessOptions) (*Assessment, error) {
	opt, names, err := o.prepare()
	if err != nil {
		return nil, err
	}
	if o.Images != "" && !dataset.IsDir(o.Images) {
		return nil, fmt.Errorf("there is no folder %s of images", o.Images)
	}
	a := &Assessment{Classes: opt.Classes, Names: names, Ending: opt.Ending, Tolerance: opt.Tolerance}
	if a.Summary, err = o.score(ctx, opt); err != nil {
		return nil, err
	}
	a.Table = a.Summary.Table(opt.Classes, evaluate.Measures(o.Surfaces))
	for _, i := range a.Summary.Worst(opt.Classes, o.Worst) {
		w := WorstCase{Case: i}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if o.Draw {
			if w, err = a.picture(i, opt, o.Images); err != nil {
				return nil, err
			}
		}
		a.Worst = append(a.Worst, w)
	}
	if o.Draw {
		err = a.digests(o.EvaluateOptions)
	}
	return a, err
}

// picture draws a case.
func (a *Assessment) picture(i int, opt evaluate.Options, images string) (w WorstCase, err error) {
	s := a.Summary.Cases[i]
	w.Case = i
	reader, err := imageio.ChooseReader(opt.Reader, opt.Ending, s.Reference)
	if err != nil {
		return w, err
	}
	id := s.ID(a.Ending)
	var c *draw.Labelled
	if images != "" {
		path, err := imageOf(images, id, opt.Ending)
		if err == nil {
			c, err = readPair(reader, path, s.Reference, 0)
		}
		if err != nil {
			w.Note = "without the image: " + err.Error()
			slog.Warn("a picture lacks its image", "case", id, "why", err)
		}
	}
	if c == nil {
		l, err := reader.ReadLabel(s.Reference)
		if err != nil {
			return w, err
		}
		c = &draw.Labelled{Grid: l.Grid, Oriented: l.Oriented(), Labels: l.Data}
	}
	pred, err := reader.ReadLabel(s.Prediction)
	if err != nil {
		return w, err
	}
	img, err := c.Compared(pred.Data, id, func(label int) string {
		if name := a.Names[strconv.Itoa(label)]; name != "" {
			return name
		}
		return fmt.Sprintf("label %d", label)
	})
	if err != nil {
		return w, fmt.Errorf("draw %s: %w", id, err)
	}
	var b bytes.Buffer
	err = png.Encode(&b, img)
	w.Picture = b.Bytes()
	return w, err
}

// imageOf finds the file of a case's first channel.
func imageOf(dir, id, ending string) (string, error) {
	for _, name := range []string{id + "_0000" + ending, id + ending} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s has neither %s_0000%s nor %s%s", dir, id, ending, id, ending)
}

// digests reads again what was compared.
func (a *Assessment) digests(o EvaluateOptions) error {
	file := func(path string) (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		h := sha256.New()
		_, err = io.Copy(h, f)
		return hex.EncodeToString(h.Sum(nil)), err
	}
	for _, in := range []struct {
		what, dir string
		path      func(evaluate.Score) string
	}{{"references", o.Reference, func(s evaluate.Score) string { return s.Reference }},
		{"predictions", o.Prediction, func(s evaluate.Score) string { return s.Prediction }}} {
		all := sha256.New()
		for _, s := range a.Summary.Cases {
			digest, err := file(in.path(s))
			if err != nil {
				return err
			}
			fmt.Fprintf(all, "%s  %s\n", digest, filepath.Base(in.path(s)))
		}
		a.Inputs = append(a.Inputs, Input{in.what, in.dir, len(a.Summary.Cases), hex.EncodeToString(all.Sum(nil))})
	}
	path := o.Dataset
	if path == "" { // the labels were given by number
		return nil
	}
	if dataset.IsDir(path) {
		path = filepath.Join(path, dataset.FileName)
	}
	digest, err := file(path)
	a.Inputs = append(a.Inputs, Input{What: "dataset", Path: path, Digest: digest})
	return err
}

// DefaultTolerance of the surface Dice, in mm.
const DefaultTolerance = 1

// tolerances reads "2", or "1,liver=3,2=1.5": a tolerance in mm for all classes, then those of single ones by name or by key.
func tolerances(text string, classes []evaluate.Class, names map[string]string) (map[string]float64, error) {
	out := map[string]float64{}
	for _, c := range classes {
		out[c.Key()] = DefaultTolerance
	}
	if text == "" {
		return out, nil
	}
	// A region's key has commas of its own.
	depth := 0
	parts := strings.FieldsFunc(text, func(r rune) bool {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		}
		return r == ',' && depth == 0
	})
	set := map[string]bool{}
	for _, part := range parts {
		name, number, single := strings.Cut(part, "=")
		if !single {
			name, number = "", part
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(v >= 0) || math.IsInf(v, 1) {
			return nil, fmt.Errorf("the tolerance %q: it must be a number of mm from 0 on, such as 2 or liver=2", part)
		}
		name = strings.TrimSpace(name)
		found := false
		for key := range out {
			if single && (name == key || name == names[key]) {
				out[key], set[key], found = v, true, true
			}
			if !single && !set[key] {
				out[key] = v
			}
		}
		if single && !found {
			var known []string
			for _, c := range classes {
				known = append(known, strings.TrimSpace(c.Key()+" "+names[c.Key()]))
			}
			return nil, fmt.Errorf("the tolerance %q: there is no class %s; there are %s", part, name, strings.Join(known, ", "))
		}
	}
	return out, nil
}

// CompareOptions say what Compare compares. Prediction of EvaluateOptions is the folder A; Out is not used.
type CompareOptions struct {
	EvaluateOptions
	B string // the other folder of predictions
}

// Compare scores two folders of predictions of the same cases and compares them case by case. It writes nothing.
func Compare(ctx context.Context, o CompareOptions) (c *evaluate.Comparison, names map[string]string, err error) {
	opt, names, err := o.prepare()
	if err != nil {
		return nil, nil, err
	}
	if !dataset.IsDir(o.B) {
		return nil, nil, fmt.Errorf("compare with %s: there is no such folder of label maps", o.B)
	}
	a, err := evaluate.Folder(ctx, o.Reference, o.Prediction, opt)
	if err != nil {
		return nil, nil, err
	}
	b, err := evaluate.Folder(ctx, o.Reference, o.B, opt)
	if err != nil {
		return nil, nil, err
	}
	left, right := shared(a.Cases, b.Cases), shared(b.Cases, a.Cases)
	if len(left) == 0 {
		return nil, nil, errors.New("the two folders of predictions have no case in common")
	}
	if lost := len(a.Cases) + len(b.Cases) - 2*len(left); lost > 0 {
		slog.Warn("cases that only one of the two folders has are left out", "cases", lost, "compared", len(left))
	}
	return evaluate.Compare(left, right, opt.Classes, evaluate.Measures(o.Surfaces)), names, nil
}

// shared are the cases of a that b has too.
func shared(a, b []evaluate.Score) []evaluate.Score {
	return slices.DeleteFunc(slices.Clone(a), func(s evaluate.Score) bool {
		return !slices.ContainsFunc(b, func(t evaluate.Score) bool { return filepath.Base(s.Prediction) == filepath.Base(t.Prediction) })
	})
}
