package recipe

import (
	"math"
	"slices"

	"masksam/internal/masksam"
)

// pass is a run of the network whose memory is to be predicted.
type pass struct {
	Batch     int  // patches
	Train     bool // with losses and gradients; else a prediction
	Narrow    bool // matrix products and convolutions in a type of two bytes (autocast)
	Recompute int  // first blocks of the encoder of which only the input is kept, for Train
	CPU       bool // with this project's own operations, which keep less
}

// share is an amount of memory and what it is for.
type share struct {
	Name  string
	Bytes float64
}

// memory predicts what a pass takes on its device at its peak, beside the weights: in training what is kept for the
// gradients when the backward pass begins, and the maps on which it works then; in prediction what the pass holds when it
// holds most. It follows the operations of Forward and Criterion.Losses, each with the results that its scope holds and
// the values that its gradient needs. They are floats because a patch from a file may be beyond any int.
func memory(c masksam.Config, loss masksam.Loss, p pass) []share {
	m := &meter{Config: c, pass: p, value: 4, frames: float64(p.Batch) * float64(c.Frames)}
	if p.Narrow {
		m.value = 2
	}
	rows, columns := c.Tokens()
	m.rows, m.columns = float64(rows), float64(columns)
	m.pixels = m.frames * float64(c.Height) * float64(c.Width)
	m.part("image encoder", m.encoder)
	m.part("prompt generator", m.generator)
	m.part("mask decoder", m.decoder)
	m.part("full-resolution masks", m.head)
	if p.Train {
		m.part("matching and losses", func() { m.losses(loss) })
	}
	m.peak = max(m.peak, m.held+m.copies())
	return append(m.parts, share{"maps at work", m.peak - m.held})
}

// meter adds up the bytes of a pass.
type meter struct {
	masksam.Config
	pass
	value         float64 // bytes of what autocast computes
	frames        float64 // B·T
	rows, columns float64 // tokens of a frame
	pixels        float64 // of all frames

	held, peak float64
	parts      []share
	largest    float64 // values of the largest map
}

func (m *meter) part(name string, count func()) {
	before := m.held
	count()
	m.parts = append(m.parts, share{name, m.held - before})
}

// hold counts a group of operations whose results live in a scope of their own: results are all of them, kept those that
// gradients need, out is the one that the scope returns.
func (m *meter) hold(results, kept, out float64) {
	if m.Train {
		out += kept
	}
	m.peak = max(m.peak, m.held+max(results, out))
	m.held += out
}

// keep counts results that live as long as the pass.
func (m *meter) keep(bytes float64) { m.hold(0, 0, bytes) }

// see sees a map of so many values that convolutions or gradients work on.
func (m *meter) see(values float64) { m.largest = max(m.largest, values) }

// copies is what copies of the largest map take beside what is counted by name: gradients, and a convolution's maps in the
// order that it works in, under autocast half of them in float32. Their number was measured on a processor
// (docs/benchmarks.md), and is a guess for GPUs.
func (m *meter) copies() float64 {
	n := 4.
	if m.Train {
		n = 5
	}
	return n * m.largest * (m.value + single) / 2
}

// layers counts a sequence of 3-D layers over so many pixels, which is one scope.
func (m *meter) layers(list []masksam.Layer, pixels float64) {
	var all, kept, out float64
	for _, l := range list {
		channels := float64(l.Out)
		if l.Out == 0 {
			channels = float64(m.Queries)
		}
		maps, kind := 3., m.value // of the convolution, of the norm and of the activation
		switch {
		case l.Kind == "up":
			pixels *= 4
		case l.Kind == "conv":
			maps = 1
		case m.CPU:
			maps, kind = 1, single
		}
		out = kind * channels * pixels
		all += maps * out
		if l.Kind == "up" && m.CPU && !m.Narrow {
			maps = 2 // our own norm needs its result alone
		}
		kept += maps * out
		m.see(channels * pixels)
	}
	if len(list) > 0 {
		m.hold(all, kept-out, out)
	}
}

