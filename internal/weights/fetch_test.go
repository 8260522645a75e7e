package weights_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"masksam/internal/atomicfile"
	"masksam/internal/progress"
	"masksam/internal/weights"
)

// published is a file of random bytes on a server, which handle may serve another way.
func published(t *testing.T, handle func(w http.ResponseWriter, r *http.Request, content []byte)) (weights.Official, []byte, string) {
	content := make([]byte, 3_000_000)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(content)
	sum := sha256.Sum256(content)
	o := weights.Official{Encoder: "vit_b", Name: "sam.pth", Bytes: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/models/sam.pth" {
			http.NotFound(w, r)
			return
		}
		handle(w, r, content)
	}))
	t.Cleanup(server.Close)
	return o, content, server.URL + "/models/"
}

func whole(w http.ResponseWriter, r *http.Request, content []byte) {
	http.ServeContent(w, r, "sam.pth", time.Time{}, strings.NewReader(string(content)))
}

func fetch(o weights.Official, dir, from string) error {
	_, _, err := weights.Fetch(context.Background(), o, weights.FetchOptions{Dir: dir, From: from})
	return err
}

// same fails unless a folder holds the file and nothing else but the lock.
func same(t *testing.T, dir string, content []byte) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, "sam.pth"))
	if err != nil || string(got) != string(content) {
		t.Errorf("fetched %d bytes that differ, error %v", len(got), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.part")); left != nil {
		t.Errorf("left %v", left)
	}
}

func TestFetch(t *testing.T) {
	requests := 0
	o, content, from := published(t, func(w http.ResponseWriter, r *http.Request, content []byte) {
		requests++
		whole(w, r, content)
	})
	dir := filepath.Join(t.TempDir(), "new")
	for _, want := range []bool{true, false} {
		path, saved, err := weights.Fetch(t.Context(), o, weights.FetchOptions{Dir: dir, From: from})
		if err != nil || saved != want || path != filepath.Join(dir, o.Name) {
			t.Fatalf("path %s, saved %v, want %v, error %v", path, saved, want, err)
		}
		same(t, dir, content)
	}
	if requests != 1 {
		t.Errorf("%d requests for a file that was there", requests)
	}
	if err := os.WriteFile(filepath.Join(dir, o.Name), []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := fetch(o, dir, from); err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("another file of the name: error %v", err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, o.Name)); string(b) != "mine" {
		t.Error("another file of the name was changed")
	}
}

// A connection that is cut is taken up again where it was cut, in the same call and in a later one.
func TestFetchResumes(t *testing.T) {
	var starts []string
	o, content, from := published(t, func(w http.ResponseWriter, r *http.Request, content []byte) {
		starts = append(starts, r.Header.Get("Range"))
		if len(starts) > 2 {
			whole(w, r, content)
			return
		}
		at := 0
		if r.Header.Get("Range") != "" {
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &at)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(content)-1, len(content)))
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)-at))
		if at > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(content[at : at+1_000_000])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sam.pth.part"), content[:100], 0o666); err != nil {
		t.Fatal(err)
	}
	if err := fetch(o, dir, from); err != nil {
		t.Fatal(err)
	}
	same(t, dir, content)
	if len(starts) != 3 || starts[0] != "bytes=100-" || starts[1] == starts[0] || starts[2] == starts[1] {
		t.Errorf("asked for %q", starts)
	}
}

// A server that knows no ranges sends all again; a part that is longer than the file is none of it.
func TestFetchBeginsAgain(t *testing.T) {
	for _, part := range []int{500, 4_000_000} {
		o, content, from := published(t, func(w http.ResponseWriter, r *http.Request, content []byte) { w.Write(content) })
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "sam.pth.part"), make([]byte, part), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := fetch(o, dir, from); err != nil {
			t.Fatal(err)
		}
		same(t, dir, content)
	}
}

func TestFetchRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		handle func(w http.ResponseWriter, r *http.Request, content []byte)
		want   string
	}{
		"wrong content": {func(w http.ResponseWriter, r *http.Request, content []byte) {
			wrong := slices.Clone(content)
			wrong[5]++
			whole(w, r, wrong)
		}, "SHA-256"},
		"another length": {func(w http.ResponseWriter, r *http.Request, content []byte) { whole(w, r, content[:1000]) }, "1000 bytes"},
		"not found":      {func(w http.ResponseWriter, r *http.Request, content []byte) { http.NotFound(w, r) }, "404"},
		"forbidden":      {func(w http.ResponseWriter, r *http.Request, content []byte) { w.WriteHeader(403) }, "403"},
		"broken":         {func(w http.ResponseWriter, r *http.Request, content []byte) { w.WriteHeader(503) }, "503"},
		"a page": {func(w http.ResponseWriter, r *http.Request, content []byte) {
			fmt.Fprint(w, "<html>please log in</html>")
		},
			"bytes; the published file has"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, _, from := published(t, c.handle)
			dir := t.TempDir()
			err := fetch(o, dir, from)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), o.Name) {
				t.Errorf("error %v, want it to say %q", err, c.want)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*")); left != nil && !slices.Equal(left, []string{filepath.Join(dir, ".lock")}) {
				t.Errorf("left %v", left)
			}
		})
	}
}

// A server may leave the length of the whole file open, and send its rest in pieces.
func TestFetchOpenRange(t *testing.T) {
	o, content, from := published(t, func(w http.ResponseWriter, r *http.Request, content []byte) {
		at := 0
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &at)
		end := min(at+1_000_000, len(content))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", at, end-1))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(content[at:end])
	})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sam.pth.part"), content[:100], 0o666); err != nil {
		t.Fatal(err)
	}
	if err := fetch(o, dir, from); err != nil {
		t.Fatal(err)
	}
	same(t, dir, content)
}

