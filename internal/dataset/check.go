package dataset

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/admit"
	"masksam/internal/imageio"
	"masksam/internal/progress"
	"masksam/internal/pyjson"
	"masksam/internal/volume"
)

// CheckOptions say how to check a dataset.
type CheckOptions struct {
	Workers  int         // cases at a time at most; 0: one per processor
	Memory   admit.Bytes // for all cases at a time; 0: most of what is free
	Progress progress.Reporter
}

// Report is what a check found.
type Report struct {
	Cases    int        `json:"cases"`
	Findings []*Finding `json:"findings"`
}

// Err joins the findings that are errors; nil if there is none.
func (r *Report) Err() error {
	return join(slices.DeleteFunc(slices.Clone(r.Findings), func(f *Finding) bool { return f.Severity != Error }))
}

// Check finds every broken rule of a raw dataset in one pass: those of nnU-Net's verify_dataset_integrity and those that it
// misses (verify_dataset_integrity.py). All cases are read. What only follows from another finding is left out. The error
// is that of ctx.
func Check(ctx context.Context, dir string, opt CheckOptions) (*Report, error) {
	c := &checker{path: filepath.Join(dir, FileName)}
	cases := c.describe()
	c.report.Cases = len(cases)
	if err := c.read(ctx, cases, opt); err != nil {
		return nil, fmt.Errorf("check %s: %w", dir, err)
	}
	return &c.report, nil
}

// checker is one run of Check.
type checker struct {
	path   string // of dataset.json
	d      *Dataset
	report Report
}

func (c *checker) add(found ...*Finding) { c.report.Findings = append(c.report.Findings, found...) }

func (c *checker) warn(code, id string, files []string, remedy, format string, args ...any) {
	c.add(&Finding{Code: code, Severity: Warning, Case: id, Files: files, Remedy: remedy, Text: fmt.Sprintf(format, args...)})
}

// keys of dataset.json that mean something to nnU-Net.
var (
	requiredKeys = []string{"labels", "channel_names", "numTraining", "file_ending"}
	optionalKeys = []string{"regions_class_order", "overwrite_image_reader_writer", "dataset", "name", "description", "reference",
		"release", "licence", "license", "citation", "converted_by", "tensorImageSize"}
)

// Readers are the class names that overwrite_image_reader_writer may hold.
func Readers() []string {
	return []string{"NaturalImage2DIO", "SimpleITKIO", "Tiff3DIO", "NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient"}
}

// describe checks all that can be known without opening an image, and lists the cases.
func (c *checker) describe() []Case {
	doc, err := readObject(c.path)
	if err != nil {
		var f *Finding
		if errors.As(err, &f) {
			c.add(f)
		}
		return nil
	}
	d, found := parse(doc, c.path)
	c.d = d
	c.keys(doc)
	for _, f := range found {
		if f.Code != "KEYS_MISSING" { // told by keys, which asks for more
			c.add(f)
		}
	}
	if d.Reader != "" && !slices.Contains(Readers(), d.Reader) {
		c.warn("READER_UNKNOWN", "", []string{c.path}, "correct or remove overwrite_image_reader_writer",
			"the reader %q does not exist (there are %s); one is chosen by the file ending", d.Reader, strings.Join(Readers(), ", "))
	}
	if d.FileEnding == "" {
		return nil
	}
	if doc.Has("dataset") {
		return c.declared()
	}
	return c.folders()
}

// keys tells which required keys are missing and, with them, which ones mean nothing: they may be misspelt.
func (c *checker) keys(doc *pyjson.Object) {
	var missing, unused []string
	for _, key := range requiredKeys {
		if !doc.Has(key) {
			missing = append(missing, key)
		}
	}
	for _, key := range doc.Keys() {
		if !slices.Contains(requiredKeys, key) && !slices.Contains(optionalKeys, key) {
			unused = append(unused, key)
		}
	}
	if len(missing) == 0 {
		return
	}
	text := "required keys are missing: " + strings.Join(missing, ", ")
	if len(unused) > 0 {
		text += "; keys without a meaning: " + strings.Join(unused, ", ")
	}
	c.add(finding("KEYS_MISSING", c.path, "add or rename them", "%s", text))
}

