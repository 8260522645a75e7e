package imageio_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zlib"
)

// metaFile is a MetaImage of 2×3×2 int16 with some lines added or, for a key that is there already, replaced.
func metaFile(data []byte, lines ...string) []byte {
	return textFile(" =", "ElementDataFile = LOCAL\n", data, lines, "NDims = 3", "DimSize = 2 3 2", "ElementType = MET_SHORT")
}

// nrrdFile is such a NRRD.
func nrrdFile(data []byte, lines ...string) []byte {
	return append([]byte("NRRD0004\n"), textFile(":", "\n", data, lines, "type: short", "dimension: 3", "sizes: 2 3 2",
		"encoding: raw", "endian: little")...)
}

func textFile(separator, end string, data []byte, lines []string, header ...string) []byte {
	for _, line := range lines {
		key, _, _ := strings.Cut(line, separator)
		header = slices.DeleteFunc(header, func(old string) bool { return strings.HasPrefix(old, key+separator) })
	}
	all := slices.Concat(header, lines)
	if slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, "ElementDataFile") }) {
		end = ""
	}
	return append([]byte(strings.Join(all, "\n")+"\n"+end), data...)
}

// shorts are the numbers from 1 to n as int16.
func shorts(n int) []byte {
	var b []byte
	for i := range n {
		b = le.AppendUint16(b, uint16(i+1))
	}
	return b
}

