package nn

import "masksam/internal/torch"

// Network is what whoever predicts asks of a network, whichever it is.
type Network interface {
	// Parameters are all that a checkpoint holds of it, by name.
	Parameters() *Params
	// Scores are those of patches x (B, C, T, H, W): (B, heads, T, H, W), float32. Whether they are logits is the recipe's to
	// say. It may be called by several goroutines at a time.
	Scores(s *torch.Scope, x *torch.Tensor) *torch.Tensor
	// Free releases the parameters.
	Free()
}
