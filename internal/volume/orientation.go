package volume

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
