package surface

// Areas lets the test compare every code.
var Areas = areas

// SetPatience sets whether points look around (8) or the envelope is made at once (0).
func SetPatience(n int) { patience = n }
