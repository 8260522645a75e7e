package convert

import (
	"errors"
	"strconv"

	"masksam/internal/pyjson"
)

// Description is what a dataset.json says.
type Description struct {
	Channels    []string       // names in channel order; they choose the normalisation
	Labels      *pyjson.Object // name → int, or []int for a region
	NumTraining int
	FileEnding  string // with its dot
	Licence     string
	ConvertedBy string

	// Written when they are given.
	Name, Reference, Release, Citation, Description string
	Reader                                          string // overwrite_image_reader_writer
	RegionsClassOrder                               []int
	Extra                                           *pyjson.Object // further entries, last
}

// DatasetJSON is the text of a dataset.json, with nnU-Net's order of keys (generate_dataset_json.py). Like there, the
// entry "citation" receives the release where one is given. No labels, and regions without RegionsClassOrder, are an
// error.
func DatasetJSON(d Description) ([]byte, error) {
	if d.Labels == nil {
		return nil, errors.New("dataset.json: labels must be given")
	}
	for _, name := range d.Labels.Keys() {
		v, _ := d.Labels.Get(name)
		if region, ok := v.([]int); ok && len(region) > 1 && d.RegionsClassOrder == nil {
			return nil, errors.New("dataset.json: labels define the region " + name + ", so regions_class_order must be given")
		}
	}
	channels := pyjson.NewObject()
	for i, name := range d.Channels {
		channels.Set(strconv.Itoa(i), name)
	}
	doc := pyjson.NewObject("channel_names", channels, "labels", d.Labels, "numTraining", d.NumTraining,
		"file_ending", d.FileEnding, "licence", d.Licence, "converted_by", d.ConvertedBy)
	if d.Citation != "" && d.Release != "" {
		d.Citation = d.Release
	}
	for _, e := range []struct{ key, text string }{
		{"name", d.Name}, {"reference", d.Reference}, {"release", d.Release}, {"citation", d.Citation},
		{"description", d.Description}, {"overwrite_image_reader_writer", d.Reader},
	} {
		if e.text != "" {
			doc.Set(e.key, e.text)
		}
	}
	if d.RegionsClassOrder != nil {
		doc.Set("regions_class_order", d.RegionsClassOrder)
	}
	if d.Extra != nil {
		for _, key := range d.Extra.Keys() {
			v, _ := d.Extra.Get(key)
			doc.Set(key, v)
		}
	}
	return pyjson.Marshal(doc)
}
