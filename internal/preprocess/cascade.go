package preprocess

import (
	"masksam/internal/ndimage"
	"masksam/internal/store"
)

// NextLabels converts scores on the network's grid to the labels on the grid, of size to, that the same case has in a
// configuration that continues this one (nnU-Net's resample_and_save).
func NextLabels(cfg *Config, scores []float32, size [3]int, p store.Properties, to [3]int) ([]int16, error) {
	g, err := cfg.geometry(scores, size, p)
	if err != nil {
		return nil, err
	}
	n, from := to[0]*to[1]*to[2], size[0]*size[1]*size[2]
	spacing := cfg.plan.Target(permute(p.Spacing, cfg.forward))
	method := cfg.method(cfg.plan.Probabilities, spacing, spacing)
	labels := make([]uint16, n)
	decoder := cfg.dataset.Labels.Decode(labels, false)
	head := make([]float32, n)
	for k := range g.heads {
		ndimage.Resize(head, scores[k*from:(k+1)*from], size, to, method)
		decoder.Add(head)
	}
	out := make([]int16, n)
	for i, v := range labels {
		out[i] = int16(v)
	}
	return out, nil
}