// declared lists the cases of the entry "dataset", whose files must exist.
func (c *checker) declared() []Case {
	cases, err := c.d.Cases()
	var f *Finding
	if errors.As(err, &f) {
		c.add(f)
		return nil
	}
	var missing []string
	var whole []Case
	for _, k := range cases {
		before := len(missing)
		for _, file := range append(slices.Clone(k.Images), k.Label) {
			if _, err := os.Stat(file); err != nil {
				missing = append(missing, file)
			}
		}
		if len(missing) == before {
			whole = append(whole, k)
		}
	}
	if len(missing) > 0 {
		c.add(&Finding{Code: "FILE_MISSING", Severity: Error, Files: missing, Text: `the entry "dataset" of dataset.json names files that do not exist`, Remedy: "correct the paths or add the files"})
	}
	c.count(len(cases))
	c.collisions(cases)
	return whole
}

func (c *checker) count(n int) {
	if c.d.Doc.Has("numTraining") && n != c.d.NumTraining {
		c.add(finding("CASE_COUNT", c.path, "correct numTraining or add the missing cases", "found %d cases, numTraining is %d", n, c.d.NumTraining))
	}
}

// collisions warns of ids that some file systems cannot tell apart.
func (c *checker) collisions(cases []Case) {
	first := map[string]string{}
	for _, k := range cases {
		folded := strings.ToLower(k.ID)
		if other, ok := first[folded]; ok {
			c.warn("CASE_NAME_COLLISION", k.ID, nil, "rename one of them", "the ids %s and %s differ only in upper and lower case", other, k.ID)
			continue
		}
		first[folded] = k.ID
	}
}

// folders checks imagesTr and labelsTr against each other.
func (c *checker) folders() []Case {
	labelDir := filepath.Join(c.d.Dir, "labelsTr")
	labels, labelErr := os.ReadDir(labelDir)
	if labelErr != nil {
		c.add(finding("LABELS_TR_MISSING", labelDir, "put the label maps there", "%s", folderFault(labelErr)))
	}
	cases, err := c.d.Cases()
	badNames := false
	if err != nil {
		var f *Finding
		if !errors.As(err, &f) {
			return nil
		}
		c.add(f)
		if badNames = f.Code == "BAD_FILE_NAME"; !badNames {
			return nil
		}
		// Go on with the images whose names are good.
		ids, files, _, err := group(filepath.Join(c.d.Dir, "imagesTr"), c.d.FileEnding)
		if err != nil {
			return nil
		}
		for _, id := range ids {
			cases = append(cases, Case{ID: id, Images: files[id], Label: filepath.Join(labelDir, id+c.d.FileEnding)})
		}
	}
	if !badNames {
		c.count(len(cases))
	}
	c.collisions(cases)
	if labelErr != nil {
		for i := range cases {
			cases[i].Label = ""
		}
		return cases
	}
	known := map[string]bool{}
	for i, k := range cases {
		known[filepath.Base(k.Label)] = true
		if _, err := os.Stat(k.Label); err != nil {
			c.add(&Finding{Code: "LABEL_MISSING", Severity: Error, Case: k.ID, Files: []string{k.Label}, Text: "the case has no label map", Remedy: "add it or remove the case's images"})
			cases[i].Label = ""
		}
	}
	for _, e := range labels {
		if strings.HasSuffix(e.Name(), c.d.FileEnding) && !known[e.Name()] && !badNames {
			c.warn("LABEL_WITHOUT_IMAGE", "", []string{filepath.Join(labelDir, e.Name())}, "remove it or add the images", "the label map belongs to no image")
		}
	}
	return cases
}

// seen is what the comparison of cases needs of one.
type seen struct {
	hash        uint64
	orientation string // axis codes of the first channel
	labels      map[int32]int
	readLabel   bool
}

