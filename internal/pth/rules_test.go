package pth_test

import (
	"archive/zip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"masksam/internal/pickle"
	"masksam/internal/pth"
)

// harmless pickles and what the value under "x" must be.
var harmless = []struct {
	pickle string
	want   any
}{
	{proto + dict("x", "N") + ".", nil},
	{"\x80\x05\x95\x0e\x00\x00\x00\x00\x00\x00\x00}(\x8c\x01x\x94G?\xf8\x00\x00\x00\x00\x00\x00u.", 1.5},
	{"}(" + text("x") + "I-7\nu.", int64(-7)},
	{"}(Vx\nI01\nu.", true},
	{"}(S'x'\nL12345678901234567890L\nu.", "12345678901234567890"},
	{"(dVx\nF0.25\ns.", 0.25},
	{"(dVx\nF-1.2345678901234567e-300\ns.", -1.2345678901234567e-300},
	{"((I1\nI2\nlp0\n0g0\n0(I7\n1}Vx\nI3\ns0}Vx\ng0\ns.", "[1 2]"},
	{proto + dict("x", "U\x03abc") + ".", "abc"},
	{proto + dict("x", "B\x03\x00\x00\x00abc") + ".", pickle.Bytes("abc")},
	{proto + dict("x", "\x8a\x00") + ".", int64(0)},
	{proto + dict("x", "\x8a\x01\xff") + ".", int64(-1)},
	{proto + dict("x", "\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00") + ".", "9223372036854775808"},
	{proto + dict("x", "K\x020K\x0120") + ".", int64(1)},
	{proto + dict("x", "ctorch\nSize\n(K\x02K\x03t\x85R") + ".", pickle.Tuple{int64(2), int64(3)}},
	{proto + dict("x", "ctorch\ndevice\n"+text("cuda")+"K\x01\x86R") + ".", pth.Device("cuda:1")},
	{proto + dict("x", "ctorch\nbfloat16\n") + ".", pth.BFloat16},
	{proto + dict("x", "c__builtin__\nbytes\n)R") + ".", pickle.Bytes("")},
	{proto + dict("x", "c_codecs\nencode\n"+text("aé")+text("latin1")+"\x86R") + ".", pickle.Bytes("a\xe9")},
	{proto + "ccollections\nOrderedDict\n(](" + text("x") + "K\x05\x86etR}b.", int64(5)},
	{"\x80\x04}(" + text("x") + "\x8f(K\x01\x90u.", "[1]"},
	{"\x80\x04}(" + text("x") + "\x8c\x05torch\x8c\x07float16\x93u.", pth.Float16},
}

func TestHarmless(t *testing.T) {
	for _, c := range harmless {
		f, err := pth.OpenBytes(file(t, c.pickle))
		if err != nil {
			t.Errorf("%q: %v", c.pickle, err)
			continue
		}
		d, ok := f.Root().(*pickle.Dict)
		if !ok {
			t.Errorf("%q: is %T", c.pickle, f.Root())
			continue
		}
		got, _ := d.Get("x")
		if l, ok := got.(*pickle.List); ok {
			got = fmt.Sprint(l.Items)
		}
		if text, big := c.want.(string); big && fmt.Sprint(got) == text {
			continue
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: is %#v, want %#v", c.pickle, got, c.want)
		}
	}
}

// call is a pickle that calls a function on a text.
func call(module, name string) string {
	return proto + "c" + module + "\n" + name + "\n" + text("true") + "\x85R."
}

// view is a pickle of a tensor of four numbers.
func view(offset int64, shape, strides string) string {
	return proto + dict("w", tensor(storageID(floats, "0", 4), offset, shape, strides)) + "."
}

func under(value string) string { return proto + dict("x", value) + "." }

