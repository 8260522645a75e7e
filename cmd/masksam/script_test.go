package main

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"masksam/cmd/masksam/nnunet"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"masksam/internal/atomicfile"
	"masksam/internal/imageio"
	"masksam/internal/model/modeltest"
	"masksam/internal/npz"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// TestMain lets the scripts run the program itself, too, under all its names.
func TestMain(m *testing.M) {
	if slices.Contains(names(), filepath.Base(os.Args[0])) {
		main()
	}
	os.Exit(m.Run())
}

// names are those that the program is called by.
func names() []string {
	return append(slices.Sorted(maps.Keys(nnunet.Commands)), "masksam")
}

// helper makes a script command of f, whose last argument is a path.
func helper(f func(args []string) error) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if len(args) > 0 {
			args[len(args)-1] = ts.MkAbs(args[len(args)-1])
		}
		ts.Check(f(args))
	}
}

func TestScripts(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Abs("testdata/script") // commands change the folder
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(scripts, "../../../..")
	bin := t.TempDir()
	commands := map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"mkdata":      helper(mkdata),
		"mkpublished": helper(mkpublished),
		"mkscores":    helper(mkscores),
		"mkmodel":     helper(mkmodel),
		"mkunet":      helper(mkunet),
		"spoil":       helper(spoil),
		"appears":     helper(appears),
		"whole":       helper(whole),
		"tmpfs":       tmpfs,
		"nopartial":   noPartial,
		"clone":       helper(func(args []string) error { return clone(args[0], self, root) }),
	}
	for _, name := range names() {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
		commands[name] = program(name)
	}
	testscript.Run(t, testscript.Params{
		Dir: scripts,
		Setup: func(env *testscript.Env) error {
			for _, v := range [][2]string{{"nnUNet_raw", "raw"}, {"nnUNet_preprocessed", "preprocessed"}, {"nnUNet_results", "results"}} {
				env.Setenv(v[0], filepath.Join(env.WorkDir, v[1]))
			}
			env.Setenv("BIN", bin) // a PATH without other programs
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("TERM", "dumb")
			env.Setenv("OMP_NUM_THREADS", "1")
			return nil
		},
		Cmds: commands,
		Condition: func(cond string) (bool, error) {
			if cond != "tmpfs" {
				return false, fmt.Errorf("unknown condition %s", cond)
			}
			dir := t.TempDir()
			if unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k") != nil {
				return false, nil
			}
			return true, unix.Unmount(dir, 0)
		},
	})
}

// mkmodel DIR makes a small model of two folds below a folder of results.
func mkmodel(args []string) error {
	_, err := modeltest.Write(args[0], "0", "1")
	return err
}

// mkunet DIR makes a small model of nnU-Net's own below a folder of results.
func mkunet(args []string) error {
	_, err := modeltest.WriteUNet(args[0], "nnUNetTrainer", nil)
	return err
}

// clone DIR makes a folder as a clone of the repository at root is after make build: the scripts, and the program.
func clone(dir, self, root string) error {
	return errors.Join(os.CopyFS(filepath.Join(dir, "bash"), os.DirFS(filepath.Join(root, "bash"))),
		os.MkdirAll(filepath.Join(dir, "bin"), 0o777), os.Symlink(self, filepath.Join(dir, "bin", "masksam")))
}

// oneAtATime is held by a command that runs in the test's own process, whose folder and environment it takes.
var oneAtATime sync.Mutex

// program runs the program in the test's own process: libtorch's start takes more time than most commands. The scripts
// that train run it as processes of their own, which keeps the other core busy; so do help, which ends the process, and
// exec in any script.
func program(name string) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		ends := len(args) == 0 || slices.ContainsFunc(args, func(a string) bool { return a == "--help" || a == "-h" || a == "--version" })
		var failed bool
		if ends || slices.Contains([]string{"small", "recipes", "demo"}, ts.Name()) {
			failed = ts.Exec(name, args...) != nil
		} else {
			failed = inProcess(ts, name, args) != exitOK
		}
		if failed != neg {
			ts.Fatalf("%s failed: %v, want %v", name, failed, neg)
		}
	}
}

