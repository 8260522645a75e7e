package unet

// Pass is what memory is predicted for.
type Pass struct {
	Channels, Heads int
	Patch           [3]int
	Samples         int  // that are computed at once
	Train           bool // a training step; else a forward pass
	Deep            bool // with the coarser outputs
	Narrow          bool // maps are in a type of two bytes
	// Separate: convolution, norm and activation are operations of their own, as on a GPU; a processor's convolution block in
	// float32 holds and keeps its result alone.
	Separate bool
}

// Bytes predicts how much memory tensors take when they take most, beside parameters, their gradients and the optimiser's
// state, which are Count's. It is on the safe side of what was measured (memory_test.go).
func (a Architecture) Bytes(l Pass) float64 {
	// A processor computes few channels in four bytes by kernels of its own, which keep one map, and many in two bytes by
	// libtorch's, which keep two: either way as much. Where one sort follows the other there are casts beside.
	casts := l.Narrow && !l.Separate
	l.Narrow = l.Narrow && !casts
	if a.Norm != "instance" || a.NormLast {
		l.Separate = true
	}
	m := tally{Pass: l}
	sizes := a.Scales(l.Patch, len(a.Features))
	m.hold(l.Channels, sizes[0])
	in := l.Channels
	if a.residual() {
		m.unit(in, a.Stem, sizes[0])
		in = a.Stem
	}
	for s, f := range a.Features {
		before := sizes[max(s-1, 0)]
		for i := range a.Encoder[s] {
			if !a.residual() {
				m.unit(in, f, sizes[s])
			} else {
				m.residual(in, f, sizes[s])
				if i == 0 && before != sizes[s] {
					m.keep(in, sizes[s]) // what was pooled
				}
			}
			in = f
		}
		if casts {
			m.keep(f, sizes[s]) // twice in two bytes, for the stage below and for the head or the stage above
		}
		if !l.Train && s < len(a.Features)-1 {
			m.hold(f, sizes[s]) // for the decoder
		}
	}
	for j, s := 0, len(a.Features)-2; s >= 0; j, s = j+1, s-1 {
		f := a.Features[s]
		if m.keep(f, sizes[s]); l.Separate || a.Class == "ResidualUNet" {
			m.keep(2*f, sizes[s]) // both maps joined
		}
		for i := range a.Decoder[j] {
			in := f
			if i == 0 {
				in = 2 * f
			}
			if a.Class == "ResidualUNet" {
				m.residual(in, f, sizes[s])
			} else {
				m.unit(in, f, sizes[s])
			}
		}
		if !l.Train {
			m.held -= m.bytes(f, sizes[s])
		}
		if s < a.Outputs(l.Deep) {
			m.outputs(sizes[s])
		}
	}
	return m.most
}

// tally adds up what the layers hold.
type tally struct {
	Pass
	held, most float64
}

// bytes are the bytes of a map of so many channels.
func (m *tally) bytes(channels int, size [3]int) float64 {
	width := 4.
	if m.Narrow {
		width = 2
	}
	return width * float64(m.Samples*channels) * voxels(size)
}

func voxels(n [3]int) float64 { return float64(n[0]) * float64(n[1]) * float64(n[2]) }

// hold adds a map that stays.
func (m *tally) hold(channels int, size [3]int) {
	m.held += m.bytes(channels, size)
	m.most = max(m.most, m.held)
}

// keep adds a map that the gradient needs.
func (m *tally) keep(channels int, size [3]int) {
	if m.Train {
		m.hold(channels, size)
	}
}

// work is what exists for a moment beside what is held: maps on both sides of an operation, and in training their gradients.
func (m *tally) work(channels int, size [3]int) { m.most = max(m.most, m.held+m.bytes(channels, size)) }

// unit is a convolution with norm and activation.
func (m *tally) unit(in, out int, size [3]int) {
	m.keep(out, size)
	if m.Separate {
		m.keep(out, size)
		m.work(out, size)
	}
	switch {
	case m.Train:
		out *= 2 // their gradients
	case m.Separate:
		in, out = 2*in, 2*out // maps joined
	}
	m.work(in+2*out, size)
}

// residual is a block of two units.
func (m *tally) residual(in, out int, size [3]int) {
	m.unit(in, out, size)
	m.unit(out, out, size)
	if in != out {
		m.unit(in, out, size)
	}
	m.keep(out, size)
	switch {
	case m.Train:
	case in != out:
		m.work(2*in+2*out, size)
	default:
		m.work(in+3*out, size)
	}
}

// outputs are the logits of an output with what their loss needs: probabilities, truth and, for a moment, the gradients of
// its parts, or the terms of a cross-entropy of regions.
func (m *tally) outputs(size [3]int) {
	wide := m.bytes(m.Heads, size)
	if m.Narrow {
		wide *= 2
	}
	if m.Train {
		m.held += 3 * wide
		m.most = max(m.most, m.held+5*wide)
		return
	}
	m.most = max(m.most, m.held+2*wide)
}