// hostile pickles, and a part of the error that each must bring.
var hostile = []struct{ pickle, want string }{
	{call("os", "system"), "os.system"},
	{call("posix", "system"), "posix.system"},
	{call("builtins", "eval"), "builtins.eval"},
	{call("builtins", "getattr"), "builtins.getattr"},
	{call("torch", "load"), "torch.load"},
	{call("torch._utils", "_rebuild_sparse_tensor"), "_rebuild_sparse_tensor"},
	{call("torch._utils", "_rebuild_qtensor"), "_rebuild_qtensor"},
	{call("torch.", "Size"), "torch..Size"},
	{call("torch", "Size.__class__"), "Size.__class__"},
	{call("torch", "FloatStorage"), "no function"},
	{call("numpy", "ndarray"), "no function"},
	{"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.", "os.system"},
	{"\x80\x04K\x01\x8c\x06system\x93.", "no text"},
	{"cos\nsystem\n(S'id'\ntR.", "os.system"},
	{"(S'id'\nios\nsystem\n.", "INST"},
	{"(cos\nsystem\nS'id'\no.", "os.system"},
	{proto + "ccollections\nOrderedDict\n)\x81.", "NEWOBJ"},
	{proto + "ccollections\nOrderedDict\n)}\x92.", "NEWOBJ_EX"},
	{proto + "\x82\x01.", "EXT1"},
	{"\x80\x05\x97.", "NEXT_BUFFER"},
	{"\x80\x05C\x01a\x98.", "READONLY_BUFFER"},
	{"P0\n.", "PERSID"},
	{"\x80\x06N.", "protocol 6"},
	{proto + "\xff.", "0xff"},
	{under("ctorch\ndevice\n"), "itself"},
	{under("ctorch\nFloatStorage\n"), "itself"},
	{under("c_codecs\nencode\n"), "itself"},
	{under(storageID(floats, "0", 4)), "storage without a tensor"},
	{under("cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"), "without data"},
	{under("cnumpy.core.multiarray\n_reconstruct\ncnumpy\nmatrix\nK\x00\x85C\x01b\x87R"), "numpy.matrix"},
	{under("cnumpy\ndtype\n" + text("O8") + "\x89\x88\x87R"), "O8"},
	{under("cnumpy\ndtype\n" + text("V8") + "\x89\x88\x87R"), "V8"},
	{under("cnumpy\ndtype\n" + text("f4") + "\x89\x88\x87R(K\x03" + text("<") + "}NNK\x00K\x00K\x00tb"), "several fields"},
	{under(array("f4", tuple(3), "abcdefgh")), "no array"},
	{under(array("f4", tuple(1<<40, 1<<40), "abcdefgh")), "beyond"},
	{under(array("f4", tuple(-1), "abcd")), "negative"},
	{under("cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" + text("f8") + "\x89\x88\x87RC\x04abcd\x86R"), "one number"},

	{view(-1, tuple(1), tuple(1)), "begins"},
	{view(5, tuple(0), tuple(1)), "begins"},
	{view(0, tuple(5), tuple(1)), "beyond"},
	{view(3, tuple(2), tuple(1)), "beyond"},
	{view(0, tuple(2), tuple(4)), "beyond"},
	{view(0, tuple(2), tuple(-1)), "negative"},
	{view(0, tuple(-2), tuple(1)), "negative"},
	{view(0, tuple(2, 2), tuple(1)), "strides"},
	{view(0, tuple(1<<32, 1<<32), tuple(0, 0)), "beyond any file"},
	{view(0, tuple(1<<62), tuple(4)), "beyond"},
	{view(0, tuple(3), tuple(1<<62)), "beyond"},
	{view(1<<62, tuple(1), tuple(1)), "begins"},
	{view(0, tuple(1<<40), tuple(0)), "repeat"},
	{view(0, tuple(make([]int64, 33)...), tuple(make([]int64, 33)...)), "axes"},
	{under(tensor(storageID(floats, "0", 4), 0, "K\x02", tuple(1))), "whole numbers"},
	{under(tensor(storageID(floats, "0", 4), 0, "(N\x85t", tuple(1))), "whole number"},
	{under(tensor(text("0"), 0, tuple(1), tuple(1))), "arguments"},
	{under(tensor(storageID("torch.storage\nUntypedStorage", "0", 16), 0, tuple(1), tuple(1))), "no element type"},
	{under(v3("complex64", 16)), "complex64"},
	{under(v3("float8_e4m3fn", 16)), "float8"},
	{under(v3("int64", 15)), "15"},

	{under(tensor(storageID(floats, "0", 5), 0, tuple(1), tuple(1))), "20 bytes"},
	{under(tensor(storageID(floats, "0", 3), 0, tuple(1), tuple(1))), "12 bytes"},
	{under(tensor(storageID(floats, "0", 1<<40), 0, tuple(1), tuple(1))), "takes"},
	{under(tensor(storageID(floats, "0", 1<<62), 0, tuple(1), tuple(1))), "elements"},
	{under(tensor(storageID(floats, "0", -4), 0, tuple(1), tuple(1))), "elements"},
	{under(tensor(storageID(floats, "1", 4), 0, tuple(1), tuple(1))), "missing"},
	{under(tensor(storageID(floats, "../0", 4), 0, tuple(1), tuple(1))), "plain name"},
	{under(tensor(storageID(floats, "/etc/passwd", 4), 0, tuple(1), tuple(1))), "plain name"},
	{under(tensor(storageID(floats, "", 4), 0, tuple(1), tuple(1))), "plain name"},
	{under(tensor(storageID("collections\nOrderedDict", "0", 4), 0, tuple(1), tuple(1))), "no class of storages"},
	{under(tensor(storageID("torch\nComplexFloatStorage", "0", 4), 0, tuple(1), tuple(1))), "ComplexFloatStorage"},
	{under(tensor(storageID("torch\nQInt8Storage", "0", 4), 0, tuple(1), tuple(1))), "QInt8Storage"},
	{under("(" + text("module") + "ctorch\nFloatStorage\n" + text("0") + text("cpu") + "K\x04tQ"), "module"},
	{under("K\x01Q"), "in place of a tuple"},
	{under("(tQ"), "0 items"},

	{proto + "X\xff\xff\xff\xffabc.", "cut off"},
	{proto + "B\xff\xff\xff\xffabc.", "cut off"},
	{"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.", "cut off"},
	{"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "cut off"},
	{"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "cut off"},
	{"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.", "cut off"},
	{proto + "\x8b\xff\xff\xff\x7fabc.", "whole number of"},
	{proto + "\x8b\x00\x00\x10\x00" + strings.Repeat("a", 1<<20) + ".", "whole number of"},
	{"L" + strings.Repeat("9", 1<<20) + "L\n.", "digits"},
	{strings.Repeat("L"+strings.Repeat("9", 1023)+"\n0", 30_000) + "N.", "digits"},
	{strings.Repeat("F"+strings.Repeat("1", 1<<20)+"e-1048576\n0", 30) + "N.", "characters"},
	{proto + "X\x01\x00\x00\x00\xff.", "UTF-8"},
	{proto + "}(" + text("a") + "u.", "without a value"},
	{proto + "}]Ns.", "key of a dictionary"},
	{proto + "}" + tuple(make([]int64, 99)...) + "Ns.", "key of a dictionary"},
	{proto + "NNa.", "appends to"},
	{proto + "NNNs.", "gives items to"},
	{proto + "}}b.", "attributes"},
	{proto + "]}b.", "state"},
	{proto + "h\x07.", "did not keep"},
	{proto + "j\xff\xff\xff\xff.", "did not keep"},
	{proto + "00.", "empty stack"},
	{proto + "t.", "empty stack"},
	{proto + "(0.", "empty stack"},
	{proto + "q\x00.", "empty stack"},
	{proto + "R.", "empty stack"},
	{proto + ".", "empty stack"},
	{proto + "NN.", "more than one"},
	{proto + "N", "cut off"},
	{"", "cut off"},
	{proto + "N.N.", "goes on"},
	{strings.Repeat("(", 1<<20), "cut off"},
	{strings.Repeat("]", 1<<20) + ".", "too many values"},
	{strings.Repeat("}", 1<<21) + ".", "too many values"},
	{strings.Repeat("]\x94", 1<<20) + ".", "too many values"},
	{proto + strings.Repeat("]", 5000) + strings.Repeat("a", 4999) + ".", "nested"},
	{proto + "K\x01" + strings.Repeat("\x85", 100_000) + ".", "nested"},
	{proto + "}q\x00" + text("a") + "h\x00s.", "nested"},
	{proto + "]q\x00(h\x00h\x00h\x00e.", "nested"},
	{proto + "]q\x00h\x00\x85a.", "nested"},
	{bomb("("+"h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00"+"t", 12, "N"), "more values"},
	{bomb("](h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00e", 12, "N"), "more values"},
	{bomb("(h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00t", 6, text(strings.Repeat("long", 1<<16))), "more values"},
	{keyBomb("\x8b\x00\x04\x00\x00"+strings.Repeat("\x7f", 1<<10), 780_000), "beyond 64 bits"},
	{keyBomb("\x8a\x09"+strings.Repeat("\x7f", 9), 1), "beyond 64 bits"},
	{keyBomb("("+text(strings.Repeat("x", 1<<10))+strings.Repeat("2", 15)+"t", 700_000), "too many values"},
	{keyBomb("K\x01", 700_000), "too many values"},
	{tupleKeys(38_000), "too many values"},
	{integerKeys(600_000), "too many values"},
	{bomb("h\x00h\x00\x86", 18, "N"), "more values"},
	{encodeBomb(), "more bytes"},
	{manyViews(), "share"},
	{manyScattered(), "scattered"},
	{manyAxes(45_000), "too many values"},
	{"not a pickle at all", "opcode"},
	{"<!DOCTYPE html>", "opcode"},
}

// array is a NumPy array of a type, a shape and bytes.
func array(code, shape, data string) string {
	return "cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01" + shape + "cnumpy\ndtype\n" + text(code) +
		"\x89\x88\x87R\x89C" + string(rune(len(data))) + data + "tb"
}

// v3 is a tensor of two elements of a type, on a storage that counts bytes.
func v3(dtype string, bytes int64) string {
	return "ctorch._utils\n_rebuild_tensor_v3\n(" + storageID("torch.storage\nUntypedStorage", "0", bytes) + "K\x00K\x02\x85K\x01\x85\x89}ctorch\n" +
		dtype + "\ntR"
}

// bomb is a value made of the one before, several times over.
func bomb(level string, levels int, first string) string {
	s := proto + "(" + first + "q\x00"
	for range levels {
		s += level + "q\x00"
	}
	return s + "q\x001h\x00."
}

// keyBomb gives a dictionary one key again and again.
func keyBomb(key string, times int) string {
	return proto + key + "q\x000}(" + strings.Repeat("h\x00N", times) + "u."
}

// tupleKeys gives a dictionary long tuples as keys, each another.
func tupleKeys(n int) string {
	var s strings.Builder
	s.WriteString(proto + text(strings.Repeat("x", 1<<10)) + "q\x000}(")
	for i := range n {
		s.WriteString("(" + strings.Repeat("h\x00", 15) + integer(int64(i)) + "tN")
	}
	return s.String() + "u."
}

func integerKeys(n int) string {
	b := []byte(proto + "}(")
	for i := range n {
		b = append(binary.LittleEndian.AppendUint32(append(b, 'J'), uint32(i)), 'N')
	}
	return string(b) + "u."
}

func encodeBomb() string {
	s := proto + text(strings.Repeat("x", 1<<18)) + "q\x000("
	for range 10_000 {
		s += "c_codecs\nencode\nh\x00" + text("latin1") + "\x86R"
	}
	return s + "t."
}

// manyViews are tensors that share one storage, each of its own.
func manyViews() string {
	s := proto + storageID(floats, "0", 1<<20) + "q\x000]("
	for i := range int64(200) {
		s += tensor("h\x00", i, tuple(1<<20-200), tuple(1))
	}
	return s + "e."
}

// manyScattered are tensors of few elements all over one storage, each of its own.
func manyScattered() string {
	const elements, tensors = 64, 3_000
	s := proto + storageID(floats, "0", 1<<20) + "q\x00" + tuple(elements) + "q\x01" + tuple((1<<20-tensors)/elements) + "q\x02000]("
	for i := range int64(tensors) {
		s += tensor("h\x00", i, "h\x01", "h\x02")
	}
	return s + "e."
}

// manyAxes are tensors of one element each, which have as many axes as a tensor may.
func manyAxes(n int) string {
	const rank = 32
	ones := make([]int64, rank)
	for i := range ones {
		ones[i] = 1
	}
	var s strings.Builder
	s.WriteString(proto + storageID(floats, "0", 4) + "q\x00" + tuple(ones...) + "q\x01" + "ctorch._utils\n_rebuild_tensor_v2\nq\x02000](")
	for range n {
		s.WriteString("h\x02(h\x00K\x00h\x01h\x01\x89}tR")
	}
	return s.String() + "e."
}

func TestHostile(t *testing.T) {
	for _, c := range hostile {
		data := numbers(1, 2, 3, 4)
		if c.want == "share" || c.want == "scattered" {
			data = strings.Repeat("\x00", 4<<20)
		}
		if c.want == "15" {
			data = data[:15]
		}
		b := archive(t, false, record{Name: "m/data.pkl", Data: c.pickle}, record{Name: "m/data/0", Data: data})
		expectRefusal(t, fmt.Sprintf("%.60q", c.pickle), b, c.want)
	}
}

// expectRefusal opens a file, which must fail within a second and 100 MB with an error that has a text. A busy machine
// gets further tries for the second.
func expectRefusal(t *testing.T, what string, b []byte, want string) {
	t.Helper()
	const tries = 3
	var took time.Duration
	for range tries {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err := pth.OpenBytes(b)
		took = time.Since(start)
		runtime.ReadMemStats(&after)
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 100e6 {
			t.Errorf("%s: %d bytes of memory", what, spent)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want it to say %q", what, err, want)
		}
		if took <= time.Second {
			return
		}
	}
	t.Errorf("%s: took %v", what, took)
}

// TestErrorsArePrintable: what a file calls things does not reach a terminal as it is.
func TestErrorsArePrintable(t *testing.T) {
	const escape = "\x1b[31m\x1b]0;title\a\r"
	data := record{Name: "m/data/0", Data: numbers(1, 2, 3, 4)}
	for name, b := range map[string][]byte{
		"global":     file(t, proto+"cos"+escape+"\nsystem"+escape+"\n."),
		"two models": archive(t, true, record{Name: escape + "/data.pkl", Data: good}, record{Name: "m/data.pkl", Data: good}, data),
		"no storage": archive(t, true, record{Name: escape + "/data.pkl", Data: good}, data),
		"order":      archive(t, true, record{Name: "m/data.pkl", Data: good}, data, record{Name: "m/byteorder", Data: "\x1b[31m"}),
		"key":        file(t, under(tensor(storageID(floats, escape, 4), 0, tuple(1), tuple(1)))),
		"dtype":      file(t, under("cnumpy\ndtype\n"+text(escape)+"\x89\x88\x87R")),
		"name":       file(t, proto+"}"+text(escape)+tensor(storageID(floats, "0", 4), 0, tuple(1<<30), tuple(0))+"s."),
		"number":     file(t, "I"+escape+"\n."),
	} {
		_, err := pth.OpenBytes(b)
		if err == nil || strings.ContainsFunc(err.Error(), unicode.IsControl) {
			t.Errorf("%s: error %q", name, err)
		}
	}
}

func TestHostileArchives(t *testing.T) {
	le := binary.LittleEndian
	pkl, data := record{Name: "m/data.pkl", Data: good}, record{Name: "m/data/0", Data: numbers(1, 2, 3, 4)}
	plain := archive(t, true, pkl, data)
	directory := strings.Index(string(plain), "PK\x01\x02")
	second := strings.Index(string(plain[4:]), "PK\x03\x04") + 4
	end := len(plain) - 22
	patched := func(patch func(b []byte)) []byte {
		b := slices.Clone(plain)
		patch(b)
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"cut":                  {plain[:end], "cut off"},
		"cut in the end":       {plain[:len(plain)-1], "cut off"},
		"bytes behind":         {append(slices.Clone(plain), 0), "cut off"},
		"no data.pkl":          {archive(t, true, data), "data.pkl"},
		"two models":           {archive(t, true, pkl, data, record{Name: "n/data.pkl", Data: good}), "two models"},
		"two of a name":        {archive(t, true, pkl, data, data), "two records"},
		"two of a name, other": {archive(t, true, pkl, data, record{Name: "m/data/0", Data: numbers(5, 6, 7, 8)}), "two records"},
		"byte order":           {archive(t, true, pkl, data, record{Name: "m/byteorder", Data: "middle"}), "byte order"},
		"long byte order":      {archive(t, true, pkl, data, record{Name: "m/byteorder", Data: strings.Repeat("x", 99)}), "most"},
		"out of the archive":   {archive(t, true, pkl, data, record{Name: "m/../../x", Data: ""}), "out of the archive"},
		"absolute":             {archive(t, true, pkl, data, record{Name: "/x", Data: ""}), "out of the archive"},
		"backslash":            {archive(t, true, pkl, data, record{Name: `m\x`}), "out of the archive"},
		"short storage":        {archive(t, true, pkl, record{Name: "m/data/0", Data: "abcd"}), "has 4"},
		"large pickle":         {archive(t, false, record{Name: "m/data.pkl", Data: strings.Repeat("N", 33<<20)}), "most"},
		"deflated":             {patched(func(b []byte) { le.PutUint16(b[directory+10:], 8) }), "compressed"},
		"deflated locally":     {patched(func(b []byte) { le.PutUint16(b[8:], 8) }), "differs"},
		"encrypted":            {patched(func(b []byte) { b[directory+8] |= 1 }), "encrypted"},
		"packed size":          {patched(func(b []byte) { le.PutUint32(b[directory+20:], 7) }), "compressed"},
		"other local name":     {patched(func(b []byte) { b[30]++ }), "differs"},
		"other local size":     {patched(func(b []byte) { le.PutUint32(b[22:], 7) }), "differs"},
		"other local checksum": {patched(func(b []byte) { b[14]++ }), "differs"},
		"no local header":      {patched(func(b []byte) { b[second]++ }), "does not begin"},
		"huge record": {patched(func(b []byte) {
			le.PutUint32(b[directory+20:], 1<<31)
			le.PutUint32(b[directory+24:], 1<<31)
		}), "beyond"},
		"zip64 size missing": {patched(func(b []byte) {
			le.PutUint32(b[directory+20:], 1<<32-1)
			le.PutUint32(b[directory+24:], 1<<32-1)
		}), "beyond"},
		"header far away":     {patched(func(b []byte) { le.PutUint32(b[directory+42:], 1<<31) }), "beyond"},
		"same header twice":   {patched(func(b []byte) { le.PutUint32(b[len(b)-22-46-len("m/data/0")+42:], 0) }), "overlaps"},
		"changed pickle":      {patched(func(b []byte) { b[strings.Index(string(b), "OrderedDict")] = 'o' }), "checksum"},
		"more records":        {patched(func(b []byte) { le.PutUint16(b[end+8:], 9); le.PutUint16(b[end+10:], 9) }), "fewer"},
		"fewer records":       {patched(func(b []byte) { le.PutUint16(b[end+8:], 1); le.PutUint16(b[end+10:], 1) }), "left over"},
		"split":               {patched(func(b []byte) { le.PutUint16(b[end+4:], 1) }), "split"},
		"directory elsewhere": {patched(func(b []byte) { le.PutUint32(b[end+16:], 1) }), "not where"},
		"directory far away":  {patched(func(b []byte) { le.PutUint32(b[end+16:], 1<<31) }), "not where"},
		"long directory":      {patched(func(b []byte) { le.PutUint32(b[end+12:], 1<<31) }), "most"},
	} {
		expectRefusal(t, name, c.b, c.want)
	}
	// A changed number is noticed when its tensor is read.
	f, err := pth.OpenBytes(patched(func(b []byte) { b[directory-1] ^= 1 }))
	if err != nil {
		t.Fatal(err)
	}
	w, _ := f.Root().(*pickle.Dict).Get("w")
	if _, err := w.(*pth.Tensor).Float32s(); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a changed number: error %v, want the checksum", err)
	}
}

// legacyID names a storage of floats in the old form; part is None or (key, first, count).
func legacyID(key string, n int64, part string) string {
	return "(" + text("storage") + "c" + floats + "\n" + text(key) + text("cpu") + integer(n) + part + "tQ"
}

// wasteful is a file of the old form whose every pickle makes values and drops them, the object's behind a text.
func wasteful(values, length int) []byte {
	waste := "(" + strings.Repeat("]", values) + "1"
	b := legacy(proto+text(strings.Repeat("x", length))+"0"+waste+"}.", nil, "")
	return []byte(strings.ReplaceAll(string(b), proto, proto+waste))
}

func TestLegacy(t *testing.T) {
	part := "(" + text("9") + integer(1) + integer(2) + "t"
	object := proto + dict("w", tensor(legacyID("0", 4, "N"), 0, tuple(2, 2), tuple(1, 2)), "v", tensor(legacyID("0", 4, part), 0, tuple(2), tuple(1))) + "."
	data := count(4) + numbers(1, 2, 3, 4)
	f, err := pth.OpenBytes(legacy(object, []string{"0"}, data))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]float32{"w": {1, 3, 2, 4}, "v": {2, 3}} {
		v, _ := f.Root().(*pickle.Dict).Get(name)
		if got, err := v.(*pth.Tensor).Float32s(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s is %v, want %v; error %v", name, got, want, err)
		}
	}
	one := func(id string) string { return proto + dict("w", tensor(id, 0, tuple(1), tuple(1))) + "." }
	two := proto + dict("w", tensor(legacyID("0", 4, "N"), 0, tuple(1), tuple(1)), "v", tensor(legacyID("0", 3, "N"), 0, tuple(1), tuple(1))) + "."
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"another pickle":      {[]byte(proto + "K\x01."), "PyTorch did not write"},
		"cut in the pickles":  {legacy(object, []string{"0"}, "")[:60], "cut off"},
		"no data":             {legacy(object, []string{"0"}, ""), "cut off"},
		"half the data":       {legacy(object, []string{"0"}, data[:20]), "cut off"},
		"more data":           {legacy(object, []string{"0"}, data+"x"), "left over"},
		"another count":       {legacy(object, []string{"0"}, count(1<<60)+numbers(1, 2, 3, 4)), "elements"},
		"no keys":             {legacy(object, nil, data), "list of storages"},
		"another key":         {legacy(object, []string{"1"}, data), "list of storages"},
		"a key twice":         {legacy(object, []string{"0", "0"}, data), "list of storages"},
		"two counts":          {legacy(two, []string{"0"}, data), "0 is of"},
		"a huge count":        {legacy(one(legacyID("0", 1<<50, "N")), []string{"0"}, count(1<<50)), "cut off"},
		"a part beyond":       {legacy(one(legacyID("0", 4, "("+text("9")+integer(3)+integer(2)+"t")), []string{"0"}, data), "beyond"},
		"a negative part":     {legacy(one(legacyID("0", 4, "("+text("9")+integer(-1)+integer(2)+"t")), []string{"0"}, data), "beyond"},
		"a part that is none": {legacy(one(legacyID("0", 4, "K\x01")), []string{"0"}, data), "part"},
		"system":              {legacy(call("os", "system"), nil, ""), "os.system"},
		"system in the keys":  {append(legacy(object, nil, "")[:len(legacy(object, nil, ""))-len("](e.")-2], []byte(call("os", "system"))...), "os.system"},
		"untyped":             {legacy(one(strings.Replace(legacyID("0", 4, "N"), floats, "torch.storage\nUntypedStorage", 1)), []string{"0"}, data), "no element type"},
		"values in each":      {wasteful(200_000, 0), "too many values"},
		"values far behind":   {wasteful(150_000, 20<<20), "too many values"},
		"five items":          {legacy(one(storageID(floats, "0", 4)), []string{"0"}, data), "5 items"},
	} {
		expectRefusal(t, name, c.b, c.want)
	}
}

