package plan

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"

	"masksam/internal/atomicfile"
	"masksam/internal/pyjson"
)

// Fingerprint is what planning needs to know of a dataset (dataset_fingerprint.json).
type Fingerprint struct {
	Intensity    []Intensity  // of the foreground, per channel
	RelativeSize float64      // median share of the voxels left after cropping to nonzero
	Shapes       [][3]int     // after cropping, per case, as read (z, y, x)
	Spacings     [][3]float64 // per case, as read

	pictures bool // of pictures, whose spacing (999, 1, 1) nnU-Net writes as whole numbers
}

// Intensity are the statistics of one channel's foreground voxels.
type Intensity struct {
	Max    float64 `json:"max"`
	Mean   float64 `json:"mean"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Low    float64 `json:"percentile_00_5"`
	High   float64 `json:"percentile_99_5"`
	Std    float64 `json:"std"`
}

// FingerprintName is the name of the file in a dataset's preprocessed folder.
const FingerprintName = "dataset_fingerprint.json"

// ReadFingerprint reads a dataset_fingerprint.json.
func ReadFingerprint(path string) (*Fingerprint, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read fingerprint: %w", err)
	}
	fp, err := parseFingerprint(text)
	if err != nil {
		return nil, fmt.Errorf("read fingerprint: %s: %w", path, err)
	}
	return fp, nil
}

func parseFingerprint(text []byte) (*Fingerprint, error) {
	doc, err := pyjson.ParseObject(text)
	if err != nil {
		return nil, err
	}
	if twice := pyjson.Repeated(doc); len(twice) > 0 {
		return nil, &pyjson.RepeatedError{Paths: twice}
	}
	fp := &Fingerprint{}
	var errs []error
	for key, into := range map[string]any{
		"median_relative_size_after_cropping": &fp.RelativeSize,
		"shapes_after_crop":                   &fp.Shapes,
		"spacings":                            &fp.Spacings,
	} {
		if ok, err := doc.Decode(key, into); err != nil {
			errs = append(errs, err)
		} else if !ok {
			errs = append(errs, fmt.Errorf("key %s is missing", key))
		}
	}
	v, _ := doc.Get("foreground_intensity_properties_per_channel")
	if fp.Intensity, err = intensities(v); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return fp, fp.check(len(fp.Intensity))
}

// intensities reads foreground_intensity_properties_per_channel.
func intensities(v any) ([]Intensity, error) {
	const key = "foreground_intensity_properties_per_channel"
	object, ok := v.(*pyjson.Object)
	if !ok {
		return nil, fmt.Errorf("key %s is missing or not an object", key)
	}
	out := make([]Intensity, len(object.Keys()))
	for c := range out {
		if ok, err := object.Decode(strconv.Itoa(c), &out[c]); err != nil {
			return nil, fmt.Errorf("key %s: channel %w", key, err)
		} else if !ok {
			return nil, fmt.Errorf(`key %s: channel "%d" is missing`, key, c)
		}
	}
	return out, nil
}

// check reports what no dataset can have.
func (fp *Fingerprint) check(channels int) error {
	switch {
	case len(fp.Shapes) == 0 || len(fp.Shapes) != len(fp.Spacings):
		return fmt.Errorf("fingerprint: %d shapes and %d spacings of cases", len(fp.Shapes), len(fp.Spacings))
	case len(fp.Intensity) != channels:
		return fmt.Errorf("fingerprint: intensities of %d channels, but the dataset has %d: extract the fingerprint "+
			"again", len(fp.Intensity), channels)
	}
	for i := range fp.Shapes {
		for a := range 3 {
			if s := fp.Spacings[i][a]; fp.Shapes[i][a] < 1 || !(s > 0) || math.IsInf(s, 0) {
				return fmt.Errorf("fingerprint: case %d has shape %v and spacing %v; all must be above 0", i, fp.Shapes[i], fp.Spacings[i])
			}
		}
	}
	return nil
}

// intensities as in the JSON of fingerprint and plans.
func (fp *Fingerprint) intensities() *pyjson.Object {
	out := pyjson.NewObject()
	for c, i := range fp.Intensity {
		out.Set(strconv.Itoa(c), pyjson.NewObject(
			"max", i.Max, "mean", i.Mean, "median", i.Median, "min", i.Min,
			"percentile_00_5", i.Low, "percentile_99_5", i.High, "std", i.Std,
		))
	}
	return out
}

// JSON is the text of dataset_fingerprint.json as nnU-Net writes it.
func (fp *Fingerprint) JSON() ([]byte, error) {
	spacings := any(fp.Spacings)
	if fp.pictures {
		spacings = slices.Repeat([][3]int{{999, 1, 1}}, len(fp.Spacings))
	}
	return pyjson.Marshal(map[string]any{
		"foreground_intensity_properties_per_channel": fp.intensities(),
		"median_relative_size_after_cropping":         fp.RelativeSize,
		"shapes_after_crop":                           fp.Shapes,
		"spacings":                                    spacings,
	})
}

// Write writes a dataset_fingerprint.json.
func (fp *Fingerprint) Write(path string) error {
	text, err := fp.JSON()
	if err != nil {
		return fmt.Errorf("write fingerprint: %w", err)
	}
	return atomicfile.WriteBytes(path, text)
}
