package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"masksam/internal/goldentest"
	"masksam/internal/weights"
)

// masksam runs a command line and returns what it wrote.
func masksam(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, log bytes.Buffer
	if code := run("masksam", args, &out, &log); code != want {
		t.Fatalf("masksam %s: exit code %d, want %d: %s", strings.Join(args, " "), code, want, log.String())
	}
	return out.String(), log.String()
}

// The JSON of every golden file is what PyTorch read from it.
func TestWeightsInspectJSON(t *testing.T) {
	root := goldentest.Path(t, "pth")
	var files []map[string]any
	goldentest.JSON(t, "pth/expected.json", &files)
	for _, want := range files {
		name := want["file"].(string)
		out, _ := masksam(t, exitOK, "weights", "inspect", filepath.Join(root, name), "--json")
		var got map[string]any
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, key := range []string{"tensors", "other"} {
			if !reflect.DeepEqual(got[key], want[key]) {
				t.Errorf("%s: %s are %v, want %v", name, key, got[key], want[key])
			}
		}
		if got["kind"] != "unknown" || got["sha256"] == "" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestWeightsInspectAndConvert(t *testing.T) {
	in := filepath.Join(goldentest.Path(t, "pth"), "ok_nested_numpy1.pth")
	out := filepath.Join(t.TempDir(), "a.safetensors")
	text, _ := masksam(t, exitOK, "weights", "inspect", in)
	for _, want := range []string{"kind +unknown", "tensors +4", "under model", "model/weight +float32 +4 × 3", "args/big +1180591620717411303424"} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	masksam(t, exitOK, "weights", "convert", in, out)
	text, _ = masksam(t, exitOK, "weights", "inspect", out)
	for _, want := range []string{"weight +float32 +4 × 3", `source +"ok_nested_numpy1.pth"`} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	if _, log := masksam(t, exitFailed, "weights", "convert", out, out); !strings.Contains(log, "is the file that would be read") {
		t.Errorf("onto itself: %s", log)
	}
}

// Fetch says where from and where to before it begins, and looks in the folder of the environment variable.
func TestWeightsFetch(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	dir := t.TempDir()
	t.Setenv(weights.EnvDir, dir)
	out, log := masksam(t, exitFailed, "weights", "fetch", "vit_b", "--from", server.URL)
	if want := "from " + server.URL + "/sam_vit_b_01ec64.pth\nto   " + dir + " (375 MB)\n"; out != want {
		t.Errorf("said %q, want %q", out, want)
	}
	if !strings.Contains(log, "404") {
		t.Errorf("error %s", log)
	}
	t.Setenv(weights.EnvDir, "")
	t.Chdir(dir)
	if out, _ := masksam(t, exitFailed, "weights", "fetch", "vit_b", "--from", server.URL); !strings.Contains(out, "to   "+dir+" (") {
		t.Errorf("into the current folder: %q", out)
	}
	if _, log := masksam(t, exitFailed, "weights", "fetch", "vit_x"); !strings.Contains(log, "vit_l") {
		t.Errorf("another encoder: %s", log)
	}
}
