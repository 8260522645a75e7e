package archive

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/klauspost/compress/flate"

	"masksam/internal/atomicfile"
	"masksam/internal/progress"
)

// Entry is a file to be archived, under a name with slashes.
type Entry struct{ Name, Path string }

// Write makes a zip archive of files in the given order, compressed by deflate, each with its time of change. The archive
// appears whole or not at all.
func Write(ctx context.Context, to string, entries []Entry, report progress.Reporter) error {
	report = progress.OrNop(report)
	var total int64
	for _, e := range entries {
		info, err := os.Stat(e.Path)
		if err != nil {
			return err
		}
		total += info.Size()
	}
	report.Start("packing", int(total/megabyte))
	defer report.Done()
	t := &teller{ctx: ctx, report: report}
	return atomicfile.Write(to, func(w io.Writer) error {
		z := zip.NewWriter(w)
		// Weights hardly shrink, whatever the effort.
		z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestSpeed) })
		for _, e := range entries {
			t.note = path.Base(e.Name)
			if err := add(z, e, t); err != nil {
				return err
			}
		}
		return z.Close()
	})
}

func add(z *zip.Writer, e Entry, t *teller) error {
	f, err := os.Open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", e.Path)
	}
	header, err := zip.FileInfoHeader(info)
	if err != nil {
		return err
	}
	header.Name, header.Method = e.Name, zip.Deflate
	w, err := z.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.MultiWriter(w, t), f)
	return err
}
