package masksam

import (
	"math"
	"slices"

	"masksam/internal/sam"
)

// Pass is a run of the network whose memory is to be predicted.
type Pass struct {
	Batch     int  // patches
	Train     bool // with losses and gradients; else a prediction
	Narrow    bool // matrix products and convolutions in a type of two bytes (autocast)
	Recompute int  // as Net's, for Train
	CPU       bool // with this project's own operations, which keep less
}

// Share is an amount of memory and what it is for.
type Share struct {
	Name  string
	Bytes float64
}

const single = 4 // bytes of a float32

// Memory predicts what a pass takes on its device at its peak, beside the weights. It follows the operations of Forward and
// Criterion.Losses, each with the results that its scope holds and the values that its gradient needs. A prediction is at its
// peak where it holds most. A training step is so where the backward pass works on one of the network's segments: what the
// segments behind it have kept for their gradients is freed by then. They are floats because a patch from a file may be
// beyond any int.
func Memory(c Config, loss Loss, p Pass) []Share {
	m := &meter{Config: c, Pass: p, value: 4, frames: float64(p.Batch) * float64(c.Frames)}
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
		m.part("matching and losses", func() { m.segment(false, 0, func() { m.losses(loss) }) })
		m.backward()
	} else {
		m.peak = max(m.peak, m.held+m.copies())
	}
	return append(m.parts, Share{"maps at work", m.peak - m.held})
}

// meter adds up the bytes of a pass.
type meter struct {
	Config
	Pass
	value         float64 // bytes of what autocast computes
	frames        float64 // B·T
	rows, columns float64 // tokens of a frame
	pixels        float64 // of all frames

	held, peak float64
	parts      []Share
	segments   []segment
	largest    float64 // values of the largest map
}

// segment is a part of the network that the backward pass works on at a time.
type segment struct {
	part  int     // that it belongs to
	kept  float64 // for its gradients
	again float64 // … when it is computed a second time, beside what is kept
	work  float64 // maps on which its gradients are computed
}

func (m *meter) part(name string, count func()) {
	before := m.held
	count()
	m.parts = append(m.parts, Share{name, m.held - before})
}

// segment counts a segment, of which only results of so many bytes are kept where it is computed again.
func (m *meter) segment(again bool, results float64, count func()) {
	before, largest := m.held, m.largest
	m.largest = 0
	count()
	s := segment{part: len(m.parts), kept: m.held - before, work: m.copies()}
	if again && m.Train {
		s.kept, s.again = results, s.kept-results
		m.held = before + results
	}
	m.segments = append(m.segments, s)
	m.largest = max(m.largest, largest)
}

// backward finds the segment at which the backward pass takes most, and what of all parts is kept then.
func (m *meter) backward() {
	held, at := m.held, -1
	var most float64
	for i, s := range slices.Backward(m.segments) {
		if need := held + s.again + s.work; need > most {
			most, at = need, i
		}
		held -= s.kept
	}
	for _, s := range m.segments[at+1:] {
		m.parts[s.part].Bytes -= s.kept
		m.held -= s.kept
	}
	m.peak = max(m.peak, most)
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
	const n = 4
	return n * m.largest * (m.value + single) / 2
}

// layers counts a sequence of 3-D layers over so many pixels, which is one scope.
func (m *meter) layers(list []Layer, pixels float64) {
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
	m.see(values)
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
	frames := 3 * v * m.pixels * scale * scale
	m.segment(m.Recompute > 0, frames, func() {
		m.layers(m.Stem, m.pixels)
		m.keep(frames)
	})
	width, heads := float64(e.Width), float64(e.Heads)
	tokens := m.frames * m.rows * m.columns
	n := tokens * width // values of a map
	m.segment(false, 0, func() { m.keep((v + 2*single) * n) })
	for i := range e.Depth {
		// Tokens along an edge of what attention sees at a time; the values of queries, and of keys with the windows' padding.
		h, w, q, k := m.rows, m.columns, n, n
		windowed := !slices.Contains(e.Global, i)
		if windowed {
			h, w = float64(e.Window), float64(e.Window)
			queries, keys := e.WindowTokens(m.DepthAxis, int(m.rows), int(m.columns))
			q, k = m.frames*queries*width, m.frames*keys*width
		}
		tall := q / width * heads
		relative := tall * (h + w)
		attention := v*(2*q+2*k+relative) + single*tall // queries, keys, values, relative positions and result; sums
		work := v * relative                            // relative positions in another order
		if !m.CPU {
			// Queries and keys as one with the relative positions, in a width that libtorch's fused kernels take.
			joined := v * (tall + k/width*heads) * 8 * roundUp((width/heads+h+w)/8)
			attention, work = attention+joined-v*(q+k)-v*relative, work+joined
			attention += 2 * v * n * flag(!windowed) // the values are a view of queries and keys, too
		}
		kept := attention +
			m.ifTrained(v*(n+2*q)) + // input of a linear layer, and queries for the relative positions
			v*q + m.adapter(q) +
			2*single*n + m.ifTrained(v*n) + // norm of the MLP, input and result
			v*4*n + m.ifTrained(v*4*n) + m.adapter(n)
		results := work + attention + q*(single+8*v) + 2*m.adapter(q) + n*(2*single+12*v) + 2*m.adapter(n) + single*n
		if windowed { // queries, keys and values before they are cut, for reference padded, and what is joined again
			results += v * (5*n + 6*k*flag(m.DepthAxis == sam.DepthReference && k > n))
		}
		m.segment(i < m.Recompute, single*n, func() {
			m.see(4 * n)
			m.hold(results, kept, single*n)
		})
	}
	m.segment(false, 0, func() { m.keep(8 * single * tokens * float64(e.Out)) })
}

