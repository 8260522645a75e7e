package train

import (
	"fmt"
	"testing"

	"masksam/internal/plan"
	"masksam/internal/recipe"
)

// tinyUNet is a U-Net of two stages for the tiny patch.
func tinyUNet(t testing.TB, set ...string) recipe.Recipe {
	t.Helper()
	r := recipe.UNetSmall()
	size := [3]float64{float64(tinyPatch[0]), float64(tinyPatch[1]), float64(tinyPatch[2])}
	_, architecture := plan.UNet(size, [3]float64{1, 1, 1}, []int{4, 6}, 1)
	var err error
	if r.UNet.Architecture, err = architecture.MarshalJSON(); err != nil {
		t.Fatal(err)
	}
	r.Patch, r.UNet.Channels, r.UNet.Heads = tinyPatch, 1, 3
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
