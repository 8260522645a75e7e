package commands

import "masksam/internal/torch"

// arithmetic is how a GPU computes; it belongs to the machine, not to the recipe.
type arithmetic struct {
	TF32           string `help:"What a GPU computes of float32 in TF32, with 10 bits of mantissa: none, convolutions, or all, which adds matrix products. No effect on the CPU." name:"tf32" enum:"none,convolutions,all" default:"convolutions"`
	CuDNNBenchmark bool   `help:"Let a GPU try cuDNN's algorithms at the first convolution of each shape and keep the fastest. No effect on the CPU." name:"cudnn-benchmark" default:"true" negatable:""`
}

// Published is the arithmetic of the published code: PyTorch's TF32, and cuDNN's search.
var Published = arithmetic{TF32: "convolutions", CuDNNBenchmark: true}

func (x arithmetic) set() {
	torch.SetTF32(x.TF32 == "all", x.TF32 != "none")
	torch.SetCuDNNBenchmark(x.CuDNNBenchmark)
}
