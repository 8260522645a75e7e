package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dicom"
	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/remedy"
	"masksam/internal/work"
)

// DICOMOptions say which series become which images.
type DICOMOptions struct {
	work.Work
	Source string // folder of a series, or of one folder per case
	Output string // folder of the images, made if need be
	ID     string // name of the case, where there is one; empty: the folder's
	// Series is the instance UID or number of the series to take where a case has several, followed by /1, /2 … where
	// the series itself has several stacks of slices; empty: its only one.
	Series string
	// Uncorrected takes the slices as they are stored where the gantry was tilted or slices are missing. By default they
	// are sheared back and interpolated to even steps: an image's header can hold no other places, so whatever is measured
	// or drawn on the stored slices lies elsewhere than in the patient.
	Uncorrected bool
}

// byGDCM are the transfer syntaxes that dcm2niix cannot be relied on to read: JPEG-LS, lossless and near it, and deflated.
var byGDCM = map[string]bool{"1.2.840.10008.1.2.4.80": true, "1.2.840.10008.1.2.4.81": true, dicom.DeflatedExplicit: true}

// dicomCase is a case to be made.
type dicomCase struct {
	id, to      string
	files       []*dicom.File
	tilt, gaps  string // what of the slices an image cannot hold as it is
	uncorrected bool
	said        []string // warnings
}

