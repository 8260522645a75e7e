package weights

import (
	"fmt"
	"slices"
	"strings"
)

// samPart is what stands before SAM's own names in a network of MaskSAM.
const samPart = "sam_model."

// storedName is the file's name for a parameter of a network: SAM's files lack the part before it.
func (f *File) storedName(parameter string) (string, bool) {
	if f.kind != NNUNet && f.find(samPart+"image_encoder.pos_embed") == nil {
		inner, ok := strings.CutPrefix(parameter, samPart)
		return inner, ok && f.find(inner) != nil
	}
	return parameter, f.find(parameter) != nil
}

// HasParameter tells whether the file has the values of a parameter of a network. SAM's files have those
// below sam_model.
func (f *File) HasParameter(name string) bool {
	_, ok := f.storedName(name)
	return ok
}

// Parameter reads the values of a network's parameter; it is an nn.Source. Values that are not finite are an error.
func (f *File) Parameter(name string) (data []float32, shape []int, err error) {
	inner, ok := f.storedName(name)
	if !ok {
		return nil, nil, fmt.Errorf("%s: has no tensor %q", f.path, name)
	}
	if data, shape, err = f.Float32s(inner); err != nil {
		return nil, nil, err
	}
	if i := slices.IndexFunc(data, func(v float32) bool { return v-v != 0 }); i >= 0 {
		return nil, nil, fmt.Errorf("%s is damaged: value %d of tensor %q is %v", f.path, i, inner, data[i])
	}
	return data, shape, nil
}

// Fit is how the tensors of a file fit the parameters of a network, by the network's names.
type Fit struct {
	Loaded     []string
	Fresh      []string // parameters that the file lacks
	LeftOver   []string // tensors of the file that the network lacks, by the file's names
	Mismatched []string // of another shape, with both
	Values     int      // loaded
}

// Fit compares the file with the names and shapes of a network's parameters. Those that skip names count as fresh.
func (f *File) Fit(names []string, shape func(name string) []int, skip func(name string) bool) Fit {
	var fit Fit
	used := map[string]bool{}
	for _, name := range names {
		inner, ok := f.storedName(name)
		if kept, alias := f.aliases[inner]; alias {
			used[kept] = true
		}
		used[inner] = true
		if !ok || skip(name) {
			fit.Fresh = append(fit.Fresh, name)
			continue
		}
		_, have, _ := f.Info(inner)
		want := shape(name)
		if !slices.Equal(have, want) {
			fit.Mismatched = append(fit.Mismatched, fmt.Sprintf("%s is %v in the file, %v in the network", name, have, want))
			continue
		}
		fit.Loaded = append(fit.Loaded, name)
		n := 1
		for _, d := range have {
			n *= d
		}
		fit.Values += n
	}
	for _, name := range f.names {
		if !used[name] && name != "pixel_mean" && name != "pixel_std" && !strings.HasPrefix(name, samPart+"pixel_") {
			fit.LeftOver = append(fit.LeftOver, name)
		}
	}
	return fit
}

// String is the report in one line: how many, and which where they are few.
func (f Fit) String() string {
	parts := []string{fmt.Sprintf("%d tensors loaded (%d values)", len(f.Loaded), f.Values)}
	for _, list := range []struct {
		what  string
		names []string
	}{{"fresh", f.Fresh}, {"left over", f.LeftOver}, {"of another shape", f.Mismatched}} {
		parts = append(parts, fmt.Sprintf("%d %s%s", len(list.names), list.what, few(list.names)))
	}
	return strings.Join(parts, ", ")
}

// few names what is not much.
func few(names []string) string {
	const most = 6
	if len(names) == 0 || len(names) > most {
		return ""
	}
	var shown []string
	for _, name := range names {
		shown = append(shown, Printable(name))
	}
	return " (" + strings.Join(shown, ", ") + ")"
}

// SAMName is an encoder of SAM in the field's words: SAM ViT-B for vit_b.
func SAMName(encoder string) string {
	_, letter, _ := strings.Cut(encoder, "_")
	return "SAM ViT-" + strings.ToUpper(letter)
}

// CheckEncoder refuses a file that is plainly not of the encoder of SAM that a recipe takes.
func (f *File) CheckEncoder(recipe, encoder string) error {
	if is := f.kind.Encoder(); is != "" && is != encoder {
		return fmt.Errorf("%s: this is %s, recipe %s takes %s", f.path, SAMName(is), recipe, strings.TrimPrefix(SAMName(encoder), "SAM "))
	}
	if f.kind == MaskSAM || f.kind == NNUNet {
		return fmt.Errorf("%s: this is a checkpoint of %s, recipe %s takes the weights of %s", f.path,
			map[Kind]string{MaskSAM: "MaskSAM", NNUNet: "nnU-Net"}[f.kind], recipe, SAMName(encoder))
	}
	return nil
}

// CheckSAM refuses a file that does not hold all of SAM's own part of a recipe's network, whose names and shapes are
// given.
func (f *File) CheckSAM(recipe, encoder string, names []string, shape func(name string) []int) error {
	fit := f.Fit(names, shape, func(string) bool { return false })
	switch {
	case len(fit.Mismatched) > 0:
		return fmt.Errorf("%s does not fit recipe %s, which takes %s: %s (%d tensors have another shape)", f.path, recipe,
			SAMName(encoder), fit.Mismatched[0], len(fit.Mismatched))
	case len(fit.Fresh) > 0:
		return fmt.Errorf("%s lacks %d of the %d tensors of %s, first %s", f.path, len(fit.Fresh), len(names), SAMName(encoder),
			strings.TrimPrefix(fit.Fresh[0], samPart))
	}
	return nil
}