func roundUp(v float64) float64 { return float64(int(v + 0.999999)) }

func (m *meter) generator() {
	v := m.value
	pooled, last := 0., 0.
	tokens := m.frames * m.rows * m.columns
	values := func(i int, st Stage) float64 { return float64(st.Width) * tokens * float64(int(1)<<(2*i)) }
	branch := func(i int, st Stage) {
		for j := 1; j <= i; j++ {
			m.up(values(j, st))
			m.block(st.Convs-1, values(j, st))
		}
	}
	joined := func(a, b float64) { // two maps as one
		if !m.CPU {
			m.keep(v * (a + b))
		}
	}
	again, kind := m.Recompute > m.Encoder.Depth, v
	if m.CPU {
		kind = single
	}
	for i, st := range m.Generator.Stages {
		last = values(i, st)
		m.segment(again, kind*last, func() {
			skip := last
			switch j := len(m.Generator.Stages) - 1 - i; {
			case i == 0:
				m.block(st.Convs, last)
				return
			case j >= m.Generator.Detail:
				branch(i, st)
			case j == 0:
				skip = values(i, Stage{Width: m.detail(j)})
			default:
				m.keep(v * values(i+1, Stage{Width: m.detail(j - 1)}) / 4) // half the rows and columns of the finer map
				m.block(1, last)
			}
			m.up(last)
			joined(last, skip)
			m.block(st.Convs-1, last)
		})
		pooled += float64(st.Width)
	}
	for range m.Generator.Fusions {
		st := m.Generator.Stages[len(m.Generator.Stages)-1]
		m.segment(again, kind*last, func() {
			branch(len(m.Generator.Stages)-1, st)
			joined(last, last)
			m.block(st.Convs-1, last)
		})
		pooled += float64(st.Width)
	}
	edge := math.Sqrt(float64(m.Encoder.Out))
	m.segment(false, 0, func() {
		m.see(last)
		m.keep(v * m.frames * edge * edge * (pooled + 3*float64(m.Queries)))
		masks := float64(m.Queries) * m.pixels
		m.keep(2 * v * masks)      // logits
		m.keep(2 * single * masks) // their sigmoid, and that as binary masks
		if m.Narrow {
			m.keep(single * masks)
		}
	})
}

func (m *meter) decoder() {
	v, width := m.value, float64(m.Encoder.Out)
	n := m.frames * float64(m.Queries)
	hw := m.rows * m.columns
	low := n * 16 * hw
	keys := n * hw * width
	m.segment(false, 0, func() {
		if m.Height != 4*int(m.rows) || m.Width != 4*int(m.columns) {
			m.keep(single * low)
		}
		m.keep(2*v*low + m.ifTrained(8*single*low)*flag(m.Train)) // of the mask prompts
	})
	const tokens = 8
	sums := single * n * float64(m.Decoder.Heads) * hw // of attention from the image
	small := n * tokens * (28*width + float64(m.Decoder.MLP)) * (v + single) / 2
	again := m.Recompute > 0
	for i := range m.Decoder.Depth {
		kept := keys*(2*v+single) + sums + small + m.adapter(keys) + m.ifTrained(1.5*v*keys)
		m.segment(again, single*keys, func() {
			m.see(keys)
			if i == 0 {
				m.keep((v + single) * keys)
			}
			m.hold(keys*(2*single+6.25*v+5)+sums+small, kept, single*keys)
		})
	}
	m.segment(again, 0, func() { m.keep(v*keys + small/12) })
	// Both transposed convolutions: a map of the keys' size, then one of twice that.
	kept := keys*(2*single+2*2*v) + m.ifTrained((2*single)*keys)
	m.segment(again, v*low, func() {
		m.see(2 * keys)
		m.hold(keys*(v+2*single+6*v), kept, v*low)
	})
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
	m.segment(m.Recompute > 0, m.value*masks, func() {
		if len(m.Head) == 0 {
			m.hold(single*m.frames*float64(m.Queries)*float64(m.Encoder.Canvas[0])*float64(m.Encoder.Canvas[1]), 0, single*masks)
		} else {
			m.keep(m.value * low)
			m.layers(m.Head, m.frames*16*hw)
			m.keep(m.value * masks)
		}
	})
	if !m.Train { // class scores
		m.keep(2*single*masks + 2*single*float64(m.Classes)*m.pixels)
	}
}

func (m *meter) losses(l Loss) {
	masks, classes := float64(m.Queries)*m.pixels, float64(m.Classes)
	pairs := min(float64(m.Queries), classes) * m.pixels
	if m.Narrow {
		m.keep(single * masks)
	}
	matcher := m.pixels*(8+5*classes) + 8*single*masks
	if l.Points > 0 {
		matcher = m.pixels*(8+5*classes) + single*float64(l.Points)*m.frames*(classes+6*float64(m.Queries))
	}
	m.hold(matcher, 0, 0)
	m.keep(m.pixels + 3*single*pairs) // the labels; of the pairs both kinds of masks and the truth
	if l.Points == 0 {
		m.keep(2 * 4 * single * pairs)
	} else {
		points := single * float64(l.Points) * m.frames * min(float64(m.Queries), classes)
		m.hold(points*8*l.Oversample, 0, 0) // candidates, of which the uncertain ones are taken
		m.keep(2 * 7 * points)
	}
	m.see(masks)
}
