package evaluate

import (
	"errors"
	"fmt"
	"math"
	"os"

	"masksam/internal/atomicfile"
	"masksam/internal/pyjson"
)

// WriteJSON writes summary.json byte for byte as nnU-Net does: keys sorted as text, indented by 4, numbers as Python
// prints them, and the bare word NaN, which is not JSON but what its readers know. The file appears whole or not at all.
func (s *Summary) WriteJSON(path string) error {
	cases := make([]any, len(s.Cases))
	for i, c := range s.Cases {
		cases[i] = map[string]any{
			"metrics":         toJSON(c.Metrics, true),
			"prediction_file": c.Prediction,
			"reference_file":  c.Reference,
		}
	}
	file := s.Means()
	file["metric_per_case"] = cases
	if s.madeOf != "" {
		file["made_of"] = s.madeOf
	}
	b, err := pyjson.Marshal(file)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.WriteBytes(path, b)
}

// Means are the figures of summary.json without those of its cases, as a value for pyjson.Marshal.
func (s *Summary) Means() map[string]any {
	return map[string]any{"foreground_mean": s.ForegroundMean.toJSON(false), "mean": toJSON(s.Mean, false)}
}

func toJSON(classes map[string]Metrics, whole bool) map[string]any {
	out := make(map[string]any, len(classes))
	for key, m := range classes {
		out[key] = m.toJSON(whole)
	}
	return out
}

// toJSON gives counts as whole numbers, as a case has them, or as floats, as a mean has them.
func (m Metrics) toJSON(whole bool) map[string]any {
	out := map[string]any{}
	for _, f := range m.figures() {
		if v := *f.value; whole && f.count && v == math.Trunc(v) {
			out[f.key] = int64(v)
		} else {
			out[f.key] = v
		}
	}
	return out
}

// ReadSummary reads a summary.json of ours or of nnU-Net. A figure that is absent or null is NaN.
func ReadSummary(path string) (*Summary, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, err := parseSummary(b)
	if err != nil {
		return nil, fmt.Errorf("%s: not a summary.json: %w", path, err)
	}
	return s, nil
}

func parseSummary(text []byte) (*Summary, error) {
	file, err := pyjson.ParseObject(text)
	if err != nil {
		return nil, err
	}
	s := &Summary{}
	if err := member(file, "foreground_mean", func(v any) (err error) { s.ForegroundMean, err = metricsOf(v); return err }); err != nil {
		return nil, err
	}
	if err := member(file, "mean", func(v any) (err error) { s.Mean, err = classesOf(v); return err }); err != nil {
		return nil, err
	}
	err = member(file, "metric_per_case", func(v any) error {
		list, ok := v.([]any)
		if !ok {
			return errors.New("is no list")
		}
		for i, v := range list {
			one, _ := v.(*pyjson.Object)
			var c Score
			if err := member(one, "metrics", func(v any) (err error) { c.Metrics, err = classesOf(v); return err }); err != nil {
				return fmt.Errorf("case %d: %w", i, err)
			}
			for key, to := range map[string]*string{"prediction_file": &c.Prediction, "reference_file": &c.Reference} {
				v, _ := one.Get(key)
				*to, _ = v.(string)
			}
			s.Cases = append(s.Cases, c)
		}
		return nil
	})
	made, _ := file.Get("made_of")
	s.madeOf, _ = made.(string)
	return s, err
}

// member passes the value of a key to read.
func member(o *pyjson.Object, key string, read func(v any) error) error {
	v, ok := o.Get(key)
	if !ok {
		return fmt.Errorf("key %q is missing", key)
	}
	if err := read(v); err != nil {
		return fmt.Errorf("key %q: %w", key, err)
	}
	return nil
}

func classesOf(v any) (map[string]Metrics, error) {
	o, ok := v.(*pyjson.Object)
	if !ok {
		return nil, errors.New("does not map labels to figures")
	}
	out := map[string]Metrics{}
	for _, key := range o.Keys() {
		err := member(o, key, func(v any) (err error) { out[key], err = metricsOf(v); return err })
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func metricsOf(v any) (m Metrics, err error) {
	o, ok := v.(*pyjson.Object)
	if !ok {
		return m, errors.New("does not map names to figures")
	}
	for _, f := range m.figures() {
		v, _ := o.Get(f.key)
		switch v := v.(type) {
		case int:
			*f.value = float64(v)
		case float64:
			*f.value = v
		case nil:
			*f.value = math.NaN()
		default:
			return m, fmt.Errorf("%s is no number", f.key)
		}
	}
	return m, nil
}
