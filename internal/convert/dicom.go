package convert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/imageio"
	"masksam/internal/progress"
)

// DICOMOptions say which series become which images.
type DICOMOptions struct {
	Source   string // folder of a series, or of one folder per case
	Output   string // folder of the images, made if need be
	ID       string // name of the case, where there is one; empty: the folder's
	Series   string // instance UID or number of the series to take where a case has several; empty: its only one
	Workers  int    // cases at a time; 0: one per core
	Progress progress.Reporter
}

// byGDCM are the transfer syntaxes that dcm2niix cannot be relied on to read: JPEG-LS, lossless and near it, and deflated.
var byGDCM = map[string]bool{"1.2.840.10008.1.2.4.80": true, "1.2.840.10008.1.2.4.81": true, deflatedExplicit: true}

// dicomCase is a case to be made.
type dicomCase struct {
	id, to string
	files  []*dicomFile
}

// DICOM converts series of DICOM files to Output/CASE_0000.nii.gz by the program dcm2niix; files that it cannot read
// are first decompressed by gdcmconv. A folder that holds DICOM files is one case, of all files in it and below;
// otherwise each folder in it is one. A case has one series of images: where there are more, the error lists them. It
// returns the images made. Each appears whole.
func DICOM(ctx context.Context, o DICOMOptions) ([]string, error) {
	if _, err := Dcm2niix.Find(); err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = progress.Nop
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
		return nil, fmt.Errorf("%s has %d cases, so --id cannot name them: leave it out, or convert one folder", o.Source, len(folders))
	}
	var cases []dicomCase
	o.Progress.Start("reading", 0)
	for _, name := range slices.Sorted(maps.Keys(folders)) {
		c := dicomCase{id: name}
		if o.ID != "" {
			c.id = o.ID
		}
		if strings.ContainsAny(c.id, `/\`) || strings.HasPrefix(c.id, ".") {
			s.fail("%q cannot name a case", c.id)
		}
		c.to = filepath.Join(o.Output, c.id+"_0000"+ending)
		if _, err := os.Lstat(c.to); err == nil {
			s.fail("%s is there already; remove it or choose another folder", c.to)
		}
		c.files = s.series(ctx, folders[name], o)
		cases = append(cases, c)
	}
	o.Progress.Done()
	if len(folders) == 0 && len(s.problems) == 0 {
		s.fail("%s: holds no DICOM file and no folder of them", o.Source)
	}
	if err := s.err(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Output, 0o777); err != nil {
		return nil, err
	}
	err := each(ctx, "converting", cases, o.Workers, o.Progress, func(ctx context.Context, c dicomCase) (string, error) {
		if err := c.convert(ctx); err != nil {
			return "", fmt.Errorf("case %s: %w", c.id, err)
		}
		return c.id, nil
	})
	if err != nil {
		return nil, err
	}
	var made []string
	for _, c := range cases {
		made = append(made, c.to)
	}
	return made, nil
}

// holdsDICOM says whether some file directly in the folder begins as a DICOM file does.
func (s *survey) holdsDICOM(folder string) bool {
	for _, name := range s.files(folder) {
		if _, err := readDICOMFile(filepath.Join(folder, name)); !errors.Is(err, errNotDICOM) {
			return true
		}
	}
	return false
}

// series finds the files of the one series of images in and below a folder, or of the chosen one.
func (s *survey) series(ctx context.Context, folder string, o DICOMOptions) []*dicomFile {
	all := map[string][]*dicomFile{}
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
		d, err := readDICOMFile(path)
		o.Progress.Advance(1, "")
		switch {
		case errors.Is(err, errNotDICOM):
		case err != nil:
			s.fail("%w", err)
		case d.frames == 0: // a report, a directory, …
		case d.series == "":
			s.fail("%s: its image has no series instance UID", path)
		default:
			all[d.series] = append(all[d.series], d)
		}
		return nil
	})
	if err != nil {
		s.fail("%w", err)
		return nil
	}
	var found []string
	for _, uid := range slices.Sorted(maps.Keys(all)) {
		if o.Series == "" || o.Series == uid || o.Series == all[uid][0].number {
			found = append(found, uid)
		}
	}
	switch {
	case len(found) == 1:
		return all[found[0]]
	case len(all) == 0:
		s.fail("%s: no DICOM image", folder)
	case len(found) == 0:
		s.fail("%s: no series %s; there are\n%s", folder, o.Series, list(all, slices.Sorted(maps.Keys(all))))
	default:
		s.fail("%s: %d series, of which --series UID or NUMBER must choose one:\n%s", folder, len(found), list(all, found))
	}
	return nil
}

// list describes series, a line for each.
func list(all map[string][]*dicomFile, uids []string) string {
	var lines []string
	for _, uid := range uids {
		d := all[uid][0]
		lines = append(lines, fmt.Sprintf("  %s: number %s, %s, %q, %d files", uid, d.number, d.modality, d.description, len(all[uid])))
	}
	return strings.Join(lines, "\n")
}

// convert makes the image of a case. It works in a hidden folder beside it.
func (c dicomCase) convert(ctx context.Context) error {
	work, err := os.MkdirTemp(filepath.Dir(c.to), ".dicom-*"+atomicfile.Suffix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	made, err := c.nifti(ctx, work, false)
	if err != nil && ctx.Err() == nil && !errors.Is(err, errSeveral) {
		// A syntax that this dcm2niix was built without: once more from files that gdcmconv has decompressed.
		slog.Debug("dcm2niix failed: decompressing first", "case", c.id, "error", err)
		var again error
		if made, again = c.nifti(ctx, work, true); again == nil {
			err = nil
		} else {
			err = errors.Join(err, again)
		}
	}
	if err != nil {
		return err
	}
	meta, channels, err := imageio.ReadMeta(made)
	slices := 0
	for _, f := range c.files {
		slices += f.frames
	}
	switch {
	case err != nil:
		return err
	case channels > 1:
		return fmt.Errorf("its series has %d volumes (in time, or of several contrasts); an image of a case has one", channels)
	case meta.Grid.Size[0] < slices:
		return fmt.Errorf("dcm2niix made an image of %d slices, but the series has %d: it passed over some, which may be there twice", meta.Grid.Size[0], slices)
	}
	return copyFile(ctx, made, c.to)
}

var errSeveral = errors.New("several images of one series")

// nifti runs dcm2niix on the case's files, all of them decompressed by gdcmconv or only those that need it.
func (c dicomCase) nifti(ctx context.Context, work string, decompress bool) (string, error) {
	in, out := filepath.Join(work, "in"), filepath.Join(work, "out")
	for _, dir := range []string{in, out} {
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o777)); err != nil {
			return "", err
		}
	}
	for i, f := range c.files {
		to := filepath.Join(in, fmt.Sprintf("%06d.dcm", i))
		if decompress || byGDCM[f.syntax] {
			if err := Gdcmconv.run(ctx, "--raw", f.path, to); err != nil {
				return "", fmt.Errorf("%s, transfer syntax %s: %w", f.path, f.syntax, err)
			}
			continue
		}
		from, err := filepath.Abs(f.path)
		if err != nil {
			return "", err
		}
		if err := os.Symlink(from, to); err != nil {
			return "", err
		}
	}
	// No defaults of the user's, no side files, zipped, all slices of the series in one image.
	if err := Dcm2niix.run(ctx, "-g", "i", "-b", "n", "-z", "i", "-f", "image", "-o", out, in); err != nil {
		return "", err
	}
	made, err := atomicfile.Glob(out, "*"+ending)
	if err != nil {
		return "", err
	}
	switch len(made) {
	case 0:
		return "", errors.New("dcm2niix made no image of the series")
	case 1:
		return made[0], nil
	}
	for i := range made {
		made[i] = filepath.Base(made[i])
	}
	return "", fmt.Errorf("dcm2niix made %w (%s): slices may be missing, tilted or of different sizes", errSeveral, strings.Join(made, ", "))
}
