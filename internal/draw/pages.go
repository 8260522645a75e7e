package draw

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
)

// pageRows is how many cases a sheet of a montage shows.
const pageRows = 8

// Pages are the sheets of a montage of many cases, DIR/montage_001.png …, each written as soon as its cases are there, in
// whatever order they come.
type Pages struct {
	dir, title string
	name       func(label int) string
	mu         sync.Mutex
	pages      [][]*SheetRow
	left       []int // rows of each page that are to come
	files      []string
}

// NewPages begins a montage of n cases; name is that of a label, for the legend.
func NewPages(dir, title string, n int, name func(label int) string) *Pages {
	p := &Pages{dir: dir, title: title, name: name, pages: slices.Collect(slices.Chunk(make([]*SheetRow, n), pageRows))}
	for _, page := range p.pages {
		p.left = append(p.left, len(page))
	}
	return p
}

// Add takes the row of case i, nil for one that could not be drawn and is left out. It is called once for each case. The
// error is that of the sheet which the row completes.
func (p *Pages) Add(i int, row *SheetRow) error {
	n := i / pageRows
	p.mu.Lock()
	p.pages[n][i%pageRows] = row
	p.left[n]--
	last := p.left[n] == 0
	p.mu.Unlock()
	if !last {
		return nil
	}
	sheet := Sheet{Title: p.title, Name: p.name}
	if len(p.pages) > 1 {
		sheet.Title += fmt.Sprintf(": sheet %d of %d", n+1, len(p.pages))
	}
	for _, row := range p.pages[n] {
		if row != nil {
			sheet.Rows = append(sheet.Rows, *row)
		}
	}
	clear(p.pages[n])
	if len(sheet.Rows) == 0 {
		return nil
	}
	path := filepath.Join(p.dir, fmt.Sprintf("montage_%03d.png", n+1))
	if err := sheet.Write(path); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files = append(p.files, path)
	return nil
}

// Files are the sheets that were written, in their order.
func (p *Pages) Files() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(slices.Values(p.files))
}
