package masksam

// MapValues counts values of feature maps for one patch, from below: all that a training step keeps until its gradients are
// there, and those of the largest map alone, which is what a forward pass holds at least. They are floats because a patch
// from a file may be beyond any int.
func (c Config) MapValues() (all, largest float64) {
	see := func(copies, channels int, height, width float64) {
		n := float64(channels) * float64(c.Frames) * height * width
		all += float64(copies) * n
		largest = max(largest, n)
	}
	sequence := func(list []Layer, height, width float64) {
		for _, l := range list {
			out := l.Out
			if out == 0 {
				out = c.Queries
			}
			copies := 2 // what the norm saw, and what the next layer sees
			switch l.Kind {
			case "up":
				height, width = 2*height, 2*width
			case "conv":
				copies = 1
			}
			see(copies, out, height, width)
		}
	}
	sequence(c.Stem, float64(c.Height), float64(c.Width))
	rows, columns := c.Tokens()
	h, w := float64(rows), float64(columns)
	const perBlock = 14 // twice normed, queries, keys, values, attended, and the hidden layer of four widths, twice
	see(perBlock*c.Encoder.Depth, c.Encoder.Width, h, w)
	sequence(c.Head, 4*h, 4*w)
	for i, st := range c.Generator.Stages {
		scale := float64(int(1) << i)
		see(2*st.Convs, st.Width, scale*h, scale*w)
	}
	see(3, c.Queries, float64(c.Height), float64(c.Width)) // masks, auxiliary masks and their sigmoid
	return all, largest
}
