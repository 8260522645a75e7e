package unet

import (
	"strings"

	"masksam/internal/nn"
)

// Entry is one name of nnU-Net's state_dict.
type Entry struct {
	Name string
	// Of is the parameter that it names; empty: a whole number of no dimensions, the batches that a batch norm has seen.
	Of string
}

// StateDict lists the names of nnU-Net's state_dict in its order. A convolution in a block has two, as it is also an entry of
// the block's sequence; the encoder is also the decoder's.
func (a Architecture) StateDict(channels, heads int) (all []Entry) {
	var encoder, decoder []Entry
	var group []Entry
	flush := func() {
		for _, e := range group[:len(group):len(group)] {
			group = append(group, Entry{a.sequence(e.Name), e.Of})
		}
		if len(group) > 0 && strings.HasPrefix(group[0].Name, "encoder.") {
			encoder = append(encoder, group...)
		} else {
			decoder = append(decoder, group...)
		}
		group = nil
	}
	of := ""
	n := &Net{Architecture: a, channels: channels, heads: heads}
	n.make(nn.Counter(trains, func(p *nn.Param, _ int) {
		owner, inBlock := unitOf(p.Name)
		if owner != of {
			flush()
		}
		of = owner
		if !inBlock {
			decoder = append(decoder, Entry{p.Name, p.Name})
			return
		}
		group = append(group, Entry{p.Name, p.Name})
		if name, ok := strings.CutSuffix(p.Name, "running_var"); ok {
			group = append(group, Entry{Name: name + "num_batches_tracked"})
		}
	}))
	flush()
	all = append(all, encoder...)
	for _, e := range encoder {
		all = append(all, Entry{"decoder." + e.Name, e.Of})
	}
	return append(all, decoder...)
}

// unitOf names the block that has a parameter.
func unitOf(name string) (owner string, inBlock bool) {
	for _, part := range []string{".conv.", ".norm."} {
		if i := strings.LastIndex(name, part); i >= 0 {
			return name[:i], true
		}
	}
	return name[:strings.LastIndexByte(name, '.')], false
}

// sequence is the name that an entry of a block has in the block's sequence.
func (a Architecture) sequence(name string) string {
	if i := strings.LastIndex(name, ".conv."); i >= 0 {
		return name[:i] + ".all_modules.0." + name[i+len(".conv."):]
	}
	at := byte('1')
	if a.Dropout {
		at++
	}
	i := strings.LastIndex(name, ".norm.")
	owner, _ := unitOf(name)
	if a.NormLast && a.Slope != 1 && !strings.HasSuffix(owner, ".conv2") {
		at++
	}
	return name[:i] + ".all_modules." + string(at) + "." + name[i+len(".norm."):]
}
