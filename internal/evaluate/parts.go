package evaluate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"masksam/internal/work"
)

// PartName is the file of the summary of a part beside that of the whole: summary_part_1_of_4.json beside summary.json.
func PartName(whole string, p work.Part) string {
	return fmt.Sprintf("%s_part_%d_of_%d.json", strings.TrimSuffix(whole, ".json"), p.Index, p.Of)
}

// FolderPart is Folder for opt.Part of the cases. It writes the part's summary under its PartName, and the whole at path
// when the summaries of all parts are there and belong to the label maps as they are now; s is then the whole, else the
// part's, and waits are the parts that are yet to be scored.
func FolderPart(ctx context.Context, gtDir, predDir string, opt Options, path string) (s *Summary, waits []int, err error) {
	if s, err = Folder(ctx, gtDir, predDir, opt); err != nil {
		return nil, nil, err
	}
	if err := s.WriteJSON(PartName(path, opt.Part)); err != nil {
		return nil, nil, err
	}
	names, err := pairs(gtDir, predDir, opt)
	if err != nil {
		return nil, nil, err
	}
	scores := make([]Score, len(names))
	for i := range opt.Part.Of {
		p := work.Part{Index: i, Of: opt.Part.Of}
		if !current(PartName(path, p), p, gtDir, predDir, names, scores) {
			waits = append(waits, i)
		}
	}
	if waits != nil {
		return s, waits, nil
	}
	s = Summarize(scores, opt.Classes)
	return s, nil, s.WriteJSON(path)
}

// current takes the scores of a part from its summary. It is false where the summary is missing, scores other cases, or is
// older than a label map that it scores.
func current(path string, p work.Part, gtDir, predDir string, names []string, scores []Score) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	s, err := ReadSummary(path)
	if err != nil {
		return false
	}
	next := 0
	for i, name := range names {
		if !p.Has(i) {
			continue
		}
		if next == len(s.Cases) || filepath.Base(s.Cases[next].Prediction) != name {
			return false
		}
		for _, label := range []string{join(gtDir, name), join(predDir, name)} {
			if of, err := os.Stat(label); err != nil || of.ModTime().After(info.ModTime()) {
				return false
			}
		}
		scores[i] = s.Cases[next]
		next++
	}
	return next == len(s.Cases)
}
