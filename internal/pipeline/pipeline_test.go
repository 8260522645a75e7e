package pipeline

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"masksam/internal/dataset"
)

func TestFindModel(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"MaskSAM_ACDC__nnUNetPlans_4_256_256_b2__3d_fullres", "MaskSAM_Small__nnUNetPlans_small__3d_fullres",
		"MaskSAM_Small__mine__3d_fullres", "MaskSAM_AMOS__x__3d_lowres", "ensembles"} {
		if err := os.MkdirAll(filepath.Join(root, "Dataset027_ACDC", name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	roots := dataset.Roots{Results: root}
	for _, c := range []struct{ trainer, plans, configuration, want string }{
		{"MaskSAM_ACDC", "", "3d_fullres", "MaskSAM_ACDC__nnUNetPlans_4_256_256_b2__3d_fullres"},
		{"acdc", "", "3d_fullres", "MaskSAM_ACDC__nnUNetPlans_4_256_256_b2__3d_fullres"},
		{"small", "mine", "3d_fullres", "MaskSAM_Small__mine__3d_fullres"},
		{"", "", "3d_lowres", "MaskSAM_AMOS__x__3d_lowres"},
	} {
		got, err := FindModel(roots, "27", c.trainer, c.plans, c.configuration)
		if err != nil || filepath.Base(got) != c.want {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
	}
	for _, c := range []struct{ trainer, plans, want string }{
		{"small", "", "several"},
		{"synapse", "", "no trained model"},
		{"", "nnUNetPlans", "MaskSAM_Small__mine__3d_fullres"}, // the error lists what is there
	} {
		if _, err := FindModel(roots, "27", c.trainer, c.plans, "3d_fullres"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v", c, err)
		}
	}
	if _, err := FindModel(dataset.Roots{Raw: root}, "27", "", "", "3d_fullres"); err == nil || !strings.Contains(err.Error(), "nnUNet_results") {
		t.Errorf("without a results folder: %v", err)
	}
}

func TestChosen(t *testing.T) {
	r, err := PlanOptions{Recipe: "small", Set: []string{"epochs=3", "encoder.width=64"}}.recipe()
	if err != nil || r.Train.Epochs != 3 || r.Network.Encoder.Width != 64 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, c := range []struct {
		name string
		set  string
		want string
	}{{"small", "epochs", "key=value"}, {"small", "epoch=1", "no such"}, {"huge", "", "unknown recipe"}, {"", "epochs=1", "--recipe"}} {
		var set []string
		if c.set != "" {
			set = []string{c.set}
		}
		if _, err := (PlanOptions{Recipe: c.name, Set: set}).recipe(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v", c, err)
		}
	}
}

func TestCopyFile(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	read := func() string {
		data, err := os.ReadFile(to)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(from, "one")
	if err := copyFile(from, to); err != nil || read() != "one" {
		t.Errorf("%q, %v", read(), err)
	}
	for _, age := range []time.Duration{time.Hour, -time.Hour} { // an older source too is another one than the copied
		write(from, age.String())
		if err := os.Chtimes(from, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
		write(to, strings.Repeat("x", len(age.String()))) // as long
		if err := copyFile(from, to); err != nil || read() != age.String() {
			t.Errorf("a source of another time was not copied: %q, %v", read(), err)
		}
	}
	if err := copyFile(filepath.Join(dir, "none"), to); err == nil {
		t.Error("a missing file was copied")
	}
}
