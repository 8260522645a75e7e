package draw

// Sheet is a picture of many cases: a row each, under one legend.
type Sheet struct {
	Title string
	Rows  []SheetRow
	Name  func(label int) string // for the legend; nil: none, empty: no entry
}

// SheetRow is a case: its slices at one scale, the reference filled lightly and outlined.
type SheetRow struct {
	Caption string
	Slices  []Slice
}

// sheetHeight is the most that the tallest pane of a row may have.
const sheetHeight = 260

// Write writes the sheet as a PNG.
func (s Sheet) Write(path string) error {
	b := board{title: s.Title, name: s.Name}
	for _, row := range s.Rows {
		out := band{heading: row.Caption}
		scale := row.scale()
		for _, slice := range row.Slices {
			width, height := slice.extent()
			out.panes = append(out.panes, pane{Slice: slice, fill: slice.Truth, outline: slice.Truth, share: 0.28, pale: 0.15,
				caption: slice.Name, width: max(1, int(width*scale)), height: max(1, int(height*scale))})
		}
		b.bands = append(b.bands, out)
	}
	return b.write(path)
}

// scale is pixels per mm: the most with which every pane of the row fits.
func (r SheetRow) scale() float64 {
	var widest, tallest float64
	for _, s := range r.Slices {
		w, h := s.extent()
		widest, tallest = max(widest, w), max(tallest, h)
	}
	return min(float64(columnWidth(max(1, len(r.Slices))))/widest, sheetHeight/tallest)
}
