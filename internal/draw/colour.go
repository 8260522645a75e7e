package draw

import (
	"image/color"
	"math"
)

// nnunetColours is nnU-Net's list (overlay_plots.py). The first, black, is the background's.
var nnunetColours = [...]color.RGBA{
	{A: 255}, {0x43, 0x63, 0xd8, 255}, {0xf5, 0x82, 0x31, 255}, {0x3c, 0xb4, 0x4b, 255}, {0xe6, 0x19, 0x4b, 255},
	{0x91, 0x1e, 0xb4, 255}, {0xff, 0xe1, 0x19, 255}, {0xbf, 0xef, 0x45, 255}, {0x42, 0xd4, 0xf4, 255},
	{0xf0, 0x32, 0xe6, 255}, {0x00, 0x00, 0x75, 255}, {0x9a, 0x63, 0x24, 255}, {0x80, 0x80, 0x00, 255},
	{0x80, 0x00, 0x00, 255}, {0x46, 0x99, 0x90, 255},
}

// Colour is the n-th colour: nnU-Net's fifteen from 0, then as many more as are asked for, each hue a golden section of
// the circle from the last. In a montage n is the label, so that a label looks the same everywhere; 0 and below is
// background.
func Colour(n int) color.RGBA {
	if n <= 0 {
		return nnunetColours[0]
	}
	if n < len(nnunetColours) {
		return nnunetColours[n]
	}
	n -= len(nnunetColours)
	_, hue := math.Modf(0.08 + float64(n)*math.Phi)
	shade := [...]struct{ saturation, value float64 }{{0.9, 1}, {0.45, 1}, {0.85, 0.7}}[n%3]
	return hsv(hue, shade.saturation, shade.value)
}

// hsv converts hue, saturation and value, all within 0..1, to red, green and blue.
func hsv(hue, saturation, value float64) color.RGBA {
	part := func(n float64) uint8 {
		k := math.Mod(n+6*hue, 6)
		return uint8(math.Round(255 * (value - value*saturation*max(0, min(k, 4-k, 1)))))
	}
	return color.RGBA{part(5), part(3), part(1), 255}
}
