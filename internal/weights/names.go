package weights

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"masksam/internal/pickle"
	"masksam/internal/pth"
	"masksam/internal/pyjson"
)

// nests are the keys under which programs put a network's weights beside other things: nnU-Net, Lightning and others.
var nests = []string{"network_weights", "state_dict", "model_state_dict", "model"}

// stateDict finds the dictionary of a network's weights, and the keys that lead to it, joined by "/"; nil where no
// dictionary of tensors is at any of these places.
func stateDict(root any) (state *pickle.Dict, under string) {
	const deepest = 4
	return nested(root, "", deepest)
}

func nested(v any, under string, depth int) (*pickle.Dict, string) {
	d, ok := v.(*pickle.Dict)
	if !ok || depth == 0 {
		return nil, ""
	}
	for _, key := range nests {
		inner, _ := d.Get(key)
		if state, at := nested(inner, strings.TrimPrefix(under+"/"+key, "/"), depth-1); state != nil {
			return state, at
		}
	}
	for _, value := range d.Values {
		if _, ok := value.(*pth.Tensor); ok {
			return d, under
		}
	}
	return nil, ""
}

// metadata is what a file holds beside tensors and the weights, as plain Go values.
func metadata(root any, state *pickle.Dict) map[string]any {
	d, ok := root.(*pickle.Dict)
	if !ok || d == state {
		return map[string]any{}
	}
	return plain(d, state).(map[string]any)
}

// plain makes Go's own values. Values that a file repeats stay small: pth.Open has bounded them.
func plain(v any, leaveOut *pickle.Dict) any {
	list := func(items []any) any {
		out := []any{}
		for _, item := range items {
			if _, ok := item.(*pth.Tensor); !ok {
				out = append(out, plain(item, leaveOut))
			}
		}
		return out
	}
	switch v := v.(type) {
	case *pickle.Dict:
		out := map[string]any{}
		for i, key := range v.Keys {
			if _, ok := v.Values[i].(*pth.Tensor); !ok && v.Values[i] != any(leaveOut) {
				out[pickle.KeyText(key)] = plain(v.Values[i], leaveOut)
			}
		}
		return out
	case *pickle.List:
		return list(v.Items)
	case pickle.Tuple:
		return list(v)
	case *pth.Array:
		return v.Items()
	case pth.Device:
		return string(v)
	case pth.DType:
		return "torch." + string(v)
	case pickle.Bytes:
		return string(v)
	}
	return v
}

// wrappers are what PyTorch's DataParallel and torch.compile put before the names of what they wrap.
var wrappers = []string{"module.", "_orig_mod."}

// unwrap takes the wrappers' prefixes off a name. torch.compile may also wrap a part of a network.
func unwrap(name string) string {
	for again := true; again; {
		again = false
		for _, w := range wrappers {
			if rest, ok := strings.CutPrefix(name, w); ok && rest != "" {
				name, again = rest, true
			}
		}
	}
	return strings.ReplaceAll(name, "._orig_mod.", ".")
}

// canonical is the name under which a network of nnU-Net's building blocks knows a tensor that its file also has under
// this name: a block's layers are listed a second time, the decoder holds the encoder, and MaskSAM's prompt generator
// for ACDC holds one of its skips three times.
func canonical(name string) string {
	name = strings.Replace(name, ".all_modules.0.", ".conv.", 1)
	for _, i := range []string{"1", "2"} { // 2 where dropout or the activation comes before the norm
		name = strings.Replace(name, ".all_modules."+i+".", ".norm.", 1)
	}
	if rest, ok := strings.CutPrefix(name, "decoder.encoder."); ok {
		return "encoder." + rest
	}
	for _, copy := range []string{"image_decoder_skips_first.0.", "image_decoder_skips_second.0."} {
		if rest, ok := strings.CutPrefix(name, copy); ok {
			return "image_decoder_skips.1." + rest
		}
	}
	return name
}