func TestNoPyTorchFile(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"empty":       {"", "empty"},
		"page":        {"\n<!DOCTYPE html><html>", "web page"},
		"lfs":         {"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"},
		"gzip":        {"\x1f\x8b\x08", "gzip"},
		"safetensors": {"\x02\x00\x00\x00\x00\x00\x00\x00{}", "safetensors"},
		"text":        {"hello", "neither"},
		"pk":          {"PK\x03\x04", "cut off"},
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(c.content), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := pth.Open(path); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want it to say %q", name, err, c.want)
		}
	}
	if _, err := pth.Open(t.TempDir()); err == nil {
		t.Error("a folder: no error")
	}
}

// sparse leaves holes for the zeros that hole writes.
type sparse struct{ *os.File }

var hole = make([]byte, 1<<26)

func (s sparse) Write(b []byte) (int, error) {
	if len(b) == len(hole) {
		_, err := s.Seek(int64(len(b)), io.SeekCurrent)
		return len(b), err
	}
	return s.File.Write(b)
}

// A file beyond 4 GiB has 64-bit sizes and places; opening it reads none of its numbers.
func TestLargeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large.pth")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const holes = 65
	size := int64(holes * len(hole))
	w := zip.NewWriter(sparse{f})
	add := func(name string, size int64, write func(to io.Writer) error) {
		to, err := w.CreateRaw(&zip.FileHeader{Name: name, CompressedSize64: uint64(size), UncompressedSize64: uint64(size)})
		if err == nil {
			err = write(to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add("m/data/0", size, func(to io.Writer) error {
		for range holes {
			if _, err := to.Write(hole); err != nil {
				return err
			}
		}
		return nil
	})
	pickle := proto + dict("large", tensor(storageID(floats, "0", size/4), 0, tuple(size/4), tuple(1)), "corner",
		tensor(storageID(floats, "0", size/4), size/4-3, tuple(3), tuple(1)), "small", tensor(storageID(floats, "1", 2), 0, tuple(2), tuple(1))) + "."
	for _, r := range []record{{Name: "m/data/1", Data: numbers(5, 6)}, {Name: "m/data.pkl", Data: pickle}} {
		add(r.Name, int64(len(r.Data)), func(to io.Writer) error {
			_, err := io.WriteString(to, r.Data)
			return err
		})
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	opened, err := pth.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	err = opened.Walk(func(name string, v any) error {
		tensor := v.(*pth.Tensor)
		if name == "large" {
			if int64(tensor.Len()) != size/4 {
				t.Errorf("%d elements", tensor.Len())
			}
			return nil
		}
		got, err := tensor.Float32s()
		if want := map[string][]float32{"small": {5, 6}, "corner": {0, 0, 0}}[name]; !slices.Equal(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
		return err
	})
	if took := time.Since(start); err != nil || took > time.Second {
		t.Errorf("took %v, error %v", took, err)
	}
}
