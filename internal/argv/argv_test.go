package argv

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"pgregory.net/rapid"
)

// probe is a small command of every kind of flag.
type probe struct {
	Case  string   `arg:"" optional:""`
	More  []string `arg:"" optional:""`
	TR    string   `name:"tr"`
	P     string   `name:"p"`
	PL    string   `name:"pl"`
	F     []string `name:"f"`
	C     bool     `name:"c"`
	GPUs  string   `name:"num_gpus" default:"1" refused:"one device at a time"`
	NPZ   bool     `name:"npz" refused:"no npz"`
	Check bool     `name:"verify_dataset_integrity"`
	NoPP  bool     `name:"no_pp"`
	NoBar bool     `name:"no_pbar"`
	Long  string   `name:"overwrite_target_spacing"`
	Name  string   `name:"overwrite_plans_name"`
	Set   []string `own:"" name:"set" sep:"none"`
	Part  string   `own:"" name:"over_parts"`
}

func probeNode(t interface{ Fatal(...any) }) *kong.Node {
	k, err := kong.New(&probe{})
	if err != nil {
		t.Fatal(err)
	}
	return k.Model.Node
}

func TestRewrite(t *testing.T) {
	node := probeNode(t)
	for _, c := range []struct{ in, want string }{
		{"27 3d_fullres 0 -tr X -p Y --c", "--tr=X --p=Y --c -- 27 3d_fullres 0"},
		{"-f 0 1 2 -p Y 5", "--p=Y --f=0 --f=1 --f=2 -- 5"},
		{"--f=3 all", "--f=3 -- all"},
		{"-p -1.5 -f -1 -.5", "--p=-1.5 --f=-1 --f=-.5"},
		{"-num_gpus 1", "--num_gpus=1"},
		{"-tr=X", "--tr=X"},
		{"--tr X -verify_dataset_integrity", "--tr=X --verify_dataset_integrity"},
		{"--verify", "--verify_dataset_integrity"},
		{"--no_pp --no_pb", "--no_pp --no_pbar"},
		{"-overwrite_t 1", "--overwrite_target_spacing=1"},
		{"-f0 -f1", "--f=1"},
		{"--verify -overwrite_p Y -over_ 1", "--verify_dataset_integrity --overwrite_plans_name=Y --over_parts=1"},
		{"-f 0 1 -f 2", "--f=2"},
		{"-p X -p Y", "--p=Y"},
		{"--set a=1 --set b=2", "--set=a=1 --set=b=2"},
		{"-f 0 1 -- 2 -p", "--f=0 --f=1 -- 2 -p"},
		{"-h", "--help"},
		{"--he", "--help"},
	} {
		got, err := Rewrite(strings.Fields(c.in), node)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, %v; want %q", c.in, got, err, c.want)
		}
	}
	for in, want := range map[string]string{
		"-num_gpus 2":     "-num_gpus 2 is refused: one device at a time",
		"--num_gpus=2":    "-num_gpus 2 is refused",
		"--npz":           "--npz is refused: no npz",
		"-x":              "unknown flag -x",
		"--trr=1":         "unknown flag --trr; did you mean -tr?",
		"--verfy":         "unknown flag --verfy; did you mean --verify_dataset_integrity?",
		"--no_p":          "--no_p is ambiguous: it could be --no_pp or --no_pbar",
		"-over X":         "-over is ambiguous: it could be -overwrite_target_spacing or -overwrite_plans_name",
		"-overwrite X":    "-overwrite is ambiguous: it could be -overwrite_target_spacing or -overwrite_plans_name",
		"-tr":             "-tr needs a value",
		"-f -p x":         "-f needs a value",
		"-p -- x":         "-p needs a value",
		"--c=1":           "--c takes no value",
		"--device_folder": "unknown flag --device_folder",
	} {
		if got, err := Rewrite(strings.Fields(in), node); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %q, error %v; want %q", in, got, err, want)
		}
	}
}

// Whatever is typed: no panic; every flag comes out at most once, before --, and kong takes the result.
func TestRewriteAnything(t *testing.T) {
	node := probeNode(t)
	word := rapid.OneOf(rapid.SampledFrom([]string{"-tr", "--f", "-f", "--c", "x", "-1", "-", "--", "-p=3", "", "-num_gpus",
		"-h", "é", "--no_", "-overwrite_", "-f0", "- x"}), rapid.StringMatching(`-{0,2}[a-z_=]{0,5}`))
	rapid.Check(t, func(t *rapid.T) {
		out, err := Rewrite(rapid.SliceOf(word).Draw(t, "args"), node)
		if err != nil {
			return
		}
		k, err := kong.New(&probe{}, kong.Exit(func(int) {}), kong.Writers(io.Discard, io.Discard))
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(out, "--help") {
			return
		}
		if _, err := k.Parse(out); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
	})
}
