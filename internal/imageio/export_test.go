package imageio

// LimitClassicTIFF lets files above so many bytes be BigTIFFs until the test is over.
func LimitClassicTIFF(t interface{ Cleanup(func()) }, bytes int64) {
	before := classicTIFF
	t.Cleanup(func() { classicTIFF = before })
	classicTIFF = bytes
}
