package predict

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"masksam/internal/machine"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/tiles"
	"masksam/internal/torch"
)

// precision is what the model computes in: what is asked for, or else the training's, and float32 where the device lacks
// that, with one notice.
func (m *Model) precision(asked string) string {
	p := cmp.Or(asked, m.Meta.Precision, "float32")
	if p == "bf16" && !m.device.HasFastBF16() || p == "float16" && !m.device.HasFloat16() {
		if !m.told {
			slog.Warn(fmt.Sprintf("prediction is in float32: %v has no units for %s", m.device, p))
		}
		m.told = true
		return "float32"
	}
	return p
}

// little is what a pass takes at most, in bytes, whose operations are too short for several cores.
const little = 256e6

// usual is the number of patches of a pass where memory is no matter and a patch's pass takes so many bytes. On a CPU
// more than two gain nothing, nor more than one where a patch takes much (docs/benchmarks.md).
func usual(dev torch.Device, patch float64) int {
	switch {
	case dev != torch.CPU:
		return 4
	case patch < little:
		return 2
	}
	return 1
}

// division is how the passes of a case are shared out.
type division struct {
	networks int           // that score at a time, with the same weights
	threads  int           // of each of them; 0: as many as operations use
	batch    int           // patches of a pass
	need     machine.Bytes // of main memory, with what is beside the passes
}

// divide chooses how the passes over an image are shared out where so many bytes of main memory are free, of which sums and
// export, beside them, take some. Each core of
// a CPU gets a network of its own, where there are passes for all: that keeps the cores busier than operations which
// share them, and scores do not depend on the number of cores, as they do by rounding where threads share an operation. A
// U-Net's large convolutions keep all cores as busy, for the memory of one pass.
// A pass has t.Batch patches or, where that is 0, as many as usual, fewer where memory is short.
func (m *Model) divide(t Tiling, size [3]int, free machine.Bytes, beside float64) division {
	r := m.Meta.Recipe
	passes := m.window(t).Passes(size)
	pass := func(patches int) recipe.Peak { return m.passPeak(t.Precision, patches) }
	d := division{networks: 1, batch: cmp.Or(t.Batch, usual(m.device, pass(1).Need(m.device)))}
	if m.device == torch.CPU {
		d.threads = torch.Threads()
		if r.UNet == nil || pass(1).Need(m.device) < little {
			d.networks = max(1, min(d.threads, (passes+d.batch-1)/d.batch))
		}
	}
	onDevice, err := recipe.Free(m.device)
	need := func() (host, device float64) {
		ready := float64(tiles.Ahead(d.networks)-d.networks) * float64(d.batch*(r.Channels()+r.Heads()))
		host, device = pass(d.batch).Total()
		host = float64(d.networks)*host + beside + 4*ready*voxels(r.Patch)
		if m.device == torch.CPU {
			return host + float64(d.networks)*device, 0
		}
		return host, device
	}
	for {
		host, device := need()
		d.need = bytesOf(host)
		short := host > machine.Share*float64(free) || err == nil && device > machine.Share*float64(onDevice)
		switch {
		case short && t.Batch == 0 && d.batch > 1:
			d.batch /= 2
		case short && d.networks > 1:
			d.networks /= 2
		default:
			d.threads /= d.networks
			return d
		}
	}
}

// sparing is a network that scores fewer patches at a time when those of a pass take more memory than there is.
type sparing struct {
	tiles.Network
	most *atomic.Int64 // patches at a time, halved with every failure; 0: all
}

func (s *sparing) Scores(patches []float32, n int) (scores []float32, err error) {
	size := len(patches) / n
	for done := 0; done < n; {
		some := n - done
		if most := int(s.most.Load()); most > 0 {
			some = min(some, most)
		}
		part, err := s.Network.Scores(patches[done*size:(done+some)*size], some)
		if err == nil && some == n {
			return part, nil
		}
		var short *torch.OutOfMemory
		switch {
		case errors.As(err, &short) && some > 1:
			most := s.most.Load()
			if fewer := int64(some / 2); (most == 0 || fewer < most) && s.most.CompareAndSwap(most, fewer) && most == 0 {
				slog.Warn("a pass takes more memory than there is: it is made of fewer patches from here on", "patches", some,
					"device", short.Device)
			}
			torch.ReleaseMemory()
			continue
		case errors.As(err, &short):
			err = fmt.Errorf("one patch takes more memory than there is: %w", err)
			return nil, remedy.Add(err, "predict on another device with ", remedy.Device, ", or in a narrower type with ",
				remedy.Precision)
		case err != nil:
			return nil, err
		}
		scores = append(scores, part...)
		done += some
	}
	return scores, nil
}
