package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/imageio"
	"masksam/internal/pyjson"
)

// FileName is the name of the description in a dataset's folder.
const FileName = "dataset.json"

// Read reads a dataset.json, or the one in a folder. The error joins a *Finding for every broken rule.
func Read(path string) (*Dataset, error) {
	if IsDir(path) {
		path = filepath.Join(path, FileName)
	}
	doc, wrong := readObject(path)
	if wrong != nil {
		return nil, wrong
	}
	return Parse(doc, path)
}

// Parse takes the content of a dataset.json; path names it in the error, which joins a *Finding for every broken rule.
func Parse(doc *pyjson.Object, path string) (*Dataset, error) {
	d, found := parse(doc, path)
	if err := join(found); err != nil {
		return nil, err
	}
	return d, nil
}

// ReadAll reads a dataset.json as far as it can be read, and finds all rules that it breaks. What is broken is empty in
// the dataset; nil stands for a file that is no JSON object.
func ReadAll(path string) (*Dataset, []*Finding) {
	doc, wrong := readObject(path)
	if wrong != nil {
		return nil, []*Finding{wrong}
	}
	d, found := parse(doc, path)
	if l := d.Labels; l != nil && l.regions && l.gap(path) != nil {
		found = append(found, l.gap(path))
	}
	return d, found
}

func readObject(path string) (*pyjson.Object, *Finding) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		f := NewFinding("DATASET_JSON_MISSING", path,
			"every dataset needs one (channel_names, labels, numTraining, file_ending)", "the file is missing")
		if near := misnamed(path); near != "" {
			f.Text += ", but there is " + near
			f.Remedy = fmt.Sprintf("rename %s to %s", near, FileName)
		}
		return nil, f
	}
	if err != nil {
		var at *fs.PathError
		if errors.As(err, &at) {
			err = at.Err
		}
		return nil, NewFinding("DATASET_JSON_INVALID", path, "put a file there that can be read", "the file cannot be read: %v", err)
	}
	doc, err := pyjson.ParseObject(text)
	if err != nil {
		return nil, NewFinding("DATASET_JSON_INVALID", path, "correct the JSON", "%v", err)
	}
	return doc, nil
}

// misnamed is a file that may have been meant as the dataset.json: Dataset.json, dataset.json.txt.
func misnamed(path string) string {
	entries, _ := os.ReadDir(filepath.Dir(path)) // no folder has no such file
	for _, e := range entries {
		name := strings.ToLower(e.Name())
		if !e.IsDir() && slices.Contains([]string{FileName, FileName + ".txt", "dataset.txt", "dataset", "dataset.jsn"}, name) {
			return e.Name()
		}
	}
	return ""
}

// parser reads what all work on a dataset needs; the integrity check asks for more.
type parser struct {
	path  string
	d     *Dataset
	found []*Finding
}

func (p *parser) fail(code, remedy, format string, args ...any) {
	p.found = append(p.found, NewFinding(code, p.path, remedy, format, args...))
}

func parse(doc *pyjson.Object, path string) (*Dataset, []*Finding) {
	d := &Dataset{Dir: filepath.Dir(path), Doc: doc, NumTraining: -1}
	p := &parser{path: path, d: d}
	repeated := p.repeated()
	channels := "channel_names"
	if !doc.Has(channels) && doc.Has("modality") {
		channels = "modality"
	}
	if v, ok := doc.Get(channels); ok && !repeated[channels] {
		d.Channels = p.channelNames(channels, v)
	}
	if doc.Has("labels") && !repeated["labels"] && !repeated["regions_class_order"] {
		labels, wrong := ReadLabels(doc, p.path)
		d.Labels = labels
		p.found = append(p.found, wrong...)
	}
	if v, ok := doc.Get("numTraining"); ok && !repeated["numTraining"] {
		if n, ok := integer(v); ok && n >= 0 {
			d.NumTraining = n
		} else {
			p.fail("NUM_TRAINING_INVALID", "give the number of training cases, as 20", "numTraining is %s", pyjson.Describe(v))
		}
	}
	if v, ok := doc.Get("file_ending"); ok && !repeated["file_ending"] {
		d.FileEnding = p.fileEnding(v)
	}
	if v, ok := doc.Get("overwrite_image_reader_writer"); ok && v != nil && v != "None" {
		if d.Reader, ok = v.(string); !ok {
			d.Reader = pyjson.Describe(v)
		}
	}
	if missing := MissingKeys(d, channels, "labels", "numTraining", "file_ending"); missing != nil {
		p.found = append(p.found, missing)
	}
	return d, p.found
}

// meaning are the keys of a dataset.json that decide something: given twice, nobody knows what is meant.
var meaning = []string{"channel_names", "modality", "labels", "regions_class_order", "numTraining", "file_ending",
	"overwrite_image_reader_writer", "dataset"}

// repeated finds keys given more than once, of which Python takes the last without a word, and tells which top-level
// keys are not to be trusted for them.
func (p *parser) repeated() map[string]bool {
	out := map[string]bool{}
	for _, path := range pyjson.Repeated(p.d.Doc) {
		top, rest, inner := strings.Cut(path, ".")
		if !slices.Contains(meaning, top) {
			continue
		}
		out[top] = true
		if inner {
			p.fail("KEY_REPEATED", "keep one of them, or give the other a key of its own",
				"the key %q comes more than once in %s", rest, top)
		} else {
			p.fail("KEY_REPEATED", "keep one of them", "the key %q comes more than once", top)
		}
	}
	return out
}

