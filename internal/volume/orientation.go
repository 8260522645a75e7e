package volume

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Orientation names where the file's axes x, y, z point to most nearly, such as RAS: right, anterior, superior. It is empty
// for an affine whose axes do not span space.
func (g Grid) Orientation() string {
	turn, err := g.RAS()
	if err != nil {
		return ""
	}
	var code [3]byte
	for row := range 3 { // of the affine: to the right, to the front, up
		letter := "RAS"[row]
		if turn.Flip[2-row] {
			letter = "LPI"[row]
		}
		code[2-turn.Axes[2-row]] = letter
	}
	return string(code[:])
}

// points says in words what the letters of an orientation stand for.
var points = map[byte]string{'R': "right", 'L': "left", 'A': "anterior", 'P': "posterior", 'S': "superior", 'I': "inferior"}

// Differing tells which axes of two orientations point elsewhere; there names where the second one is found.
func Differing(a, b, there string) string {
	var out []string
	for axis := range min(len(a), len(b)) {
		if a[axis] != b[axis] {
			out = append(out, fmt.Sprintf("axis %c points %s, %s %s", "xyz"[axis], points[a[axis]], there, points[b[axis]]))
		}
	}
	return strings.Join(out, "; ")
}

// Orientations counts images by their Orientation; those that do not tell theirs are counted under "".
type Orientations map[string]int

// Usual is the orientation that most of the images have, of several the first by name, how many have it and how many
// tell theirs; empty if none does.
func (o Orientations) Usual() (code string, n, of int) {
	for _, c := range slices.Sorted(maps.Keys(o)) {
		if c == "" {
			continue
		}
		if of += o[c]; o[c] > n {
			code, n = c, o[c]
		}
	}
	return code, n, of
}

// rare is how many images of an orientation for one of another make that one unusual.
const rare = 10

// Unusual says how an image of an orientation lies against these, where hardly any of them lies so; empty if one in ten
// does, or if nothing is known of the image or of these. what names these: "training images".
func (o Orientations) Unusual(code, what string) string {
	usual, n, of := o.Usual()
	if code == "" || usual == "" || code == usual || o[code]*rare >= of {
		return ""
	}
	return fmt.Sprintf("the image is stored %s, %d of %d %s %s: %s", code, n, of, what, usual, Differing(code, usual, "in those"))
}

// ToRAS is the reorientation to RAS of an array whose axes x, y, z point as an Orientation says.
func ToRAS(orientation string) (Reorientation, error) {
	var g Grid
	for axis, letter := range orientation {
		for row, ends := range []string{"RL", "AP", "SI"} {
			if i := strings.IndexRune(ends, letter); i >= 0 && axis < 3 {
				g.Affine[row][axis] = float64(1 - 2*i)
			}
		}
	}
	t, err := g.RAS()
	if err != nil || len(orientation) != 3 {
		err = fmt.Errorf("%q is no orientation: three letters of R or L, A or P, S or I", orientation)
	}
	return t, err
}
