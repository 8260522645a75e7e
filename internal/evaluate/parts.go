package evaluate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"masksam/internal/imageio"
	"masksam/internal/work"
)

// PartName is the file of the summary of a part beside that of the whole: summary_part_1_of_4.json beside summary.json.
func PartName(whole string, p work.Part) string {
	return fmt.Sprintf("%s_part_%d_of_%d.json", strings.TrimSuffix(whole, ".json"), p.Index, p.Of)
}

// FolderPart is Folder for opt.Part of the cases. It writes the part's summary under its PartName, and the whole at path
// when the summaries of all parts are there and were made of the same folders, classes and label maps as they are now; s is
// then the whole, else the part's, and waits are the parts that are yet to be scored.
func FolderPart(ctx context.Context, gtDir, predDir string, opt Options, path string) (s *Summary, waits []int, err error) {
	names, err := pairs(gtDir, predDir, opt)
	if err != nil {
		return nil, nil, err
	}
	reader, err := imageio.ChooseReader(opt.Reader, opt.Ending, join(gtDir, names[0]))
	if err != nil {
		return nil, nil, err
	}
	opt.Reader = reader.Name                                         // parts that chose the same one, named or not, are alike
	made, err := madeOf(gtDir, predDir, share(names, opt.Part), opt) // now: what changes while it is scored is scored again
	if err != nil {
		return nil, nil, err
	}
	if s, err = Folder(ctx, gtDir, predDir, opt); err != nil {
		return nil, nil, err
	}
	s.madeOf = made
	if err := s.WriteJSON(PartName(path, opt.Part)); err != nil {
		return nil, nil, err
	}
	if names, err = pairs(gtDir, predDir, opt); err != nil {
		return nil, nil, err
	}
	scores := make([]Score, len(names))
	var others []string
	for i := range opt.Part.Of {
		p := work.Part{Index: i, Of: opt.Part.Of}
		made, err := madeOf(gtDir, predDir, share(names, p), opt)
		if err != nil {
			return nil, nil, err
		}
		part, err := ReadSummary(PartName(path, p))
		switch {
		case err != nil:
			waits = append(waits, i)
		case part.madeOf != made || len(part.Cases) != len(share(names, p)):
			waits, others = append(waits, i), append(others, PartName(path, p))
		default:
			for k, c := range part.Cases {
				scores[i+k*p.Of] = c
			}
		}
	}
	if others != nil {
		slog.Warn("parts were scored of other label maps, of other folders or of other classes than this one: score them again",
			"files", others)
	}
	if waits != nil {
		return s, waits, nil
	}
	s = Summarize(scores, opt.Classes)
	return s, nil, s.WriteJSON(path)
}

// madeOf is a digest of what the scores of some cases are made of: what is scored, and the files by their full paths, sizes
// and times of change.
func madeOf(gtDir, predDir string, names []string, opt Options) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "1 %q %q\n", opt.Ending, opt.Reader)
	for _, c := range opt.Classes {
		fmt.Fprintf(h, "%q\n", c.Key())
	}
	if opt.Ignore != nil {
		fmt.Fprintf(h, "without %d\n", *opt.Ignore)
	}
	for _, dir := range []string{gtDir, predDir} {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		for _, name := range names {
			path := join(dir, name)
			for _, file := range []string{path, imageio.SpacingFile(path)} {
				if file == "" {
					continue
				}
				info, err := os.Stat(file)
				if err != nil {
					return "", err
				}
				fmt.Fprintf(h, "%q %d %d\n", file, info.Size(), info.ModTime().UnixNano())
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