// channelNames reads {"0": "CT", …}.
func (p *parser) channelNames(key string, v any) (names []string) {
	const code = "CHANNEL_NAMES_INVALID"
	remedy := `write channel_names as {"0": "CT", …}`
	object, ok := v.(*pyjson.Object)
	if !ok {
		if list, isList := v.([]any); isList && len(list) > 0 {
			remedy = "write channel_names as " + numbered(list)
		} else if text, isText := v.(string); isText && text != "" {
			remedy = "write channel_names as " + numbered([]any{v})
		}
		p.fail(code, remedy, "%s is %s, not an object of numbers and names", key, pyjson.Describe(v))
		return nil
	}
	keys := object.Keys()
	if len(keys) == 0 {
		p.fail(code, remedy, "%s names no channel", key)
		return nil
	}
	reversed := true
	for _, number := range keys {
		name, _ := object.Get(number)
		_, isNumber := integer(number)
		_, isName := name.(string)
		_, counts := integer(name)
		reversed = reversed && !isNumber && counts
		if isName {
			names = append(names, name.(string))
		}
	}
	switch {
	case reversed:
		var list []any
		for _, name := range keys {
			list = append(list, name)
		}
		p.fail(code, "write channel_names as "+numbered(list), "names and numbers of %s are the wrong way round", key)
		return nil
	case len(names) < len(keys):
		p.fail(code, remedy, "%s is %s: a channel's name is a text in double quotes", key, oneLine(object))
		return nil
	}
	return names
}

// numbered writes names as channel_names has them.
func numbered(names []any) string {
	o := pyjson.NewObject()
	for i, name := range names {
		o.Set(fmt.Sprint(i), name)
	}
	return oneLine(o)
}

// oneLine is a value as JSON in one line.
func oneLine(v any) string {
	text, err := pyjson.Marshal(v)
	if err != nil {
		return pyjson.Describe(v)
	}
	return strings.NewReplacer("{ ", "{", " }", "}", "[ ", "[", " ]", "]").Replace(strings.Join(strings.Fields(string(text)), " "))
}

// fileEnding reads the ending; one that is no whole ending of an image format, though the images have one, is wrong
// here, not in the files' names.
func (p *parser) fileEnding(v any) string {
	const code = "FILE_ENDING_INVALID"
	ending, ok := v.(string)
	if !ok || ending == "" {
		p.fail(code, `give it with its dot, e.g. ".nii.gz"`, "file_ending is %s", pyjson.Describe(v))
		return ""
	}
	whole := "." + strings.TrimLeft(strings.TrimSpace(ending), ".*")
	known := imageio.Ending("x"+whole) == whole
	if known && whole == ending || strings.HasSuffix(whole, "/") {
		return ending
	}
	dir := filepath.Join(p.d.Dir, "imagesTr")
	found, n := commonEnding(dir)
	switch fits, _, strangers, _ := group(dir, ending); {
	case len(fits) > 0 && len(strangers) == 0: // odd, but nnU-Net's names fit it
		return ending
	case n > 0 && found != ending:
		p.fail(code, fmt.Sprintf(`write "file_ending": %q in dataset.json; the files are right`, found),
			"file_ending is %q, but the images end in %q", ending, found)
	case known:
		p.fail(code, fmt.Sprintf(`write "file_ending": %q`, whole),
			"file_ending is %q; it is a dot and what follows it in the files' names", ending)
	default:
		return ending // no image says more: choosing a reader will
	}
	return ""
}

// near are names under which required keys are given by mistake, or by older formats.
var near = map[string][]string{
	"channel_names": {"modality", "modalities", "channels", "channel_name", "channelnames"},
	"labels":        {"label", "classes", "label_names"},
	"numTraining":   {"num_training", "numtrain", "num_train", "numtrainingcases"},
	"file_ending":   {"file_endings", "fileending", "file_extension", "file_suffix", "extension", "suffix"},
}

// MissingKeys finds which of the required keys a dataset.json lacks, with those that mean nothing and may be misspelt
// ones; nil if it has all.
func MissingKeys(d *Dataset, required ...string) *Finding {
	path := filepath.Join(d.Dir, FileName)
	var missing, unused, remedies []string
	for _, key := range required {
		if !d.Doc.Has(key) {
			missing = append(missing, key)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	known := append(slices.Clone(required), optional...)
	for _, key := range d.Doc.Keys() {
		if !slices.Contains(known, key) {
			unused = append(unused, key)
		}
	}
	for _, key := range missing {
		misspelt := slices.IndexFunc(unused, func(other string) bool {
			return strings.EqualFold(other, key) || slices.Contains(near[key], strings.ToLower(other))
		})
		ending, n := "", 0
		if key == "file_ending" {
			ending, n = commonEnding(filepath.Join(d.Dir, "imagesTr"))
		}
		switch {
		case misspelt >= 0:
			remedies = append(remedies, fmt.Sprintf("rename %s to %s", unused[misspelt], key))
		case n > 0:
			remedies = append(remedies, fmt.Sprintf(`add "file_ending": %q`, ending))
		default:
			remedies = append(remedies, "add "+key)
		}
	}
	f := NewFinding("KEYS_MISSING", path, strings.Join(remedies, ", "), "required keys are missing: %s", strings.Join(missing, ", "))
	if len(unused) > 0 {
		f.Text += "; keys without a meaning: " + strings.Join(unused, ", ")
	}
	if d.Doc.Has("modality") && (d.Doc.Has("training") || d.Doc.Has("numTest")) {
		f.Text += "; it is a dataset.json of nnU-Net 1 or the Medical Segmentation Decathlon"
		f.Remedy = "convert the dataset (command convert), or " + f.Remedy
	}
	return f
}

// optional are the keys of a dataset.json that are not required.
var optional = []string{"regions_class_order", "overwrite_image_reader_writer", "dataset", "name", "description", "reference",
	"release", "licence", "license", "citation", "converted_by", "tensorImageSize"}
