package plan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
)

// CurrentFingerprint is the fingerprint at path, unless it does not describe the dataset any more or clean asks for a new
// one: then it is extracted and written there, with a file beside it that holds the digest of the
// dataset's files.
func CurrentFingerprint(ctx context.Context, ds *dataset.Dataset, path string, clean bool, opt FingerprintOptions) (*Fingerprint, error) {
	now := filesDigest(ds)
	if !clean {
		fp, err := ReadFingerprint(path)
		switch why := ""; {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("%w; remove the file, so that it is extracted again", err)
		default:
			if why, err = stale(ds, fp, path, now); err != nil || why == "" {
				return fp, err
			}
			slog.Info("the fingerprint is extracted again", "why", why)
		}
	}
	fp, err := ExtractFingerprint(ctx, ds, opt)
	if err != nil {
		return nil, err
	}
	if err := fp.Write(path); err != nil {
		return nil, err
	}
	return fp, atomicfile.WriteBytes(sourcesPath(path), []byte(now+"\n"))
}

// sourcesPath is the file beside a fingerprint with the digest of the files that it was extracted from.
func sourcesPath(fingerprint string) string {
	return strings.TrimSuffix(fingerprint, filepath.Ext(fingerprint)) + ".sources"
}

// filesDigest is the digest of the dataset's files, empty where some are missing.
func filesDigest(ds *dataset.Dataset) string {
	cases, err := ds.Cases()
	if err != nil {
		return ""
	}
	id, err := dataset.FilesDigest(cases)
	if err != nil {
		return ""
	}
	return id
}

// stale says why a fingerprint does not describe the dataset (any more), where nnU-Net would take it all the same; empty
// if it does, or if the images are missing. now is the digest of its files. A fingerprint that another program wrote is
// stale if a file of the dataset is newer.
func stale(ds *dataset.Dataset, fp *Fingerprint, path, now string) (why string, err error) {
	made, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("read fingerprint: %w", err)
	}
	cases, err := ds.Cases()
	if err != nil {
		return "", nil
	}
	if len(cases) != len(fp.Shapes) {
		return fmt.Sprintf("it is of %d cases, the dataset has %d", len(fp.Shapes), len(cases)), nil
	}
	if n := len(fp.Intensity); n != len(ds.Channels) {
		return fmt.Sprintf("it is of %d channels, the dataset has %d", n, len(ds.Channels)), nil
	}
	then, err := os.ReadFile(sourcesPath(path))
	switch {
	case now == "":
		return "", nil
	case err == nil:
		if strings.TrimSpace(string(then)) != now {
			return "files of the dataset have changed", nil
		}
		return "", nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("read fingerprint: %w", err)
	}
	for _, c := range cases {
		for _, file := range c.Files() {
			if info, err := os.Stat(file); err == nil && info.ModTime().After(made.ModTime()) {
				return file + " is newer", nil
			}
		}
	}
	return "", nil
}
