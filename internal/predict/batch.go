package predict

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"

	"masksam/internal/machine"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
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

// usual is the number of patches of a pass where memory is no matter.
const usual = 4

// batch is the number of patches of a pass: usual, or the half, or one where free memory is short beside the scores.
func (m *Model) batch(precision string, scores int) int {
	free, err := recipe.Free(m.device)
	for n := usual; err == nil && n > 1; n /= 2 {
		need := m.Meta.Recipe.PassPeak(precision, m.device, n).Without(recipe.Program, recipe.Weights).Need(m.device)
		if m.device == torch.CPU {
			need += 4 * float64(scores)
		}
		if machine.Share*float64(free) >= need {
			return n
		}
	}
	if err != nil {
		return usual
	}
	return 1
}

// sparing is a network that scores fewer patches at a time when those of a pass take more memory than there is.
type sparing struct {
	Network
	most *int // patches at a time, halved with every failure; 0: all
}

func (s *sparing) Scores(patches []float32, n int) (scores []float32, err error) {
	size := len(patches) / n
	for done := 0; done < n; {
		some := n - done
		if *s.most > 0 {
			some = min(some, *s.most)
		}
		part, err := s.Network.Scores(patches[done*size:(done+some)*size], some)
		if err == nil && some == n {
			return part, nil
		}
		var short *torch.OutOfMemory
		switch {
		case errors.As(err, &short) && some > 1:
			if *s.most == 0 {
				slog.Warn("a pass takes more memory than there is: it is made of fewer patches from here on", "patches", some,
					"device", short.Device)
			}
			*s.most = some / 2
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