// block is what n convolutions, each with norm and activation, keep of a map of so many values: on a CPU their result
// alone (torch.Scope.ConvBlock), in float32.
func (m *meter) block(n int, values float64) {
	for range n {
		if m.CPU {
			m.keep(single * values)
		} else {
			m.hold(3*m.value*values, 2*m.value*values, m.value*values)
		}
	}
}

// up is what the input of a block keeps, of so many values, which comes from a transposed convolution: on a CPU as float32,
// too.
func (m *meter) up(values float64) {
	m.keep(m.value * values)
	if m.CPU && m.Narrow {
		m.keep(single * values)
	}
}

// ifTrained is 0 where SAM's own weights do not train: then nothing is kept for their gradients.
func (m *meter) ifTrained(bytes float64) float64 {
	if m.TrainAll {
		return bytes
	}
	return 0
}

// adapter is what a depth-convolution adapter keeps of its bottleneck over so many values: the two inputs of its linear
// layers beside the depthwise convolution and its norm in float32.
func (m *meter) adapter(values float64) float64 { return values / 4 * (2*m.value + 3*single) }

func (m *meter) encoder() {
	e, v := m.Encoder, m.value
	scale := float64(m.StemScale())
	m.layers(m.Stem, m.pixels)
	m.keep(3 * v * m.pixels * scale * scale)
	width, heads := float64(e.Width), float64(e.Heads)
	tokens := m.frames * m.rows * m.columns
	n := tokens * width // values of a map
	m.keep((v + 2*single) * n)
	again := 0. // of a block that is computed a second time
	for i := range e.Depth {
		// groups of attention, their tokens along an edge, and the values with the padding of windows
		groups, h, w := m.frames, m.rows, m.columns
		windowed := !slices.Contains(e.Global, i)
		if windowed {
			k := float64(e.Window)
			groups *= roundUp(h/k) * roundUp(w/k)
			h, w = k, k
		}
		nw := groups * h * w * width
		tall := groups * h * w * heads
		relative := tall * (h + w)
		attention := v*(4*nw+relative) + single*tall // queries, keys, values, relative positions and result; sums
		work := v * relative                         // relative positions in another order
		if !m.CPU {
			// Queries and keys as one with the relative positions, in a width that libtorch's fused kernels take.
			joined := 2 * v * tall * 8 * roundUp((width/heads+h+w)/8)
			attention, work = attention+joined-2*v*nw-v*relative, work+joined
		}
		kept := attention +
			m.ifTrained(3*v*nw) + // input of a linear layer, and queries for the relative positions
			v*nw + m.adapter(nw) +
			2*single*n + m.ifTrained(v*n) + // norm of the MLP, input and result
			v*4*n + m.ifTrained(v*4*n) + m.adapter(n)
		results := work + attention + nw*(single+8*v) + 2*m.adapter(nw) + n*(2*single+12*v) + 2*m.adapter(n) + single*n
		if windowed {
			kept += single * nw
			results += 3 * single * nw
		}
		if i < m.Recompute {
			again, kept = max(again, kept), 0
		}
		m.hold(results, kept, single*n)
	}
	m.keep(8 * single * tokens * float64(e.Out))
	m.peak = max(m.peak, m.held+again)
}

func roundUp(v float64) float64 { return float64(int(v + 0.999999)) }

