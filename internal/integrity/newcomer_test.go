package integrity

import (
	"os"
	"slices"
	"strings"
	"testing"

	"masksam/internal/dataset"
)

// descriptions are dataset.json files as newcomers write them for the sound dataset: each is wrong in one way, and must
// be told of in one finding that says what to write instead.
var descriptions = []struct {
	name, text, code string
	words            []string
}{
	{`file ending nii.gz`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": "nii.gz"}`, "FILE_ENDING_INVALID", []string{`file_ending is "nii.gz", but the images end in ".nii.gz"`, `write "file_ending": ".nii.gz"`}},
	{`file ending .gz`, `{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".gz"}`, "FILE_ENDING_INVALID", []string{`file_ending is ".gz", but the images end in ".nii.gz"`, `write "file_ending": ".nii.gz"`}},
	{`file ending gz`, `{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": "gz"}`, "FILE_ENDING_INVALID", []string{`file_ending is "gz", but the images end in ".nii.gz"`, `write "file_ending": ".nii.gz"`}},
	{`file ending *.nii.gz`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": "*.nii.gz"}`, "FILE_ENDING_INVALID", []string{`file_ending is "*.nii.gz", but the images end in ".nii.gz"`, `write "file_ending": ".nii.gz"`}},
	{`file ending nii`, `{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": "nii"}`, "FILE_ENDING_INVALID", []string{`file_ending is "nii", but the images end in ".nii.gz"`, `write "file_ending": ".nii.gz"`}},
	{`file ending .nii.gz`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz "}`, "FILE_ENDING_INVALID", []string{`file_ending is ".nii.gz ", but the images end in ".nii.gz"`, `write "file_ending": ".nii.gz"`}},
	{`file ending _0000.nii.gz`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": "_0000.nii.gz"}`, "FILE_ENDING_INVALID", []string{`file_ending is "_0000.nii.gz", but the images end in ".nii.gz"`, `write "file_ending": ".nii.gz"`}},
	{`file ending .NII.GZ`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".NII.GZ"}`, "FILE_ENDING", []string{`16 end in .nii.gz`, `write "file_ending": ".nii.gz"`}},
	{`file ending .nii`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii"}`, "FILE_ENDING", []string{`16 end in .nii.gz`, `write "file_ending": ".nii.gz"`}},
	{`file ending .mha`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".mha"}`, "FILE_ENDING", []string{`16 end in .nii.gz`, `write "file_ending": ".nii.gz"`}},
	{`no file ending in null`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": null}`, "FILE_ENDING_INVALID", []string{`file_ending is null`}},
	{`a list of file endings`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": [".nii.gz"]}`, "FILE_ENDING_INVALID", []string{`file_ending is [".nii.gz"]`}},
	{`labels of version 1`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "left kidney", "2": "right kidney", "3": "tumour"}, "numTraining": 8, "file_ending": ".nii.gz"}`, "LABELS_REVERSED", []string{`the wrong way round`, `write labels as {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}`}},
	{`labels as a list`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": ["background", "left kidney", "right kidney", "tumour"], "numTraining": 8, "file_ending": ".nii.gz"}`, "LABELS_INVALID", []string{`write labels as {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}`}},
	{`labels of another case of letters`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"Background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz"}`, "BACKGROUND_MISSING", []string{`rename "Background" to "background"`}},
	{`another name for background`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"air": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz"}`, "BACKGROUND_MISSING", []string{`label 0 is "air"`}},
	{`a label without number`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": null, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz"}`, "LABELS_INVALID", []string{`label "left kidney" is null`}},
	{`a number as a word`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": "two", "tumour": 3, "ignore": 4}, "numTraining": 8, "file_ending": ".nii.gz"}`, "LABELS_INVALID", []string{`label "right kidney" is "two"`}},
	{`modality alone`, `{"modality": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz"}`, "KEYS_MISSING", []string{`rename modality to channel_names`}},
	{`all of version 1`,
		`{"modality": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "numTest": 0, "training": [], "test": []}`, "KEYS_MISSING", []string{`of nnU-Net 1 or the Medical Segmentation Decathlon`, `convert the dataset`, `add "file_ending": ".nii.gz"`}},
	{`other names of keys`,
		`{"channels": {"0": "T1", "1": "T2"}, "classes": {"background": 0}, "num_training": 8, "File_Ending": ".nii.gz"}`, "KEYS_MISSING", []string{`rename classes to labels, rename channels to channel_names, rename num_training to numTraining, rename File_Ending to file_ending`}},
	{`channels as a list`,
		`{"channel_names": ["T1", "T2"], "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz"}`, "CHANNEL_NAMES_INVALID", []string{`write channel_names as {"0": "T1", "1": "T2"}`}},
	{`channels the wrong way round`,
		`{"channel_names": {"T1": 0, "T2": 1}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz"}`, "CHANNEL_NAMES_INVALID", []string{`wrong way round`, `write channel_names as {"0": "T1", "1": "T2"}`}},
	{`one channel as a text`,
		`{"channel_names": "T1", "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz"}`, "CHANNEL_NAMES_INVALID", []string{`write channel_names as {"0": "T1"}`}},
	{`a channel without name`,
		`{"channel_names": {"0": "T1", "1": null}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz"}`, "CHANNEL_NAMES_INVALID", []string{`{"0": "T1", "1": null}`}},
	{`ignore twice`, `{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3, "ignore": 4, "ignore": 5}, "numTraining": 8, "file_ending": ".nii.gz"}`, "KEY_REPEATED", []string{`the key "ignore" comes more than once in labels`}},
	{`a channel twice`, `{"channel_names": {"0": "T1", "0": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz"}`, "KEY_REPEATED", []string{`the key "0" comes more than once in channel_names`}},
	{`labels twice`, `{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz", "labels": {"background": 0}}`, "KEY_REPEATED", []string{`the key "labels" comes more than once`}},
	{`a case twice`, `{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 1, "file_ending": ".nii.gz", "dataset": {"c1": {"images": ["imagesTr/c1_0000.nii.gz", "imagesTr/c1_0001.nii.gz"], "label": "labelsTr/c1.nii.gz"}, "c1": {"images": ["imagesTr/c1_0000.nii.gz", "imagesTr/c1_0001.nii.gz"], "label": "labelsTr/c1.nii.gz"}}}`, "KEY_REPEATED", []string{`the key "c1" comes more than once in dataset`}},
	{`numTraining twice`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz", "numTraining": 9}`, "KEY_REPEATED", []string{`"numTraining"`}},
	{`numTraining null`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": null, "file_ending": ".nii.gz"}`, "NUM_TRAINING_INVALID", []string{`numTraining is null`}},
	{`order of regions as an object`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "kidneys": [1, 2], "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz", "regions_class_order": {"0": 1}}`, "REGIONS_ORDER_MISSING", []string{`regions_class_order is {"0": 1}, not a list`}},
	{`images that are no list`,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}, "numTraining": 8, "file_ending": ".nii.gz", "dataset": {"c1": {"images": "imagesTr/c1_0000.nii.gz", "label": "labelsTr/c1.nii.gz"}}}`, "DATASET_ENTRY_INVALID", []string{`the images of case "c1" are "imagesTr/c1_0000.nii.gz", not a list of paths`}},
	{`single quotes`, `{'channel_names': {}}`, "DATASET_JSON_INVALID", []string{`line 1, column 2: JSON has no single quotes`}},
	{`no text`, ``, "DATASET_JSON_INVALID", []string{`the text is empty`}},
	{`a list`, `[]`, "DATASET_JSON_INVALID", []string{`not an object`}},
}

