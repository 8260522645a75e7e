package predict

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"masksam/internal/atomicfile"
	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/masksam"
	"masksam/internal/model"
	"masksam/internal/torch"
	"masksam/internal/torch/torchtest"
	"masksam/internal/volume"
)

// The process that is killed gets what it is to predict in one variable; the others, for longer tests by hand, say how
// often it is killed, and how many cases one process labels.
const (
	killedJob = "MASKSAM_TEST_PREDICT"
	kills     = "MASKSAM_TEST_KILLS"
	manyCases = "MASKSAM_TEST_CASES"
)

// random writes a checkpoint of a network of random weights, whose labels differ from voxel to voxel.
func (c *constant) random(t *testing.T, fold string) {
	t.Helper()
	net, err := masksam.New(c.meta.Recipe.Network, torchtest.Device(t), 7)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	rng := rand.New(rand.NewPCG(4, 8))
	for _, p := range net.Params.All() {
		data := p.Value.Float32s()
		spread := float32(0.3)
		if strings.Contains(p.Name, "classifier") { // so that each query has a class of its own
			spread = 3
		}
		for i := range data {
			data[i] += spread * float32(rng.NormFloat64())
		}
		if err := torch.Do(torch.Mode{}, func(*torch.Scope) error { p.Value.CopyFrom32(data); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	c.save(t, fold, net)
}

// cases writes n images of noise, of sizes that differ.
func cases(t *testing.T, n int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	rng := rand.New(rand.NewPCG(8, 9))
	for i := range n {
		g := volume.NewGrid([3]int{20, 22, 6 + i%3}, [3]float64{1, 1.1, 3})
		data := make([]float32, g.Len())
		for k := range data {
			data[k] = 100 + 20*float32(rng.NormFloat64())
		}
		path := filepath.Join(dir, fmt.Sprintf("case_%03d_0000.nii.gz", i))
		if err := imageio.WriteFloat(path, [][]float32{data}, imageio.Meta{Grid: g, Dims: 3}); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A prediction that is killed at any moment leaves whole cases or none, goes on with the others, and ends with the bytes of
// one that was never killed.
func TestKilled(t *testing.T) {
	if text := os.Getenv(killedJob); text != "" { // the process that is killed
		var job struct{ Model, Input, Output string }
		if err := json.Unmarshal([]byte(text), &job); err != nil {
			t.Fatal(err)
		}
		torch.SetThreads(1)
		m, err := Open(job.Model, nil, model.Final, "", torch.CPU)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Folder(t.Context(), Options{Input: job.Input, Output: job.Output, Continue: true, SaveProbabilities: true,
			Tiling: Tiling{Step: 1}}); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Parallel()
	c := newConstant(t)
	c.random(t, "0")
	const n = 4
	in := cases(t, n)
	run := func(out string) (*exec.Cmd, chan error) {
		text, err := json.Marshal(map[string]string{"Model": c.dir, "Input": in, "Output": out})
		if err != nil {
			t.Fatal(err)
		}
		child := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		child.Env = append(os.Environ(), killedJob+"="+string(text))
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- child.Wait() }()
		return child, ended
	}
	files := func(dir string) map[string]string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			out[e.Name()] = string(text)
		}
		delete(out, argumentsName) // names the output folder
		return out
	}
	whole := filepath.Join(t.TempDir(), "whole")
	began := time.Now()
	if _, ended := run(whole); <-ended != nil {
		t.Fatal("the process fails by itself")
	}
	span := time.Since(began)
	want := files(whole)
	if len(want) != 3*n+2 {
		t.Fatalf("%d files of %d cases", len(want), n)
	}
	first, err := imageio.ReadLabel(filepath.Join(whole, "case_000.nii.gz"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int32]bool{}
	for _, v := range first.Data {
		seen[v] = true
	}
	if len(seen) < 2 {
		t.Fatal("all voxels have one label: the test proves less than it should")
	}

	times := 3
	if n, err := strconv.Atoi(os.Getenv(kills)); err == nil {
		times = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, a whole run takes %v", seed, span)
	rng := rand.New(rand.NewPCG(seed, 0))
	left := map[string]int{}
	dir := t.TempDir()
	runs, out := 0, ""
	for kill := 0; kill < times; {
		if out == "" {
			out = filepath.Join(dir, fmt.Sprint("out", runs))
			runs++
		}
		child, ended := run(out)
		// At a random moment, or when a file is being written, or when some cases are done.
		await := []string{"", ".case_*.npz.*" + atomicfile.Suffix, fmt.Sprintf("case_%03d.pkl", rng.IntN(n)),
			".case_*.nii.gz.*" + atomicfile.Suffix}[kill%4]
		moment := time.After(time.Minute)
		if await == "" {
			moment = time.After(time.Duration(rng.Float64() * float64(span)))
		}
		done := false
		for waiting := true; waiting; {
			select {
			case err := <-ended:
				if err != nil {
					t.Fatalf("a prediction that goes on fails: %v", err)
				}
				done, waiting = true, false
			case <-moment:
				waiting = false
			case <-time.After(100 * time.Microsecond):
				found, _ := atomicfile.Glob(out, await)
				waiting = await == "" || len(found) == 0
			}
		}
		if !done {
			if err := child.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatal(err)
			}
			done = <-ended == nil
		}
		kill++
		labels, _ := atomicfile.Glob(out, "case_*.nii.gz")
		left[fmt.Sprintf("%d of %d cases", len(labels), n)]++
		if partial, _ := atomicfile.Glob(out, ".*"+atomicfile.Suffix); len(partial) > 0 {
			left[atomicfile.Suffix]++
		}
		for _, path := range labels { // what is there is what it will be
			if text, err := os.ReadFile(path); err != nil || string(text) != want[filepath.Base(path)] {
				t.Fatalf("after kill %d %s differs from the uninterrupted run's: %v", kill, path, err)
			}
		}
		if !done && kill < times && rng.IntN(3) > 0 {
			continue // it is killed again
		}
		if !done {
			if _, ended := run(out); <-ended != nil {
				t.Fatal("the prediction does not go on")
			}
		}
		got := files(out)
		for name, text := range want {
			if got[name] != text {
				t.Errorf("%s differs from the uninterrupted run's", name)
			}
			delete(got, name)
		}
		if len(got) > 0 {
			t.Errorf("left behind: %v", got)
		}
		out = ""
	}
	t.Logf("%d kills of %d predictions; found after them: %v", times, runs, left)
}

// Many cases in one process take no more memory than a few: what a case took comes back. So many as the variable says, as
// it takes minutes.
func TestManyCases(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv(manyCases))
	if err != nil {
		t.Skip(manyCases + " is not set")
	}
	c := newConstant(t)
	c.random(t, "0")
	m := open(t, c, "0")
	in, out := cases(t, n), t.TempDir()
	bar := &residents{}
	o := Options{Input: in, Output: out, SaveProbabilities: true, Tiling: Tiling{Step: 1, Mirror: true}, Progress: bar}
	if err := m.Folder(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(out, "*.nii.gz")); len(left) != n {
		t.Fatalf("%d of %d cases", len(left), n)
	}
	t.Logf("resident MiB after each tenth of %d cases: %v", n, bar.mib)
	early, late := bar.mib[2], bar.mib[len(bar.mib)-1]
	if late > early+early/20+8 {
		t.Errorf("the process grew from %d to %d MiB", early, late)
	}
}

// residents reads the process's size with each tenth of the cases.
type residents struct {
	steps
	mib []int
}

func (r *residents) Advance(n int, note string) {
	r.steps.Advance(n, note)
	if r.done*10/r.total > len(r.mib) {
		r.mib = append(r.mib, int(machine.Resident()>>20))
	}
}
