// Package sam is Segment Anything's image encoder, prompt encoder and mask decoder with MaskSAM's adapters as parts of
// them (docs/network.md, sections 3 and 5; Kirillov et al., ICCV 2023). Parameters carry the names of SAM's own
// checkpoints.
package sam

import (
	"fmt"
	"slices"
)

// Encoder describes the image encoder, a ViT with windowed and global blocks.
type Encoder struct {
	Width  int    `json:"width"`  // D, channels of a token
	Depth  int    `json:"depth"`  // number of blocks
	Heads  int    `json:"heads"`  // attention heads; divides Width
	Global []int  `json:"global"` // blocks with attention over the whole slice, ascending
	Window int    `json:"window"` // tokens along a window's edge in the other blocks
	Patch  int    `json:"patch"`  // pixels along the edge of a token
	Canvas [2]int `json:"canvas"` // pixels (H, W) that pos_embed and the positional grid cover
	Out    int    `json:"out"`    // channels of the neck map, the prompt width
}

// DepthAxis says over which axis the depth convolution of a windowed block runs.
type DepthAxis string

const (
	// DepthReference is the published code's order: T is taken as the innermost
	// part of (batch, frame, window), so windows stand in for slices.
	DepthReference DepthAxis = "reference"
	// DepthSlices convolves over the slices of one window, as the paper says.
	DepthSlices DepthAxis = "slices"
)

// Grid returns the canvas in tokens (rows, columns).
func (e Encoder) Grid() (int, int) { return e.Canvas[0] / e.Patch, e.Canvas[1] / e.Patch }

// WindowTokens tells with how many queries and keys a windowed block computes for a frame of h·w tokens, as floats, since
// those of a patch from a file may be beyond any int.
func (e Encoder) WindowTokens(axis DepthAxis, h, w int) (queries, keys float64) {
	along := func(n int) (needed, all float64) {
		all = float64(multiple(n, e.Window))
		if axis == DepthReference {
			return all, all
		}
		for _, r := range strips(n, e.Window) {
			needed += float64(r.count) * float64(r.needed(e.Window))
		}
		return needed, all
	}
	rows, allRows := along(h)
	columns, allColumns := along(w)
	return rows * columns, allRows * allColumns
}

// Validate reports the first rule that e breaks.
func (e Encoder) Validate() error {
	switch {
	case e.Width <= 0 || e.Depth <= 0 || e.Heads <= 0 || e.Patch <= 0 || e.Out <= 0:
		return fmt.Errorf("encoder: width %d, depth %d, heads %d, patch %d and out %d must all be positive", e.Width,
			e.Depth, e.Heads, e.Patch, e.Out)
	case e.Width%e.Heads != 0:
		return fmt.Errorf("encoder: width %d is not a multiple of heads %d", e.Width, e.Heads)
	case e.Width%4 != 0:
		return fmt.Errorf("encoder: width %d is not a multiple of 4, the adapters' bottleneck", e.Width)
	case e.Canvas[0] < e.Patch || e.Canvas[1] < e.Patch || e.Canvas[0]%e.Patch != 0 || e.Canvas[1]%e.Patch != 0:
		return fmt.Errorf("encoder: canvas %v is not a positive multiple of patch %d", e.Canvas, e.Patch)
	case len(e.Global) == 0:
		return fmt.Errorf("encoder: no global block; the prompt generator reads their outputs")
	case !slices.IsSorted(e.Global) || len(slices.Compact(slices.Clone(e.Global))) < len(e.Global) || e.Global[0] < 0 ||
		e.Global[len(e.Global)-1] >= e.Depth:
		return fmt.Errorf("encoder: global blocks %v are not ascending within 0..%d", e.Global, e.Depth-1)
	case e.Window <= 0 && len(e.Global) < e.Depth:
		return fmt.Errorf("encoder: window %d must be positive for the blocks that are not global", e.Window)
	}
	return nil
}

// Decoder describes the two-way transformer and the heads of the mask decoder; its width is the encoder's Out.
type Decoder struct {
	Depth int `json:"depth"` // two-way blocks
	Heads int `json:"heads"` // attention heads; cross-attention is half as wide
	MLP   int `json:"mlp"`   // hidden width of the token MLP
}

// Validate reports the first rule that d breaks at the given width.
func (d Decoder) Validate(width int) error {
	switch {
	case d.Depth <= 0 || d.Heads <= 0 || d.MLP <= 0:
		return fmt.Errorf("decoder: depth %d, heads %d and mlp %d must all be positive", d.Depth, d.Heads, d.MLP)
	case width%(2*d.Heads) != 0 || width%8 != 0:
		return fmt.Errorf("decoder: the prompt width %d is not a multiple of twice the heads (%d) and of 8", width, d.Heads)
	}
	return nil
}