// settle gives every tensor one name: the network's own (canonical) where the file has it, else the first. Where names
// of one tensor have different data, since a program changed one of them, the last in the file counts, as it does when
// PyTorch loads the file.
func (f *File) settle(found []named) error {
	all, wrapped := map[string]*tensor{}, 0
	for i, n := range found {
		if name := unwrap(n.name); name != n.name {
			found[i].name = name
			wrapped++
		}
		if all[found[i].name] != nil {
			return fmt.Errorf("two tensors are called %q when the prefixes of wrappers are left out", found[i].name)
		}
		all[found[i].name] = n.tensor
	}
	f.tensors, f.aliases = map[string]*tensor{}, map[string]string{}
	kept := map[string]string{} // identities to names
	same, differ := 0, []string{}
	for _, n := range found {
		name, ok := kept[n.identity]
		if !ok {
			name = n.name
			own := canonical(n.name)
			if other := all[own]; other != nil && other.dtype == n.dtype && slices.Equal(other.shape, n.shape) {
				name = own
				if earlier, ok := kept[other.identity]; ok {
					name = earlier
				}
			}
			kept[n.identity] = name
		}
		if name != n.name {
			f.aliases[n.name] = name
		}
		have := f.tensors[name]
		if have == nil {
			f.names = append(f.names, name)
			f.tensors[name] = n.tensor
			continue
		}
		same++
		equal, err := sameData(have, n.tensor)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", n.name, err)
		}
		if !equal {
			f.tensors[name] = n.tensor
			if !slices.Contains(differ, name) {
				differ = append(differ, name)
			}
		}
	}
	f.restore()
	if wrapped > 0 {
		f.warn("%d names begin with module. or _orig_mod., which wrappers of PyTorch add; these parts are left out", wrapped)
	}
	if same > 0 {
		f.note("%d names mean a tensor that has another name; each tensor is taken once", same)
	}
	if len(differ) > 0 {
		f.warn("%d tensors differ between their names (%q …); the last one in the file is taken, as PyTorch does", len(differ), differ[0])
	}
	return nil
}

// aliasesKey is, in the metadata of a converted file, JSON of the names that were dropped, to the names that were kept.
const aliasesKey = "aliases"

// otherKey is, in the metadata of a converted file, JSON of what the file beside its tensors held.
const otherKey = "other"

// restore takes up the dropped names of a converted file, and what it held beside its tensors. In a file of another program the
// keys may mean anything.
func (f *File) restore() {
	if f.pth != nil {
		return
	}
	var dropped map[string]string
	if text, ok := f.meta[aliasesKey].(string); ok && json.Unmarshal([]byte(text), &dropped) == nil {
		for name, kept := range dropped {
			if f.find(name) == nil && f.tensors[kept] != nil {
				f.aliases[name] = kept
			}
		}
	}
	text, _ := f.meta[otherKey].(string)
	other, err := pyjson.ParseObject([]byte(text))
	if err != nil || f.meta["source_sha256"] == nil {
		return
	}
	f.said = maps.Clone(f.meta)
	for key, v := range asMap(other) {
		if f.said[key] == nil {
			f.said[key] = v
		}
	}
}

// asMap makes Metadata's values of an object.
func asMap(o *pyjson.Object) map[string]any {
	out := map[string]any{}
	for _, key := range o.Keys() {
		v, _ := o.Get(key)
		out[key] = asPlain(v)
	}
	return out
}

func asPlain(v any) any {
	switch v := v.(type) {
	case *pyjson.Object:
		return asMap(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = asPlain(v[i])
		}
		return out
	case int:
		return int64(v)
	}
	return v
}

func sameData(a, b *tensor) (bool, error) {
	if a.identity == b.identity {
		return true, nil
	}
	x, err := sumOf(a)
	if err != nil {
		return false, err
	}
	y, err := sumOf(b)
	return x == y, err
}

func sumOf(t *tensor) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	err = t.each(func(data []byte) error {
		h.Write(data)
		return nil
	})
	return [sha256.Size]byte(h.Sum(nil)), err
}

// Printable is a text of a file as it is, or quoted if it has characters that a terminal does not show: it could take
// them for commands.
func Printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) || r == utf8.RuneError }) {
		return strconv.Quote(s)
	}
	return s
}