func deflate(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zlib.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func itkRefusals(t testing.TB) map[string]refusal {
	good := shorts(12)
	packed := deflate(t, good)
	badSum := slices.Clone(packed)
	badSum[len(badSum)-1] ^= 1
	zipped := zip(t, good)
	badCRC := slices.Clone(zipped)
	badCRC[len(badCRC)-5] ^= 1
	geometry := []string{"space: LPS", "space origin: (0,0,0)"}
	return map[string]refusal{
		"empty":                  {"a.mha", nil, "not a MetaImage file"},
		"text":                   {"a.mha", []byte("no image\n"), "not a MetaImage file"},
		"no newline":             {"a.mha", bytes.Repeat([]byte("x"), 2<<20), "longer than"},
		"no ElementDataFile":     {"a.mha", []byte("NDims = 3\n"), "ElementDataFile"},
		"no dimensions":          {"a.mha", metaFile(good, "NDims = 0"), "NDims"},
		"eleven dimensions":      {"a.mha", metaFile(good, "NDims = 11"), "NDims"},
		"size beside dimensions": {"a.mha", metaFile(good, "NDims = 4"), "DimSize"},
		"zero size":              {"a.mha", metaFile(good, "DimSize = 2 0 2"), "zero size"},
		"size no number":         {"a.mha", metaFile(good, "DimSize = 2 x 2"), "DimSize"},
		"size no whole number":   {"a.mha", metaFile(good, "DimSize = 2 2.5 2"), "whole"},
		"size beyond":            {"a.mha", metaFile(good, "DimSize = 9e14 9e14 9e14"), "beyond any file"},
		"many channels":          {"a.mha", metaFile(good, "NDims = 4", "DimSize = 1 1 1 70000"), "channels"},
		"type":                   {"a.mha", metaFile(good, "ElementType = MET_SHORT_ARRAY"), "MET_SHORT_ARRAY"},
		"vectors":                {"a.mha", metaFile(good, "ElementNumberOfChannels = 3"), "one value per voxel"},
		"spacing zero":           {"a.mha", metaFile(good, "ElementSpacing = 1 0 1"), "spacing"},
		"spacing NaN":            {"a.mha", metaFile(good, "ElementSpacing = 1 nan 1"), "spacing"},
		"spacing infinite":       {"a.mha", metaFile(good, "ElementSpacing = 1 inf 1"), "spacing"},
		"origin NaN":             {"a.mha", metaFile(good, "Offset = 1 nan 1"), "origin"},
		"axes in a plane":        {"a.mha", metaFile(good, "TransformMatrix = 1 2 3 4 5 6 7 8 9"), "one plane"},
		"matrix short":           {"a.mha", metaFile(good, "TransformMatrix = 1 0 0 1"), "TransformMatrix"},
		"a voxel short":          {"a.mha", metaFile(good[:22]), "truncated"},
		"a voxel short, zlib": {"a.mha", metaFile(deflate(t, good[:22]), "CompressedData = True"),
			"speaks of 12 samples, the data end after 11"},
		"zlib cut":                 {"a.mha", metaFile(packed[:len(packed)-6], "CompressedData = True"), "truncated"},
		"zlib absent":              {"a.mha", metaFile(nil, "CompressedData = True"), "truncated"},
		"zlib checksum":            {"a.mha", metaFile(badSum, "CompressedData = True"), "checksum"},
		"no zlib":                  {"a.mha", metaFile(good, "CompressedData = True"), "zlib"},
		"words":                    {"a.mha", metaFile([]byte("1 2 x"), "BinaryData = False"), "is no whole number of 16 bits"},
		"fractions of short":       {"a.mha", metaFile([]byte("1.5 2 3"), "BinaryData = False"), "is no whole number of 16 bits"},
		"beyond short":             {"a.mha", metaFile([]byte("1 40000"), "BinaryData = False"), "is no whole number of 16 bits"},
		"long word":                {"a.mha", metaFile(bytes.Repeat([]byte("1"), 1000), "BinaryData = False"), "is no number"},
		"numbers short":            {"a.mha", metaFile([]byte("1 2 3"), "BinaryData = False"), "data end after 3"},
		"HeaderSize in the header": {"a.mha", metaFile(good, "HeaderSize = 10"), "HeaderSize"},
		"HeaderSize beyond":        {"a.mha", metaFile(good, "HeaderSize = 100000"), "truncated"},
		"HeaderSize -1, zlib":      {"a.mha", metaFile(packed, "HeaderSize = -1", "CompressedData = True"), "HeaderSize"},
		"HeaderSize -2":            {"a.mha", metaFile(packed, "HeaderSize = -2"), "HeaderSize"},
		"list":                     {"a.mhd", metaFile(nil, "ElementDataFile = LIST"), "several files"},
		"pattern":                  {"a.mhd", metaFile(nil, "ElementDataFile = a%d.raw 1 2 1"), "several files"},
		"absolute":                 {"a.mhd", metaFile(nil, "ElementDataFile = /etc/passwd"), "header's folder"},
		"outside":                  {"a.mhd", metaFile(nil, "ElementDataFile = b/../../a.raw"), "header's folder"},
		"absent":                   {"a.mhd", metaFile(nil, "ElementDataFile = b.raw"), "voxels in b.raw"},
		"itself":                   {"a.mhd", metaFile(nil, "DimSize = 20 30 20", "ElementDataFile = a.mhd"), "truncated"},
		"NRRD empty":               {"a.nrrd", nil, "not a NRRD file"},
		"NRRD version":             {"a.nrrd", []byte("NRRD0009\n"), "not a NRRD file"},
		"NRRD magic alone":         {"a.nrrd", []byte("NRRD0004"), "type"},
		"NRRD field":               {"a.nrrd", nrrdFile(good, "bogus: 1"), "bogus"},
		"NRRD line":                {"a.nrrd", nrrdFile(good, "bogus"), "bogus"},
		"NRRD field twice":         {"a.nrrd", nrrdFile(good, "line skip: 0", "lineskip: 0"), "twice"},
		"NRRD type":                {"a.nrrd", nrrdFile(good, "type: block"), "block"},
		"NRRD encoding":            {"a.nrrd", nrrdFile(good, "encoding: zip"), "encoding"},
		"NRRD endian":              {"a.nrrd", nrrdFile(good, "endian: middle"), "endian"},
		"NRRD no endian":           {"a.nrrd", bytes.Replace(nrrdFile(good), []byte("endian: little\n"), nil, 1), "endian"},
		"NRRD dimension":           {"a.nrrd", nrrdFile(good, "dimension: 17"), "dimension"},
		"NRRD no dimension":        {"a.nrrd", bytes.Replace(nrrdFile(good), []byte("dimension: 3\n"), nil, 1), "dimension"},
		"NRRD sizes":               {"a.nrrd", nrrdFile(good, "sizes: 2 3 2 4"), "sizes"},
		"NRRD zero size":           {"a.nrrd", nrrdFile(good, "sizes: 2 3 0"), "zero size"},
		"NRRD one axis":            {"a.nrrd", nrrdFile(good, "dimension: 1", "sizes: 12"), "1 spatial axes"},
		"NRRD five axes":           {"a.nrrd", nrrdFile(good, "dimension: 5", "sizes: 2 3 1 1 2"), "5 dimensions"},
		"NRRD vectors":             {"a.nrrd", nrrdFile(good, "sizes: 3 2 2", "kinds: RGB-color domain domain"), "values per voxel"},
		"NRRD channels twice": {"a.nrrd", nrrdFile(good, "dimension: 5", "sizes: 1 1 3 2 2",
			"kinds: space space space time list"), "5 dimensions"},
		"NRRD no channels": {"a.nrrd", nrrdFile(good, "dimension: 4", "sizes: 2 3 2 0",
			"kinds: space space space list"), "zero size"},
		"NRRD kinds":                {"a.nrrd", nrrdFile(good, "kinds: space"), "kinds"},
		"NRRD centers":              {"a.nrrd", nrrdFile(good, "centers: cell"), "centers"},
		"NRRD space":                {"a.nrrd", nrrdFile(good, "space: nowhere"), "space"},
		"NRRD space of 2":           {"a.nrrd", nrrdFile(good, "space dimension: 2"), "space of 2"},
		"NRRD space of -1":          {"a.nrrd", nrrdFile(good, "space dimension: -1"), "spacedimension"},
		"NRRD two spaces":           {"a.nrrd", nrrdFile(good, "space dimension: 3", "space: RAS"), "spacedimension"},
		"NRRD directions, no space": {"a.nrrd", nrrdFile(good, "space directions: (1,0,0) (0,1,0) (0,0,1)"), "no space"},
		"NRRD two directions": {"a.nrrd", nrrdFile(good,
			append(geometry, "space directions: (1,0,0) (0,1,0)")...), "spacedirections"},
		"NRRD four directions": {"a.nrrd", nrrdFile(good,
			append(geometry, "space directions: (1,0,0) (0,1,0) (0,0,1) none")...), "more than 3"},
		"NRRD short direction": {"a.nrrd", nrrdFile(good, append(geometry, "space directions: (1,0,0) (0,1) (0,0,1)")...), "not 3"},
		"NRRD open direction": {"a.nrrd", nrrdFile(good,
			append(geometry, "space directions: (1,0,0) (0,1,0) (0,0,1")...), "vectors"},
		"NRRD zero direction": {"a.nrrd", nrrdFile(good,
			append(geometry, "space directions: (1,0,0) (0,1,0) (0,0,0)")...), "spacing"},
		"NRRD axes in a plane": {"a.nrrd", nrrdFile(good,
			append(geometry, "space directions: (1,0,0) (0,1,0) (1,1,0)")...), "one plane"},
		"NRRD spacings in space":     {"a.nrrd", nrrdFile(good, append(geometry, "spacings: 1 1 1")...), "spacings"},
		"NRRD spacings":              {"a.nrrd", nrrdFile(good, "spacings: 1 1"), "spacings"},
		"NRRD spacing zero":          {"a.nrrd", nrrdFile(good, "spacings: 1 0 1"), "spacing"},
		"NRRD a voxel short":         {"a.nrrd", nrrdFile(good[:22]), "truncated"},
		"NRRD a voxel short, gzip":   {"a.nrrd", nrrdFile(zip(t, good[:22]), "encoding: gzip"), "data end after 11"},
		"NRRD gzip cut":              {"a.nrrd", nrrdFile(zipped[:len(zipped)-2], "encoding: gzip"), "truncated"},
		"NRRD gzip absent":           {"a.nrrd", nrrdFile(nil, "encoding: gzip"), "truncated"},
		"NRRD gzip checksum":         {"a.nrrd", nrrdFile(badCRC, "encoding: gzip"), "checksum"},
		"NRRD bzip2":                 {"a.nrrd", nrrdFile(zipped, "encoding: bzip2"), "bzip2"},
		"NRRD hex":                   {"a.nrrd", nrrdFile([]byte("01 0x"), "encoding: hex"), "hex"},
		"NRRD hex short":             {"a.nrrd", nrrdFile([]byte("0100 0"), "encoding: hex"), "truncated"},
		"NRRD byte skip beyond":      {"a.nrrd", nrrdFile(good, "byte skip: 100"), "truncated"},
		"NRRD byte skip beyond gzip": {"a.nrrd", nrrdFile(zipped, "encoding: gzip", "byte skip: 100"), "truncated"},
		"NRRD byte skip -1 of gzip":  {"a.nrrd", nrrdFile(zipped, "encoding: gzip", "byte skip: -1"), "byteskip"},
		"NRRD line skip":             {"a.nrrd", nrrdFile(good, "line skip: 100"), "lines to skip"},
		"NRRD line skip -1":          {"a.nrrd", nrrdFile(good, "line skip: -1"), "lineskip"},
		"NRRD list": {"a.nhdr",
			[]byte("NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 2\nencoding: raw\nendian: little\ndata file: LIST\na.raw\nb.raw\n"), "several files"},
		"NRRD data file absent":  {"a.nhdr", nrrdFile(nil, "data file: b.raw"), "voxels in b.raw"},
		"NRRD data file outside": {"a.nhdr", nrrdFile(nil, "data file: ../b.raw"), "header's folder"},
		"NRRD no data file":      {"a.nhdr", nrrdFile(nil), "truncated"},
	}
}
