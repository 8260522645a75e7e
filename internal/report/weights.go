package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"masksam/internal/machine"
	"masksam/internal/weights"
)

// kinds are the kinds of files of weights in words.
var kinds = map[weights.Kind]string{
	weights.SAMViTB: "SAM, ViT-B", weights.SAMViTL: "SAM, ViT-L", weights.SAMViTH: "SAM, ViT-H",
	weights.MaskSAM: "a MaskSAM checkpoint", weights.NNUNet: "an nnU-Net checkpoint", weights.Unknown: "unknown",
}

// Weights tells what a file of weights holds.
func Weights(w io.Writer, in *weights.Inspection) error {
	p := newPage(w)
	p.line(in.File)
	total, byType := in.Elements()
	var types []string
	for _, t := range slices.Sorted(maps.Keys(byType)) {
		types = append(types, fmt.Sprintf("%d of %s", byType[t], t))
	}
	p.fields("kind", kinds[in.Kind], "tensors", fmt.Sprint(len(in.Tensors)), "elements", fmt.Sprintf("%d: %s", total, strings.Join(types, ", ")),
		"file", fmt.Sprintf("%d bytes (%v)", in.Bytes, machine.Bytes(in.Bytes)), "SHA-256", in.SHA256, "note", strings.Join(in.Notes, "\n"))
	p.line()
	t := p.table(3, "tensor", "type", "shape")
	for _, tensor := range in.Tensors[:min(len(in.Tensors), mostRows)] {
		shape := times("%d", tensor.Shape...)
		if len(tensor.Shape) == 0 {
			shape = "scalar"
		}
		t.AppendRow([]any{weights.Printable(tensor.Name), tensor.DType, shape})
	}
	t.Render()
	p.more(len(in.Tensors), "tensor")
	if len(in.Other) == 0 {
		return p.Flush()
	}
	p.line()
	t = p.table(2, "value", "")
	for _, o := range in.Other[:min(len(in.Other), mostRows)] {
		t.AppendRow([]any{weights.Printable(o.Name), weights.Printable(o.Text())})
	}
	t.Render()
	p.more(len(in.Other), "value")
	return p.Flush()
}

// mostRows of a table of a file's tensors or values are written: a file may hold very many.
const mostRows = 1000

// more says how many of n rows were left out.
func (p *page) more(n int, what string) {
	if n > mostRows {
		p.line("…", plural(n-mostRows, "more "+what))
	}
}
