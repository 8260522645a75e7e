package predict

import (
	"errors"

	"masksam/internal/imageio"
)

// preprocess prepares an image as training did.
func (m *Model) preprocess(im *imageio.Image) (*pending, error) { return nil, errors.ErrUnsupported }

// export brings scores back onto the grid that the case was read from.
func (m *Model) export(scores []float32, p *pending, keep bool) (labels []uint16, onGrid []float32, err error) {
	return nil, nil, errors.ErrUnsupported
}