// DICOM converts series of DICOM files to Output/CASE_0000.nii.gz by the program dcm2niix; files that it cannot read
// are first decompressed by gdcmconv. A folder that holds DICOM files is one case, of all files in it and below;
// otherwise each folder in it is one. A case has one series of images, and of it one stack of slices: where there are
// more, the error lists them. What the programs warn of is logged. It returns the images made, which each appear whole,
// also beside an error, which names the cases that failed.
func DICOM(ctx context.Context, o DICOMOptions) ([]string, error) {
	if _, err := Dcm2niix.Find(); err != nil {
		return nil, err
	}
	s := look(o.Source)
	folders := map[string]string{}
	if base, err := filepath.Abs(o.Source); err != nil {
		return nil, err
	} else if s.holdsDICOM(o.Source) {
		folders[filepath.Base(base)] = o.Source
	} else {
		for _, name := range s.folders(o.Source) {
			folders[name] = filepath.Join(o.Source, name)
		}
	}
	if o.ID != "" && len(folders) > 1 {
		return nil, fmt.Errorf("%s has %d cases, which cannot all be named %s: choose no name, or convert one folder",
			o.Source, len(folders), o.ID)
	}
	var cases []dicomCase
	var ids []string
	o.Reporter().Start("reading", 0)
	for _, name := range slices.Sorted(maps.Keys(folders)) {
		c := dicomCase{id: name, uncorrected: o.Uncorrected}
		if o.ID != "" {
			c.id = o.ID
		}
		if strings.ContainsAny(c.id, `/\`) || strings.HasPrefix(c.id, ".") {
			s.fail(ruleNames, "%q cannot name a case", c.id)
		}
		c.to = filepath.Join(o.Output, c.id+"_0000"+ending)
		if _, err := os.Lstat(c.to); err == nil {
			s.fail(ruleTarget, "%s is there already; remove it or choose another folder", c.to)
		}
		c.files = s.series(ctx, folders[name], o)
		c.tilt, c.gaps = dicom.Uneven(c.files)
		cases, ids = append(cases, c), append(ids, c.id)
	}
	o.Reporter().Done()
	if len(folders) == 0 && len(s.problems) == 0 {
		s.fail(ruleMissing, "%s: holds no DICOM file and no folder of them", o.Source)
	}
	if err := s.err(); err != nil {
		return nil, err
	}
	s.tell()
	if err := os.MkdirAll(o.Output, 0o777); err != nil {
		return nil, err
	}
	need := func(i int) machine.Bytes { // dcm2niix holds the volume, and what it corrects or compresses beside it
		n := 0
		for _, f := range cases[i].files {
			n += f.Bytes
		}
		if cases[i].tilt != "" || cases[i].gaps != "" { // twice in float32, of mostly 16 bits
			n *= 2
		}
		return machine.Bytes(3 * n)
	}
	failed, err := work.Each(ctx, o.Work, work.Cases{What: "converting", IDs: ids, Need: need},
		func(i int) error { return cases[i].convert(ctx) })
	said := look(o.Source)
	var made []string
	for i, c := range cases {
		for _, text := range c.said {
			said.warn("%s: %s", c.id, text)
		}
		if isFile(c.to) && !slices.Contains(failed, i) {
			made = append(made, c.to)
		}
	}
	said.tell()
	return made, err
}

// holdsDICOM says whether some file directly in the folder begins as a DICOM file does.
func (s *survey) holdsDICOM(folder string) bool {
	for _, name := range s.files(folder) {
		if _, err := dicom.ReadFile(filepath.Join(folder, name)); !errors.Is(err, dicom.ErrNotDICOM) {
			return true
		}
	}
	return false
}

// series finds the files of the one series of images in and below a folder, or of the chosen one.
func (s *survey) series(ctx context.Context, folder string, o DICOMOptions) []*dicom.File {
	all := map[string][]*dicom.File{}
	if real, err := filepath.EvalSymlinks(folder); err == nil { // a walk does not enter a link
		folder = real
	}
	err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != folder && strings.HasPrefix(e.Name(), "."):
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case e.IsDir():
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d, err := dicom.ReadFile(path)
		o.Reporter().Advance(1, "")
		switch {
		case errors.Is(err, dicom.ErrNotDICOM):
		case err != nil:
			s.fail(ruleUnreadable, "%w", err)
		case d.Frames == 0: // a report, a directory, …
		case d.Series == "":
			s.fail(ruleSeries, "%s: its image has no series instance UID", path)
		default:
			all[d.Series] = append(all[d.Series], d)
		}
		return nil
	})
	if err != nil {
		s.fail(ruleUnreadable, "%w", err)
		return nil
	}
	return s.choose(folder, all, o.Series)
}

// choose finds the stack to convert among the series of a folder.
func (s *survey) choose(folder string, all map[string][]*dicom.File, wanted string) []*dicom.File {
	var found []dicom.Stack
	var lines, chosen []string
	for _, uid := range slices.Sorted(maps.Keys(all)) {
		d := all[uid][0]
		parts := dicom.Stacks(dicom.Distinct(all[uid]))
		for i, part := range parts {
			number, what := "", ""
			if len(parts) > 1 {
				number, what = fmt.Sprintf("/%d", i+1), ", "+part.What
			}
			line := fmt.Sprintf("  %s%s: number %s%s, %s, %q, %d files%s", uid, number, d.Number, number, d.Modality,
				d.Description, len(part.Files), what)
			lines = append(lines, line)
			if wanted == "" || slices.Contains([]string{uid, d.Number, uid + number, d.Number + number}, wanted) {
				found, chosen = append(found, part), append(chosen, line)
			}
		}
	}
	switch {
	case len(found) == 1:
		s.twice(all[found[0].Files[0].Series])
		s.volume(folder, found[0].Files)
		return found[0].Files
	case len(all) == 0:
		s.fail(ruleMissing, "%s: no DICOM image", folder)
	case len(found) == 0:
		s.fail(ruleSeries, "%s: no series %s; there are\n%s", folder, wanted, strings.Join(lines, "\n"))
	default:
		s.problem(ruleSeries, remedy.Add(fmt.Errorf("%s: %d series or stacks of slices; choose one by the instance UID or the number:\n%s",
			folder, len(found), strings.Join(chosen, "\n")), "choose one with ", remedy.Series))
	}
	return nil
}

// twice warns of the files that dicom.Distinct leaves out; that they hold something else is an error.
func (s *survey) twice(files []*dicom.File) {
	seen := map[string]*dicom.File{}
	for _, f := range files {
		first := seen[f.Instance]
		if first == nil || f.Instance == "" {
			seen[f.Instance] = f
			continue
		}
		a, errA := os.ReadFile(first.Path)
		b, errB := os.ReadFile(f.Path)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			s.fail(ruleTwice, "%s and %s have one SOP instance UID, %s, but are not the same; remove one", first.Path, f.Path, f.Instance)
			continue
		}
		s.warn("%s is the same file as %s: it is left out", f.Path, first.Path)
	}
}

// volume checks that a stack is one volume.
func (s *survey) volume(folder string, files []*dicom.File) {
	switch most, even, pair := dicom.Repeats(files); {
	case most < 2:
	case even:
		s.fail(ruleSeries, "%s: the series has %d slices at each place, so %d volumes, which nothing in the files tells apart; "+
			"put the files of each volume in a folder of their own", folder, most, most)
	default:
		s.fail(ruleTwice, "%s and %s lie at the same place; remove one", pair[0].Path, pair[1].Path)
	}
}

// convert makes the image of a case. It works in a hidden folder beside it.
func (c *dicomCase) convert(ctx context.Context) error {
	temp, err := os.MkdirTemp(filepath.Dir(c.to), ".dicom-*"+atomicfile.Suffix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	made, err := c.nifti(ctx, temp, false)
	if err != nil && ctx.Err() == nil && !errors.Is(err, errSeveral) {
		// A syntax that this dcm2niix was built without: once more from files that gdcmconv has decompressed.
		slog.Debug("dcm2niix failed: decompressing first", "case", c.id, "error", err)
		var again error
		if made, again = c.nifti(ctx, temp, true); again == nil {
			err = nil
		} else {
			err = errors.Join(err, again)
		}
	}
	if err != nil {
		return err
	}
	meta, channels, err := imageio.ReadMeta(made)
	n := 0
	for _, f := range c.files {
		n += f.Frames
	}
	switch {
	case err != nil:
		return err
	case channels > 1:
		return fmt.Errorf("its series has %d volumes (in time, or of several contrasts); an image of a case has one: "+
			"put the files of one volume in a folder of their own", channels)
	case meta.Grid.Size[0] < n:
		return fmt.Errorf("dcm2niix made an image of %d slices, but the series has %d: it passed over some; remove "+
			"the files that do not belong to the volume", meta.Grid.Size[0], n)
	case c.tilt == "" && c.gaps == "":
		return copyFile(ctx, made, c.to)
	case c.uncorrected:
		c.uneven("the image has them as they are stored, so that most voxels do not lie where its header says")
		return copyFile(ctx, made, c.to)
	}
	im, err := imageio.Read(made)
	if err != nil {
		return err
	}
	if im, err = dicom.Straighten(im, c.files); err != nil {
		return err
	}
	c.uneven("the image is interpolated to a grid with right angles and even steps; uncorrected, it would have the " +
		"slices as they are stored, most of them at wrong places")
	return imageio.WriteFloat(c.to, im.Channels, im.Meta)
}

var errSeveral = errors.New("several images of one series")

// correction ends the name of an image that dcm2niix makes, of a tilted or uneven one, beside that of the stored slices.
var correction = regexp.MustCompile(`_(Tilt|Eq|Tilt_Eq)_[0-9]+\.nii\.gz$`)

// nifti runs dcm2niix on the case's files, all of them decompressed by gdcmconv or only those that need it.
func (c *dicomCase) nifti(ctx context.Context, temp string, decompress bool) (string, error) {
	c.said = nil
	in, out := filepath.Join(temp, "in"), filepath.Join(temp, "out")
	for _, dir := range []string{in, out} {
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o777)); err != nil {
			return "", err
		}
	}
	run := func(p Program, args ...string) error {
		lines, err := p.run(ctx, args...)
		for _, line := range lines {
			c.said = append(c.said, p.Name+" says: "+strings.ReplaceAll(line, temp+string(filepath.Separator), ""))
		}
		return err
	}
	for i, f := range c.files {
		to := filepath.Join(in, fmt.Sprintf("%06d.dcm", i))
		if decompress || byGDCM[f.Syntax] {
			if err := run(Gdcmconv, "--raw", f.Path, to); err != nil {
				return "", fmt.Errorf("%s, transfer syntax %s: %w", f.Path, f.Syntax, err)
			}
			continue
		}
		from, err := filepath.Abs(f.Path)
		if err != nil {
			return "", err
		}
		if err := os.Symlink(from, to); err != nil {
			return "", err
		}
	}
	// No defaults of the user's, no side files, zipped, all slices of the series in one image.
	if err := run(Dcm2niix, "-g", "i", "-b", "n", "-z", "i", "-f", "image", "-o", out, in); err != nil {
		return "", err
	}
	made, err := atomicfile.Glob(out, "*"+ending)
	if err != nil {
		return "", err
	}
	made = slices.DeleteFunc(made, correction.MatchString)
	switch len(made) {
	case 0:
		return "", errors.New("dcm2niix made no image of the series")
	case 1:
		return made[0], nil
	}
	for i := range made {
		made[i] = filepath.Base(made[i])
	}
	return "", fmt.Errorf("dcm2niix made %w (%s): put the files of one image in a folder of their own; %s",
		errSeveral, strings.Join(made, ", "), tail(c.said))
}

// uneven warns of a tilt or a gap, with what became of it.
func (c *dicomCase) uneven(became string) {
	for _, text := range []string{c.tilt, c.gaps} {
		if text != "" {
			c.said = append(c.said, text+": "+became)
		}
	}
}