// goWords are what only programmers understand.
var goWords = []string{" json:", "unmarshal", "Go ", "struct", "<nil>", "map[", "interface", "%!", "[]interface", "pyjson", "float64"}

func TestDescriptionsOfNewcomers(t *testing.T) {
	t.Parallel()
	for _, c := range descriptions {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := broken{t, sound(t)}
			b.write(dataset.FileName, c.text)
			one(t, b, c.code, dataset.Error, c.words...)
		})
	}
}

// one checks a dataset and wants findings of one kind only, with these words.
func one(t *testing.T, b broken, code string, severity dataset.Severity, wants ...string) {
	t.Helper()
	report, err := Check(t.Context(), b.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	text := words(report)
	for _, f := range report.Findings {
		if f.Code != code || f.Severity != severity {
			t.Errorf("found %s %s, want %s alone", f.Severity, f.Code, code)
		}
	}
	if len(report.Findings) == 0 {
		t.Errorf("nothing was found")
	}
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if i := slices.IndexFunc(goWords, func(word string) bool { return strings.Contains(text, word) }); i >= 0 {
		t.Errorf("%q is in\n%s", goWords[i], text)
	}
}

func TestByteOrderMark(t *testing.T) {
	t.Parallel()
	b := broken{t, sound(t)}
	b.write(dataset.FileName, "\ufeff"+soundJSON)
	one(t, b, "JSON_BOM", dataset.Warning, "byte order mark")
}

// TestNamesOfNewcomers gives files the names that newcomers give them.
func TestNamesOfNewcomers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, code string
		words      []string
		edit       func(b broken)
	}{
		{"label maps with a channel number", "LABEL_MISSING",
			[]string{"but c3_0000.nii.gz, whose name has a channel number", "no channel number"}, func(b broken) {
				for _, e := range list(b, "labelsTr") {
					b.rename("labelsTr/"+e, "labelsTr/"+strings.Replace(e, ".", "_0000.", 1))
				}
			}},
		{"a label map of another ending", "LABEL_MISSING", []string{"but c3.nii, which has another file ending"}, func(b broken) {
			b.rename("labelsTr/c3.nii.gz", "labelsTr/c3.nii")
		}},
		{"images without a channel number", "BAD_FILE_NAME", []string{"as c3.nii.gz to c3_0000.nii.gz"}, func(b broken) {
			b.remove("imagesTr/c3_0001.nii.gz")
			b.rename("imagesTr/c3_0000.nii.gz", "imagesTr/c3.nii.gz")
		}},
		{"two digits of the channel", "BAD_FILE_NAME", []string{"as c3_01.nii.gz to c3_0001.nii.gz"}, func(b broken) {
			b.remove("imagesTr/c3_0000.nii.gz")
			b.rename("imagesTr/c3_0001.nii.gz", "imagesTr/c3_01.nii.gz")
			b.remove("labelsTr/c3.nii.gz")
		}},
		{"Dataset.json", "DATASET_JSON_MISSING", []string{"there is Dataset.json", "rename Dataset.json to dataset.json"}, func(b broken) {
			b.rename("dataset.json", "Dataset.json")
		}},
		{"dataset.json.txt", "DATASET_JSON_MISSING", []string{"rename dataset.json.txt"}, func(b broken) {
			b.rename("dataset.json", "dataset.json.txt")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := broken{t, sound(t)}
			c.edit(b)
			one(t, b, c.code, dataset.Error, c.words...)
		})
	}
}

func list(b broken, dir string) (names []string) {
	entries, err := os.ReadDir(b.path(dir))
	b.check(err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