// A page that a proxy sends in place of the file leaves what an earlier call has brought.
func TestFetchKeepsPart(t *testing.T) {
	for name, handle := range map[string]func(w http.ResponseWriter){
		"a page": func(w http.ResponseWriter) { fmt.Fprint(w, "<html>please log in</html>") },
		"a page of unknown length": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.(http.Flusher).Flush()
			fmt.Fprint(w, "<html>please log in</html>")
		},
		"forbidden": func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) },
	} {
		t.Run(name, func(t *testing.T) {
			o, content, from := published(t, func(w http.ResponseWriter, r *http.Request, content []byte) { handle(w) })
			dir := t.TempDir()
			part := filepath.Join(dir, "sam.pth.part")
			if err := os.WriteFile(part, content[:1_000_000], 0o666); err != nil {
				t.Fatal(err)
			}
			if err := fetch(o, dir, from); err == nil {
				t.Error("no error")
			}
			if kept, err := os.ReadFile(part); err != nil || string(kept) != string(content[:1_000_000]) {
				t.Errorf("%d bytes are kept, error %v", len(kept), err)
			}
		})
	}
}

// notes keeps what the progress line says.
type notes struct {
	progress.Reporter
	said []string
}

func (n *notes) Advance(_ int, note string) { n.said = append(n.said, note) }

// A server that is away for a while is asked again, and the progress line says so.
func TestFetchWaits(t *testing.T) {
	asked := 0
	o, content, from := published(t, func(w http.ResponseWriter, r *http.Request, content []byte) {
		if asked++; asked < 9 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		whole(w, r, content)
	})
	dir := t.TempDir()
	line := &notes{Reporter: progress.Nop}
	if _, _, err := weights.Fetch(t.Context(), o, weights.FetchOptions{Dir: dir, From: from, Progress: line}); err != nil {
		t.Fatal(err)
	}
	same(t, dir, content)
	for _, want := range []string{"MB, attempt 2 of 9 in 1ms", "MB, attempt 9 of 9 in 128ms"} {
		if !slices.Contains(line.said, want) {
			t.Errorf("%q is not in %q", want, line.said)
		}
	}
	if last := line.said[len(line.said)-1]; strings.Contains(last, "attempt") {
		t.Errorf("ends with %q", last)
	}
}

// A range that is another one than was asked for would make a file of wrong parts.
func TestFetchWrongRange(t *testing.T) {
	o, content, from := published(t, func(w http.ResponseWriter, r *http.Request, content []byte) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(content)-1, len(content)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(content)
	})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sam.pth.part"), content[:100], 0o666); err != nil {
		t.Fatal(err)
	}
	if err := fetch(o, dir, from); err == nil || !strings.Contains(err.Error(), "range") {
		t.Errorf("error %v", err)
	}
}

func TestFetchFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	o, _, from := published(t, whole)
	dir := t.TempDir()
	if err := os.Symlink("/dev/full", filepath.Join(dir, "sam.pth.part")); err != nil {
		t.Fatal(err)
	}
	if err := fetch(o, dir, from); err == nil || !strings.Contains(err.Error(), "no space left") && !strings.Contains(err.Error(), "on the disk") {
		t.Errorf("error %v", err)
	}
	o.Bytes = 1 << 60
	if err := fetch(o, t.TempDir(), from); err == nil || !strings.Contains(err.Error(), "on the disk") {
		t.Errorf("a file beyond the disk: error %v", err)
	}
}

func TestFetchStops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	part := filepath.Join(dir, "sam.pth.part")
	o, _, from := published(t, func(w http.ResponseWriter, r *http.Request, content []byte) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content[:1_000_000])
		w.(http.Flusher).Flush()
		for info, err := os.Stat(part); err != nil || info.Size() == 0; info, err = os.Stat(part) {
			time.Sleep(time.Millisecond)
		}
		cancel()
		<-r.Context().Done()
	})
	_, _, err := weights.Fetch(ctx, o, weights.FetchOptions{Dir: dir, From: from})
	if err == nil || !strings.Contains(err.Error(), "kept") || ctx.Err() == nil {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(part); err != nil {
		t.Error(err)
	}
}

func TestFetchLocked(t *testing.T) {
	o, content, from := published(t, whole)
	dir := t.TempDir()
	lock, err := atomicfile.Lock(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := fetch(o, dir, from); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("error %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, o.Name), content, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := fetch(o, dir, from); err != nil { // a file that is there needs no lock
		t.Error(err)
	}
}

// The proxy of the environment is asked; net/http reads the variable once, so another process does it.
func TestFetchProxy(t *testing.T) {
	if proxied := os.Getenv("TEST_PROXIED_FOLDER"); proxied != "" {
		content := []byte("through the proxy")
		sum := sha256.Sum256(content)
		o := weights.Official{Encoder: "vit_b", Name: "sam.pth", Bytes: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
		if err := fetch(o, proxied, "http://weights.invalid/models"); err != nil {
			t.Fatal(err)
		}
		return
	}
	var asked atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.String())
		fmt.Fprint(w, "through the proxy")
	}))
	defer proxy.Close()
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestFetchProxy$")
	child.Env = append(os.Environ(), "TEST_PROXIED_FOLDER="+dir, "HTTP_PROXY="+proxy.URL, "http_proxy="+proxy.URL, "NO_PROXY=", "no_proxy=")
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if asked.Load() != "http://weights.invalid/models/sam.pth" {
		t.Errorf("the proxy was asked for %v", asked.Load())
	}
	same(t, dir, []byte("through the proxy"))
}