// read checks every case, in parallel, and then what only shows across cases.
func (c *checker) read(ctx context.Context, cases []Case, opt CheckOptions) error {
	if opt.Progress == nil {
		opt.Progress = progress.Nop
	}
	found := make([][]*Finding, len(cases))
	all := make([]seen, len(cases))
	seed := maphash.MakeSeed()
	opt.Progress.Start("checking", len(cases))
	defer opt.Progress.Done()
	err := admit.Each(ctx, admit.Cases{
		IDs: IDs(cases), Need: func(i int) admit.Bytes { return admit.Live(cases[i].LoadBytes()) },
		Workers: opt.Workers, Memory: opt.Memory, Progress: opt.Progress,
	}, func(i int) error {
		found[i] = c.caseFindings(cases[i], &all[i], seed)
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range found {
		c.add(f...)
	}
	c.compare(cases, all)
	return nil
}

// caseFindings checks the files of one case.
func (c *checker) caseFindings(k Case, s *seen, seed maphash.Seed) (found []*Finding) {
	add := func(code string, severity Severity, file, remedy, format string, args ...any) {
		f := finding(code, file, remedy, format, args...)
		f.Severity, f.Case = severity, k.ID
		found = append(found, f)
	}
	var whole *imageio.Image // all channels that fit the first
	channels, unreadable := 0, false
	manifold := ""
	hash := maphash.Hash{}
	hash.SetSeed(seed)
	for _, path := range k.Images {
		im, err := imageio.Read(path)
		if err != nil {
			add("UNREADABLE", Error, path, "replace the file", "%v", strings.TrimPrefix(err.Error(), path+": "))
			unreadable = true
			continue
		}
		channels += len(im.Channels)
		if len(im.Channels) > 1 && manifold == "" {
			manifold = path
		}
		for _, data := range im.Channels {
			hashFloats(&hash, data)
		}
		if whole == nil {
			whole = im
			continue
		}
		a, b := whole.Grid, im.Grid
		switch {
		case a.Size != b.Size:
			add("CHANNEL_SHAPE_MISMATCH", Error, path, "resample the channels onto one grid", "the channel has %v voxels (z, y, x), %s has %v", b.Size, whole.Path, a.Size)
		case !a.SameGrid(b):
			add("CHANNEL_SPACING_MISMATCH", Error, path, "correct the header", "the channel's spacing is %v (z, y, x), that of %s is %v", b.Spacing, whole.Path, a.Spacing)
		default:
			if what, text := frames(a, b); what != "" {
				add("CHANNEL_"+what+"_MISMATCH", Warning, path, "correct the header", "%s of %s", text, whole.Path)
			}
		}
		whole.Channels = append(whole.Channels, im.Channels...)
	}
	s.hash = hash.Sum64()
	if unreadable {
		s.hash = 0
	}
	switch want := len(c.d.Channels); {
	case unreadable || want == 0:
	case channels == want && manifold == "":
		found = append(found, channelGap(k, len(c.d.Channels))...)
		found = append(found, c.voxels(k, whole)...)
	case channels == want:
		found = append(found, c.voxels(k, whole)...)
	case manifold != "":
		add("IMAGE_DIMENSIONS", Error, manifold, "write one three-dimensional file per channel", "the file has four dimensions; with it the case has %d channels, dataset.json names %d", channels, want)
	default:
		found = append(found, c.d.channelCount(k.ID, k.Images, channels))
	}
	if whole != nil {
		s.orientation = orientation(whole.Grid)
	}
	if k.Label == "" {
		return found
	}
	label, err := imageio.ReadLabel(k.Label)
	var no *imageio.LabelError
	switch {
	case errors.As(err, &no):
		add("LABEL_VALUE", Error, k.Label, "write whole numbers", "voxel (z, y, x) = %v is %v, which is no label", no.Voxel, no.Value)
		return found
	case err != nil:
		add("UNREADABLE", Error, k.Label, "replace the file", "%v", strings.TrimPrefix(err.Error(), k.Label+": "))
		return found
	}
	s.labels, s.readLabel = values(label.Data), true
	if s.labels[0] == len(label.Data) {
		add("BACKGROUND_ONLY", Warning, k.Label, "leave the case out if nothing is to be learnt from it", "the label map holds only background")
	}
	if c.d.Labels != nil {
		like := &imageio.Image{Meta: label.Meta}
		if whole != nil {
			like = whole
		}
		found = append(found, c.d.inspectLabel(k, like, label)...)
	}
	if whole == nil || label.Grid.Size != whole.Grid.Size {
		return found
	}
	if !whole.Grid.SameGrid(label.Grid) {
		add("SPACING_MISMATCH", Error, k.Label, "correct the header", "the label map's spacing is %v (z, y, x), that of %s is %v", label.Grid.Spacing, whole.Path, whole.Grid.Spacing)
	}
	if what, text := frames(whole.Grid, label.Grid); what != "" {
		add(what+"_MISMATCH", Warning, k.Label, "correct the header, or turn the voxels", "%s of %s", text, whole.Path)
	}
	return found
}

// voxels looks for values that are no numbers; infinities only warn, as nnU-Net takes them.
func (c *checker) voxels(k Case, im *imageio.Image) []*Finding {
	found := c.d.inspectImage(k, im)
	for _, f := range found {
		if f.Code == "IMAGE_INF" {
			f.Severity = Warning
		}
	}
	return found
}

// channelGap warns if the files of n channels are not numbered 0 to n−1.
func channelGap(k Case, n int) []*Finding {
	var have []string
	gap := false
	for i, path := range k.Images {
		m := channelNumber.FindStringSubmatch(filepath.Base(path))
		if m == nil {
			return nil
		}
		number, _ := strconv.Atoi(m[1])
		gap = gap || number != i
		have = append(have, m[1])
	}
	if !gap || len(have) != n {
		return nil
	}
	return []*Finding{{
		Code: "CHANNEL_GAP", Severity: Warning, Case: k.ID, Files: k.Images,
		Text:   fmt.Sprintf("the channels are numbered %s, not from 0000 on; they are taken in this order", strings.Join(have, ", ")),
		Remedy: "rename the files, or add the missing one",
	}}
}

// frames compares where two images of one size lie: "DIRECTION", "ORIGIN" or nothing. Where directions differ the first
// voxel is another corner, so origins are not compared.
func frames(a, b volume.Grid) (what, text string) {
	_, origin, direction := a.ITK()
	_, otherOrigin, otherDirection := b.ITK()
	switch {
	case !volume.AllClose(direction[:], otherDirection[:]):
		return "DIRECTION", fmt.Sprintf("the direction is %s, that is not %s, the direction", orientation(b), orientation(a))
	case !volume.AllClose(origin[:], otherOrigin[:]):
		return "ORIGIN", fmt.Sprintf("the origin is %v, that is not %v, the origin", otherOrigin, origin)
	}
	return "", ""
}

// orientation names where the file's axes x, y, z point to, such as RAS: right, anterior, superior.
func orientation(g volume.Grid) string {
	var out strings.Builder
	for axis := range 3 {
		row := 0
		for r := range 3 {
			if math.Abs(g.Affine[r][axis]) > math.Abs(g.Affine[row][axis]) {
				row = r
			}
		}
		letter := "RAS"[row]
		if g.Affine[row][axis] < 0 {
			letter = "LPI"[row]
		}
		out.WriteByte(letter)
	}
	return out.String()
}

func hashFloats(h *maphash.Hash, data []float32) {
	var buf [4096]byte
	for len(data) > 0 {
		n := min(len(data), len(buf)/4)
		for i, v := range data[:n] {
			u := math.Float32bits(v)
			buf[4*i], buf[4*i+1], buf[4*i+2], buf[4*i+3] = byte(u), byte(u>>8), byte(u>>16), byte(u>>24)
		}
		h.Write(buf[:4*n]) // never fails
		data = data[n:]
	}
}

// compare finds what only shows across cases.
func (c *checker) compare(cases []Case, all []seen) {
	first := map[uint64]string{}
	orientations := map[string][]string{}
	used := map[int32]bool{}
	complete := true
	for i, s := range all {
		id := cases[i].ID
		if s.hash != 0 {
			if other, ok := first[s.hash]; ok {
				c.warn("DUPLICATE_IMAGE", id, cases[i].Images, "remove one of the cases", "the images of %s and %s are equal", other, id)
			} else {
				first[s.hash] = id
			}
		}
		if s.orientation != "" {
			orientations[s.orientation] = append(orientations[s.orientation], id)
		}
		for v := range s.labels {
			used[v] = true
		}
		complete = complete && s.readLabel
	}
	if len(orientations) > 1 {
		var codes []string
		for code := range orientations {
			codes = append(codes, code)
		}
		slices.SortFunc(codes, func(a, b string) int {
			if d := len(orientations[b]) - len(orientations[a]); d != 0 {
				return d
			}
			return strings.Compare(a, b)
		})
		for _, code := range codes[1:] {
			for _, id := range orientations[code] {
				c.warn("ORIENTATION_INCONSISTENT", id, nil, "turn all images to one orientation: voxels are used as they are stored",
					"the axes point to %s, those of most cases (%d of %d) to %s", code, len(orientations[codes[0]]), len(all), codes[0])
			}
		}
	}
	if c.d == nil || c.d.Labels == nil || !complete || len(all) == 0 {
		return
	}
	var unused []string
	for _, v := range c.d.Labels.Foreground() {
		if !used[int32(v)] {
			unused = append(unused, fmt.Sprintf("%d (%s)", v, c.d.Labels.Name(v)))
		}
	}
	if len(unused) > 0 {
		c.warn("LABEL_NEVER_USED", "", []string{c.path}, "remove the labels, or correct the label maps", "no label map holds %s", strings.Join(unused, ", "))
	}
}