func inProcess(ts *testscript.TestScript, name string, args []string) int {
	oneAtATime.Lock()
	defer oneAtATime.Unlock()
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1)) // which --memory lowers
	before, err := os.Getwd()
	ts.Check(err)
	defer os.Chdir(before)
	ts.Check(os.Chdir(ts.MkAbs(".")))
	for _, v := range []string{"nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_def_n_proc", "nnUNet_n_proc_DA", "PATH",
		"MLFLOW_TRACKING_URI", "TERM", "OMP_NUM_THREADS", "MASKSAM_PROFILE", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"} {
		if before, set := os.LookupEnv(v); set {
			defer os.Setenv(v, before)
		} else {
			defer os.Unsetenv(v)
		}
		if value := ts.Getenv(v); value != "" {
			ts.Check(os.Setenv(v, value))
		} else {
			ts.Check(os.Unsetenv(v))
		}
	}
	return run(name, args, ts.Stdout(), ts.Stderr())
}

// tmpfs DIR SIZE mounts a file system of that size for the rest of the script, or gives the one that is there that size.
func tmpfs(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o777))
	if unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size="+args[1]) == nil {
		return
	}
	ts.Check(unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]))
	ts.Defer(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// nopartial DIR fails when a temporary file was left anywhere below DIR.
func noPartial(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(d.Name(), atomicfile.Suffix) {
			err = fmt.Errorf("left behind: %s", path)
		}
		return err
	}))
}

// appears FILE waits for a file that a command in the background makes.
func appears(args []string) error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(args[0]); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s has not appeared within a minute", args[0])
}

// whole DIR reads every voxel of the cases of a store.
func whole(args []string) error {
	s, err := store.Open(args[0])
	if err != nil {
		return err
	}
	ids, err := s.Cases()
	if err != nil {
		return err
	}
	for _, id := range ids {
		c, err := s.Case(id)
		if err != nil {
			return err
		}
		n := c.Size()
		voxels := n[0] * n[1] * n[2]
		if err := errors.Join(c.Image([3]int{}, n, make([]float32, c.Channels()*voxels)),
			c.Seg([3]int{}, n, make([]int16, voxels))); err != nil {
			return err
		}
	}
	return nil
}

// mkdata FLAGS DIR makes a dataset of boxes (label 1) and balls (label 2) of differing brightness in nnU-Net's raw
// layout; training cases in imagesTr and labelsTr, and the
// case test_1 in imagesTs and labelsTs.
func mkdata(args []string) error {
	var (
		f        = flag.NewFlagSet("mkdata", flag.ContinueOnError)
		size     = f.String("size", "8,32,32", "voxels z,y,x")
		names    = f.String("names", "case_1,case_2,case_3,case_4,case_5,case_6", "training cases")
		channels = f.Int("channels", 1, "channels")
		modality = f.String("modality", "MRI", "name of the channels")
	)
	if err := f.Parse(args); err != nil {
		return err
	}
	dir := f.Arg(0)
	var n [3]int
	if _, err := fmt.Sscanf(*size, "%d,%d,%d", &n[0], &n[1], &n[2]); err != nil {
		return err
	}
	cases := strings.Split(*names, ",")
	for _, sub := range []string{"imagesTr", "labelsTr", "imagesTs", "labelsTs"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o777); err != nil {
			return err
		}
	}
	for i, name := range append(cases, "test_1") {
		part := "Tr"
		if i == len(cases) {
			part = "Ts"
		}
		if err := mkcase(dir, part, name, n, *channels, rand.New(rand.NewPCG(1, uint64(i)))); err != nil {
			return err
		}
	}
	var list []string
	for c := range *channels {
		list = append(list, fmt.Sprintf(`"%d": "%s"`, c, *modality))
	}
	text := fmt.Sprintf(`{"channel_names": {%s}, "labels": {"background": 0, "box": 1, "ball": 2}, "numTraining": %d, "file_ending": ".nii.gz"}`,
		strings.Join(list, ", "), len(cases))
	return os.WriteFile(filepath.Join(dir, "dataset.json"), []byte(text), 0o666)
}