func (m *meter) generator() {
	v := m.value
	pooled, last := 0., 0.
	tokens := m.frames * m.rows * m.columns
	values := func(i int, st masksam.Stage) float64 { return float64(st.Width) * tokens * float64(int(1)<<(2*i)) }
	branch := func(i int, st masksam.Stage) {
		for j := 1; j <= i; j++ {
			m.up(values(j, st))
			m.block(st.Convs-1, values(j, st))
		}
	}
	joined := func(n float64) { // two maps as one
		if !m.CPU {
			m.keep(2 * v * n)
		}
	}
	for i, st := range m.Generator.Stages {
		last = values(i, st)
		if i == 0 {
			m.block(st.Convs, last)
		} else {
			branch(i, st)
			m.up(last)
			joined(last)
			m.block(st.Convs-1, last)
		}
		m.keep(v * last) // for pooling
		pooled += float64(st.Width)
	}
	for range m.Generator.Fusions {
		st := m.Generator.Stages[len(m.Generator.Stages)-1]
		branch(len(m.Generator.Stages)-1, st)
		joined(last)
		m.block(st.Convs-1, last)
		m.keep(v * last)
		pooled += float64(st.Width)
	}
	edge := math.Sqrt(float64(m.Encoder.Out))
	m.keep(v * m.frames * edge * edge * (2*pooled + 3*float64(m.Queries)))
	masks := float64(m.Queries) * m.pixels
	m.keep(2 * v * masks)          // logits
	m.keep((1 + 2*single) * masks) // their sigmoid, and that as binary masks
	if m.Narrow {
		m.keep(single * masks)
	}
}

func (m *meter) decoder() {
	v, width := m.value, float64(m.Encoder.Out)
	n := m.frames * float64(m.Queries)
	hw := m.rows * m.columns
	low := n * 16 * hw
	keys := n * hw * width
	if m.Height != 4*int(m.rows) || m.Width != 4*int(m.columns) {
		m.keep(single * low)
	}
	m.keep((2*v+4*single)*low + m.ifTrained(4*single*low)*flag(m.Train)) // of the mask prompts
	m.keep((v + single) * keys)
	const tokens = 8
	sums := single * n * float64(m.Decoder.Heads) * hw // of attention from the image
	small := n * tokens * (28*width + float64(m.Decoder.MLP)) * (v + single) / 2
	for range m.Decoder.Depth {
		kept := keys*(2*v+single) + sums + small + m.adapter(keys) + m.ifTrained(1.5*v*keys)
		m.hold(keys*(2*single+6.25*v+5)+sums+small, kept, single*keys)
	}
	m.keep(v*keys + small/12)
	// Both transposed convolutions: a map of the keys' size, then one of twice that.
	kept := keys*(2*single+2*2*v) + m.ifTrained((2*single)*keys)
	m.hold(keys*(v+2*single+6*v), kept, v*low)
	m.see(2 * keys)
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

func (m *meter) head() {
	masks := float64(m.Queries) * m.pixels
	hw := m.rows * m.columns
	low := m.frames * float64(m.Queries) * 16 * hw
	if len(m.Head) == 0 {
		m.keep(single * m.frames * float64(m.Queries) * float64(m.Encoder.Canvas[0]) * float64(m.Encoder.Canvas[1]))
		m.keep(single * masks)
	} else {
		m.keep(m.value * low)
		m.layers(m.Head, m.frames*16*hw)
		m.keep(m.value * masks)
	}
	if !m.Train { // class scores
		m.keep(2*single*masks + 2*single*float64(m.Classes)*m.pixels)
	}
}

func (m *meter) losses(l masksam.Loss) {
	masks, classes := float64(m.Queries)*m.pixels, float64(m.Classes)
	pairs := min(float64(m.Queries), classes) * m.pixels
	if m.Narrow {
		m.keep(single * masks)
	}
	m.keep(m.pixels * (1 + 8 + 8 + 5*classes))
	m.keep(pairs * (2*single + 1 + 8 + 1 + single))
	if l.Points == 0 {
		m.keep(4 * single * masks)
		m.keep(2 * 3 * single * pairs)
	} else {
		points := float64(l.Points) * m.frames
		m.keep(single * points * (classes + 6*float64(m.Queries)))
		m.keep(single * points * min(float64(m.Queries), classes) * 2 * (8 + 4*l.Oversample))
	}
	m.see(masks)
}
