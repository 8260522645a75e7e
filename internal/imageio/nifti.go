package imageio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// NIfTI-1 and NIfTI-2, as one file (.nii) or two (.hdr, .img), each also gzipped, in both byte orders.
var nifti = Format{
	Name:    "NIfTI",
	Endings: []string{".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"},
	Open: func(path string, by library) (Stream, error) {
		f, err := openNIfTI(path, by)
		if err != nil {
			return nil, err // not f: a nil file is no nil Stream
		}
		return f, nil
	},
	Write: writeNIfTI,
}

// niftiFile is an open NIfTI file.
type niftiFile struct {
	*stream
	header []byte // as it is in the file
}

func openNIfTI(path string, by library) (*niftiFile, error) {
	headerPath, imagePaths := niftiPair(path)
	src, err := openSource(headerPath)
	if err != nil {
		return nil, err
	}
	var header bytes.Buffer
	raw, err := readNIfTIHeader(io.TeeReader(src, &header))
	var h *niftiHeader
	if err == nil {
		h, err = raw.check(by)
	}
	if err != nil {
		src.Close()
		return nil, err
	}
	if h.pair {
		src.Close()
		if src, err = openFirst(imagePaths); err != nil {
			return nil, err
		}
	}
	if err := src.reach(h.offset, h.bytes()); err != nil {
		src.Close()
		return nil, err
	}
	return &niftiFile{binaryStream(h.layout, src), header.Bytes()}, nil
}

// openFirst opens the first of a two-file image's possible files of voxels that is there.
func openFirst(paths []string) (*source, error) {
	if len(paths) == 0 {
		return nil, errors.New("holds only the header of a two-file NIfTI (magic ni1 or ni2); name it .hdr beside " +
			"its .img")
	}
	for _, path := range paths {
		src, err := openSource(path)
		if err == nil {
			return src, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("its voxels in %s: %w", path, err)
		}
	}
	return nil, fmt.Errorf("its voxels: none of %s is there", strings.Join(paths, ", "))
}

// niftiPair gives the file that holds the header and, for the endings of two-file images, where the voxels may be.
func niftiPair(path string) (header string, images []string) {
	lower := strings.ToLower(path)
	for _, ending := range []string{".hdr", ".hdr.gz", ".img", ".img.gz"} {
		if !strings.HasSuffix(lower, ending) {
			continue
		}
		stem := path[:len(path)-len(ending)]
		header = stem + ".hdr"
		if strings.HasPrefix(ending, ".hdr") {
			header = path
		} else if _, err := os.Stat(header); err != nil {
			if _, err := os.Stat(header + ".gz"); err == nil {
				header += ".gz"
			}
		}
		return header, []string{stem + ".img", stem + ".img.gz"}
	}
	return path, nil
}