func mkcase(dir, part, name string, n [3]int, channels int, rng *rand.Rand) error {
	grid := volume.NewGrid(n, [3]float64{3, 1.5, 1.5})
	label := make([]uint8, grid.Len())
	images := make([][]float32, channels)
	for c := range images {
		images[c] = make([]float32, grid.Len())
	}
	var centre [3]float64
	for axis := range centre {
		centre[axis] = float64(n[axis]) * (0.4 + 0.2*rng.Float64())
	}
	for i := range label {
		p := [3]int{i / (n[1] * n[2]), i / n[2] % n[1], i % n[2]}
		box, ball := true, 0.0
		for axis := range p {
			d := (float64(p[axis]) - centre[axis]) / float64(n[axis])
			box = box && math.Abs(d+0.15) < 0.15
			ball += (d - 0.15) * (d - 0.15)
		}
		switch {
		case box:
			label[i] = 1
		case ball < 0.18*0.18:
			label[i] = 2
		}
		for c := range images {
			images[c][i] = float32(100 + 60*float64(label[i]) + 10*rng.NormFloat64())
		}
	}
	meta := imageio.Meta{Grid: grid, Dims: 3}
	for c, image := range images {
		path := filepath.Join(dir, "images"+part, fmt.Sprintf("%s_%04d.nii.gz", name, c))
		if err := imageio.WriteFloat(path, [][]float32{image}, meta); err != nil {
			return err
		}
	}
	return imageio.WriteLabel(filepath.Join(dir, "labels"+part, name+".nii.gz"), label, meta)
}

// spoil KIND FILE breaks a NIfTI file: truncate, nan, shape, spacing, label (an undeclared value).
func spoil(args []string) error {
	if len(args) != 2 {
		return errors.New("spoil KIND FILE")
	}
	kind, path := args[0], args[1]
	if kind == "truncate" {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	}
	im, err := imageio.Read(path)
	if err != nil {
		return err
	}
	meta, data := imageio.Meta{Grid: im.Grid, Dims: 3}, im.Channels[0]
	switch kind {
	case "nan":
		data[len(data)/2] = float32(math.NaN())
	case "shape":
		meta.Grid.Size[0]--
		data = data[:meta.Grid.Len()]
	case "spacing":
		meta.Grid = volume.NewGrid(im.Grid.Size, [3]float64{3, 1.5, 1.75})
	case "label":
		data[len(data)/2] = 7
	default:
		return fmt.Errorf("no such kind: %s", kind)
	}
	return imageio.WriteFloat(path, [][]float32{data}, meta)
}

// mkscores SEED HEADS FOLDER/CASE writes a prediction of 2×4×6 voxels, CASE.nii.gz, CASE.npz and CASE.pkl, as nnU-Net does.
func mkscores(args []string) error {
	seed, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return err
	}
	heads, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	const voxels = 2 * 4 * 6
	r := rand.New(rand.NewPCG(seed, 0))
	scores, labels := make([]float32, heads*voxels), make([]uint8, voxels)
	for i := range voxels {
		sum := float32(0)
		for k := range heads {
			scores[k*voxels+i] = r.Float32()
			sum += scores[k*voxels+i]
		}
		for k := range heads {
			if scores[k*voxels+i] /= sum; scores[k*voxels+i] > scores[int(labels[i])*voxels+i] {
				labels[i] = uint8(k)
			}
		}
	}
	if err := os.MkdirAll(filepath.Dir(args[2]), 0o777); err != nil {
		return err
	}
	grid := volume.NewGrid([3]int{2, 4, 6}, [3]float64{3, 1, 1})
	meta := imageio.Meta{Grid: grid, Dims: 3}
	return errors.Join(imageio.WriteLabel(args[2]+".nii.gz", labels, meta),
		npz.WriteProperties(args[2]+".pkl", "SimpleITKIO", store.Properties{Meta: meta}),
		npz.Write(args[2]+".npz", npz.Probabilities, []int{heads, 2, 4, 6}, func(put func([]float32) error) error { return put(scores) }))
}
