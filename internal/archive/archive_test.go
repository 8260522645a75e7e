package archive_test

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"masksam/internal/archive"
	"masksam/internal/machine"
)

// entry is a file of a zip made for a test.
type entry struct {
	name, text string
	change     func(h *zip.FileHeader)
}

// made is a zip of files. Their headers are changed after they were filled in, whatever that makes of them.
func made(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		var packed bytes.Buffer
		z, err := flate.NewWriter(&packed, flate.BestSpeed)
		if err == nil {
			_, err = io.WriteString(z, e.text)
		}
		if err = errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate, CRC32: crc32.ChecksumIEEE([]byte(e.text)),
			CompressedSize64: uint64(packed.Len()), UncompressedSize64: uint64(len(e.text))}
		if e.change != nil {
			e.change(h)
		}
		raw, err := w.CreateRaw(h)
		if err == nil && h.CompressedSize64 > 0 {
			_, err = raw.Write(packed.Bytes())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func save(t testing.TB, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.zip")
	if err := os.WriteFile(path, text, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// unpack opens and extracts.
func unpack(ctx context.Context, path, to string, most machine.Bytes) error {
	r, err := archive.Open(path, most)
	if err != nil {
		return err
	}
	return errors.Join(r.Extract(ctx, to, nil), r.Close())
}

func file(name, text string) entry { return entry{name: name, text: text} }

func mode(m fs.FileMode) func(h *zip.FileHeader) { return func(h *zip.FileHeader) { h.SetMode(m) } }

// What means harm, or is damaged, is refused by an error that tells why, and nothing of it lies outside the folder.
func TestRefuses(t *testing.T) {
	long := strings.Repeat("0", 200_000)
	end := func(text []byte, at int, value uint32) []byte { // in the end of the directory, 22 bytes
		binary.LittleEndian.PutUint32(text[len(text)-22+at:], value)
		return text
	}
	two := made(t, file("a", long), file("b", long))
	for name, c := range map[string]struct {
		zip  []byte
		want string
	}{
		"traversal":         {made(t, file("../a", "x")), "leads out"},
		"inner traversal":   {made(t, file("a/../../b", "x")), "leads out"},
		"absolute":          {made(t, file("/etc/a", "x")), "leads out"},
		"backslash":         {made(t, file(`..\a`, "x")), "leads out"},
		"drive":             {made(t, file(`C:a`, "x")), "leads out"},
		"empty part":        {made(t, file("a//b", "x")), "leads out"},
		"the folder itself": {made(t, file(".", "x")), "no name"},
		"no name":           {made(t, file("", "x")), "no name"},
		"control":           {made(t, file("a\nb", "x")), "no name"},
		"no text":           {made(t, file("a\xff", "x")), "no name"},
		"long name":         {made(t, file(strings.Repeat("a/", 2000)+"b", "x")), "no name"},
		"link":              {made(t, entry{"a", "/etc/passwd", mode(fs.ModeSymlink | 0o777)}), "is a link"},
		"device":            {made(t, entry{"a", "", mode(fs.ModeDevice | 0o666)}), "special file"},
		"pipe":              {made(t, entry{"a", "", mode(fs.ModeNamedPipe | 0o666)}), "special file"},
		"socket":            {made(t, entry{"a", "", mode(fs.ModeSocket | 0o666)}), "special file"},
		"folder's mode":     {made(t, entry{"a", "x", mode(fs.ModeDir | 0o777)}), "special file"},
		"twice":             {made(t, file("a", "x"), file("a", "y")), "two files"},
		"case":              {made(t, file("d/a", "x"), file("d/A", "y")), "take for one"},
		"case of a folder":  {made(t, file("d/a", "x"), file("D/b", "y")), "take for one"},
		"file and folder":   {made(t, file("d", "x"), file("d/a", "y")), "as a file and as a folder"},
		"encrypted":         {made(t, entry{"a", "x", func(h *zip.FileHeader) { h.Flags |= 1 }}), "encrypted"},
		"bzip2":             {made(t, entry{"a", "x", func(h *zip.FileHeader) { h.Method = 12 }}), "bzip2"},
		"unknown method":    {made(t, entry{"a", "x", func(h *zip.FileHeader) { h.Method = 77 }}), "method 77"},
		"full folder":       {bytes.ReplaceAll(made(t, file("folder_", "x")), []byte("folder_"), []byte("folder/")), "folder with content"},
		"bomb":              {made(t, file("a", strings.Repeat("0", 70<<20))), "is too large"},
		"claims much":       {made(t, entry{"a", "x", func(h *zip.FileHeader) { h.UncompressedSize64 = 1 << 62 }}), "beyond any disk"},
		"claims too much":   {made(t, entry{"a", "x", func(h *zip.FileHeader) { h.UncompressedSize64 = 1 << 40 }}), "is too large"},
		"gives more":        {made(t, entry{"a", long, func(h *zip.FileHeader) { h.UncompressedSize64 = 10 }}), "another size"},
		"gives less":        {made(t, entry{"a", "x", func(h *zip.FileHeader) { h.UncompressedSize64 = 10 }}), "another size"},
		"checksum":          {made(t, entry{"a", "x", func(h *zip.FileHeader) { h.CRC32++ }}), "checksum"},
		"cut off":           {two[:len(two)/2], "no zip archive, or is cut off"},
		"another file":      {[]byte("text"), "no zip archive"},
		"moved directory":   {end(bytes.Clone(two), 16, 3), "does not begin where"},
		"shared bytes": {func() []byte {
			text := bytes.Clone(two)
			second := bytes.LastIndex(text, []byte("PK\x01\x02"))
			binary.LittleEndian.PutUint32(text[second+42:], 0) // its file begins where the first does
			return text
		}(), "shares bytes"},
		"large directory": {func() []byte {
			var many []entry
			for i := range 600 {
				name := strings.Repeat("a", 900) + string(rune('a'+i/26)) + string(rune('a'+i%26))
				many = append(many, entry{name, "", func(h *zip.FileHeader) { h.Comment = strings.Repeat("c", 60_000) }})
			}
			return made(t, many...)
		}(), "directory of more than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			to := filepath.Join(dir, "to")
			if err := os.Mkdir(to, 0o777); err != nil {
				t.Fatal(err)
			}
			err := unpack(t.Context(), save(t, c.zip), to, 0)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "a.zip") {
				t.Fatalf("error %v, want one about %q that names the archive", err, c.want)
			}
			if beside, err := os.ReadDir(dir); err != nil || len(beside) != 1 {
				t.Errorf("beside the folder there are %v, error %v", beside, err)
			}
		})
	}
}

// A limit that is given counts alone: it lets a high ratio pass, and refuses what is larger.
func TestLimit(t *testing.T) {
	path := save(t, made(t, file("a", strings.Repeat("0", 70<<20))))
	r, err := archive.Open(path, 80<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Bytes() != 70<<20 {
		t.Errorf("%v", r.Bytes())
	}
	if _, err := archive.Open(path, 60<<20); !errors.Is(err, archive.ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
}

func TestExtractStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := unpack(ctx, save(t, made(t, file("a", "x"))), t.TempDir(), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// What was written comes back.
func TestThereAndBack(t *testing.T) {
	from, out := t.TempDir(), t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c]{1,2}(/[d-f ]{1,3}\.x){0,2}`), 0, 3,
			func(s string) string { return strings.SplitN(s, "/", 2)[0] }).Draw(rt, "names")
		dir, err := os.MkdirTemp(from, "")
		if err != nil {
			rt.Fatal(err)
		}
		want := map[string]string{}
		var entries []archive.Entry
		for _, name := range names {
			text := string(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "text"))
			path := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
			if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
				rt.Fatal(err)
			}
			want[name] = text
			entries = append(entries, archive.Entry{Name: name, Path: path})
		}
		zipped := dir + ".zip"
		if err := archive.Write(context.Background(), zipped, entries, nil); err != nil {
			rt.Fatal(err)
		}
		to := filepath.Join(out, filepath.Base(dir))
		if err := os.Mkdir(to, 0o777); err != nil {
			rt.Fatal(err)
		}
		if err := unpack(context.Background(), zipped, to, 0); err != nil {
			rt.Fatal(err)
		}
		if d := cmp.Diff(want, tree(rt, to)); d != "" {
			rt.Error(d)
		}
	})
}

// tree is the content of the files below a folder, by name.
func tree(t interface{ Fatal(...any) }, dir string) map[string]string {
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return errors.New(path + " is no file")
		}
		text, err := os.ReadFile(filepath.Join(dir, path))
		files[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// FuzzRead: whatever the bytes are, no file lies outside the folder, and those in it have at most as many bytes as they may.
func FuzzRead(f *testing.F) {
	f.Add(made(f, file("a", "x"), file("d/b", strings.Repeat("y", 1000)), entry{"e/", "", func(h *zip.FileHeader) { h.CompressedSize64 = 0 }}))
	f.Add(made(f, file("../a", "x")))
	f.Add(made(f, file("d", "x"), file("D/b", "y")))
	f.Add(made(f, entry{"a", "/etc", mode(fs.ModeSymlink | 0o777)}))
	f.Add(made(f, entry{"a", "xxxx", func(h *zip.FileHeader) { h.UncompressedSize64 = 2 }}))
	var large bytes.Buffer // zip64
	w := zip.NewWriter(&large)
	raw, err := w.CreateRaw(&zip.FileHeader{Name: "a", Method: zip.Store, CompressedSize64: 1 << 33, UncompressedSize64: 1 << 33})
	if err == nil {
		_, err = raw.Write([]byte("x"))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(large.Bytes())
	f.Fuzz(func(t *testing.T, text []byte) {
		const most = 1 << 16
		dir := t.TempDir()
		to := filepath.Join(dir, "to")
		if err := os.Mkdir(to, 0o777); err != nil {
			t.Fatal(err)
		}
		err := unpack(t.Context(), save(t, text), to, most)
		if beside, err := os.ReadDir(dir); err != nil || len(beside) != 1 {
			t.Fatalf("beside the folder there are %v, error %v", beside, err)
		}
		total := 0
		for _, content := range tree(t, to) {
			total += len(content)
		}
		if total > most+1 {
			t.Fatalf("%d bytes", total)
		}
		if err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}
