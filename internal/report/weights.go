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
	for _, tensor := range in.Tensors {
		shape := times("%d", tensor.Shape...)
		if len(tensor.Shape) == 0 {
			shape = "scalar"
		}
		t.AppendRow([]any{tensor.Name, tensor.DType, shape})
	}
	t.Render()
	if len(in.Other) == 0 {
		return p.Flush()
	}
	p.line()
	t = p.table(2, "value", "")
	for _, o := range in.Other {
		t.AppendRow([]any{o.Name, o.Text()})
	}
	t.Render()
	return p.Flush()
}
