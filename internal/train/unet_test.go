package train

import (
	"fmt"
	"testing"

	"masksam/internal/recipe"
)

// tinyUNet is a U-Net of two stages for the tiny patch.
func tinyUNet(t testing.TB, set ...string) recipe.Recipe {
	t.Helper()
	r := recipe.UNetSmall()
	r.Patch, r.UNet.Features = tinyPatch, []int{4, 6}
	r, err := r.Published()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Override(append([]string{"epochs=2", "iterations=2", "val_iterations=2", "save_every=2", "precision=float32"}, set...)); err != nil {
		t.Fatal(err)
	}
	return r
}

// A U-Net's run that is stopped, in an epoch or in its validation, goes on to the very weights of an uncut one: with an average
// of AdamW, with momentum, with Adam's largest moments, and with the running statistics of a batch norm.
func TestUNetGoesOn(t *testing.T) {
	t.Parallel()
	cases := tinySources(t, tinyStore(t, 5), true)
	for _, set := range [][]string{nil, {"optimizer=sgd", "momentum=0.99", "nesterov=true", "average=0", "batch_dice=true"},
		{"amsgrad=true", "norm=batch"}} {
		t.Run(fmt.Sprint(set), func(t *testing.T) { stoppedAfter(t, tinyUNet(t, set...), cases, map[int]int{1: 1, 3: 2, 5: 3}) })
	}
}
