package dataset

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/pyjson"
)

// Labels is what dataset.json says of label values, with nnU-Net's rules (LabelManager). The network has one head per
// label (softmax) or, if some entry stands for several labels, one per region (sigmoid).
type Labels struct {
	entries    []entry
	classOrder []int
	regions    bool
	ignore     int // −1: none
	all        []int
}

// entry is one item of the labels object.
type entry struct {
	name   string
	values []int
	scalar bool // written as a number, not as a list
}

// Region is a foreground entry of dataset.json.
type Region struct {
	Name   string
	Labels []int
	Scalar bool // written as a number, not as a list of one or more
}

// ReadLabels reads the entries labels and regions_class_order of a dataset.json; file names it in findings. All broken
// rules are found; with any, the labels are nil.
func ReadLabels(doc *pyjson.Object, file string) (*Labels, []*Finding) {
	var found []*Finding
	fail := func(code, remedy, format string, args ...any) {
		found = append(found, NewFinding(code, file, remedy, format, args...))
	}
	value, _ := doc.Get("labels")
	object, ok := value.(*pyjson.Object)
	if !ok {
		remedy := `write labels as {"background": 0, "name": 1, …}`
		if list, isList := value.([]any); isList && len(list) > 0 && list[0] == "background" {
			named := pyjson.NewObject()
			for i, name := range list {
				named.Set(fmt.Sprint(name), i)
			}
			remedy = "write labels as " + oneLine(named)
		}
		fail("LABELS_INVALID", remedy, "labels is %s, not an object of names and numbers", pyjson.Describe(value))
		return nil, found
	}
	if right := reversed(object); right != nil {
		fail("LABELS_REVERSED", "write labels as "+oneLine(right),
			"names and numbers of labels are the wrong way round, as nnU-Net 1 and the Medical Segmentation Decathlon had them")
		return nil, found
	}

	l := &Labels{ignore: -1}
	set := map[int]bool{}
	whole := true // no label is missing in what follows
	for _, name := range object.Keys() {
		value, _ := object.Get(name)
		e := entry{name: name}
		list, isList := value.([]any)
		if !isList {
			list, e.scalar = []any{value}, true
		}
		good := len(list) > 0
		for _, v := range list {
			n, ok := integer(v)
			good = good && ok && n >= 0 && n <= math.MaxUint16
			e.values = append(e.values, n)
		}
		switch {
		case !good:
			fail("LABELS_INVALID", "a label is a whole number from 0 to 65535, a region a list of them",
				"label %q is %s", name, oneLine(value))
			whole = false
			continue
		case name == "ignore" && !e.scalar:
			fail("IGNORE_NOT_INT", "give it one number, the highest label + 1", "the ignore label is a list")
			continue
		case name == "ignore":
			l.ignore = e.values[0]
		default:
			for _, v := range e.values {
				set[v] = true
			}
		}
		l.regions = l.regions || len(e.values) > 1
		l.entries = append(l.entries, e)
	}
	for v := range set {
		l.all = append(l.all, v)
	}
	slices.Sort(l.all)

	if bg := slices.IndexFunc(l.entries, func(e entry) bool { return e.name == "background" }); bg < 0 {
		zero := slices.IndexFunc(l.entries, func(e entry) bool { return slices.Equal(e.values, []int{0}) })
		switch {
		case object.Has("background"): // with a value that is no label
		case zero >= 0 && strings.EqualFold(strings.TrimSpace(l.entries[zero].name), "background"):
			fail("BACKGROUND_MISSING", fmt.Sprintf(`rename %q to "background"`, l.entries[zero].name),
				"labels do not declare background; label 0 is %q", l.entries[zero].name)
		case zero >= 0:
			fail("BACKGROUND_MISSING",
				fmt.Sprintf(`write "background" for %q, or number that label from 1 on, in the label files too`,
					l.entries[zero].name),
				"labels do not declare background; label 0 is %q", l.entries[zero].name)
		default:
			fail("BACKGROUND_MISSING", `add "background": 0`, "labels do not declare background")
		}
	} else if e := l.entries[bg]; !e.scalar {
		fail("BACKGROUND_NOT_SCALAR", `write "background": 0`, "background is a list")
	} else if e.values[0] != 0 {
		fail("BACKGROUND_NOT_ZERO", "give background the value 0, in the label files too", "background is %d, must be 0", e.values[0])
	}
	if n := len(l.all); whole && l.ignore >= 0 && n > 0 && l.ignore != l.all[n-1]+1 {
		fail("IGNORE_NOT_HIGHEST", fmt.Sprintf("give ignore the value %d, in the label files too", l.all[n-1]+1),
			"the ignore label is %d, but must follow the highest label, %d", l.ignore, l.all[n-1])
	} else if f := l.gap(file); whole && !l.regions && f != nil {
		found = append(found, f)
	}
	if l.regions {
		order, ok := doc.Get("regions_class_order")
		list, isList := order.([]any)
		for _, v := range list {
			n, ok := integer(v)
			isList = isList && ok && n >= 0 && n <= math.MaxUint16
			l.classOrder = append(l.classOrder, n)
		}
		switch want := len(l.Regions()); {
		case !ok:
			fail("REGIONS_ORDER_MISSING", "add regions_class_order: the label to paint for each region, in their order",
				"labels define regions, but regions_class_order is missing")
		case !isList:
			fail("REGIONS_ORDER_MISSING", "write regions_class_order as a list: the label to paint for each region, in their order",
				"regions_class_order is %s, not a list of labels", oneLine(order))
		case len(list) != want:
			fail("REGIONS_ORDER_LENGTH", "give one label per foreground region, in their order",
				"regions_class_order has %d entries for %d foreground regions", len(list), want)
		}
	}
	if len(found) > 0 {
		return nil, found
	}
	return l, nil
}

// reversed is the right way round of labels written as {"0": "background", …}; nil for others.
func reversed(labels *pyjson.Object) *pyjson.Object {
	right := pyjson.NewObject()
	for _, key := range labels.Keys() {
		value, _ := labels.Get(key)
		number, isNumber := integer(key)
		name, isName := value.(string)
		if _, counts := integer(value); !isNumber || !isName || counts {
			return nil
		}
		right.Set(name, number)
	}
	if len(right.Keys()) == 0 {
		return nil
	}
	return right
}

// integer is Python's int() for what JSON can hold.
func integer(v any) (int, bool) {
	switch v := v.(type) {
	case int:
		return v, true
	case float64:
		return int(v), math.Trunc(v) == v && math.Abs(v) < 1<<31
	case string:
		n, err := strconv.Atoi(strings.TrimSpace(v))
		return n, err == nil
	}
	return 0, false
}

// gap finds labels that do not follow their predecessor; nil: there are none. A network's scores are those of 0, 1, 2, … or of
// regions, for which nothing but nnU-Net's check of a dataset asks for it.
func (l *Labels) gap(file string) *Finding {
	var after []string
	for i := 1; i < len(l.all); i++ {
		if l.all[i] != l.all[i-1]+1 {
			after = append(after, strconv.Itoa(l.all[i]))
		}
	}
	if after == nil {
		return nil
	}
	return NewFinding("LABELS_NOT_CONSECUTIVE", file, "number the labels 0, 1, 2, … in dataset.json and in the label files",
		"labels %v have a gap before %s", l.all, strings.Join(after, ", "))
}

// HasRegions tells whether some entry stands for more than one label.
func (l *Labels) HasRegions() bool { return l.regions }

// Entries is the number of entries in dataset.json, background, ignore and regions included.
func (l *Labels) Entries() int { return len(l.entries) }

// All are the label values without ignore, ascending.
func (l *Labels) All() []int { return slices.Clone(l.all) }

// Foreground is All without 0.
func (l *Labels) Foreground() []int {
	return slices.DeleteFunc(l.All(), func(v int) bool { return v == 0 })
}

// Ignore is the label of voxels that do not count, if there is one.
func (l *Labels) Ignore() (label int, ok bool) { return l.ignore, l.ignore >= 0 }

// Regions are the foreground entries in their order, nil without regions.
func (l *Labels) Regions() []Region {
	if !l.regions {
		return nil
	}
	var out []Region
	for _, e := range l.entries {
		onlyZero := !slices.ContainsFunc(e.values, func(v int) bool { return v != 0 })
		if e.name != "ignore" && !onlyZero {
			out = append(out, Region{Name: e.name, Labels: e.values, Scalar: e.scalar})
		}
	}
	return out
}

// ClassOrder is the label painted for each region, in the order of Regions.
func (l *Labels) ClassOrder() []int { return slices.Clone(l.classOrder) }

// Heads is the number of outputs of the network.
func (l *Labels) Heads() int {
	if l.regions {
		return len(l.Regions())
	}
	return len(l.all)
}

// SameHeads tells whether the heads of two networks stand for the same labels and are painted alike, whatever their names.
func (l *Labels) SameHeads(m *Labels) bool {
	same := func(a, b Region) bool { return slices.Equal(a.Labels, b.Labels) }
	return slices.Equal(l.all, m.all) && slices.EqualFunc(l.Regions(), m.Regions(), same) && slices.Equal(l.classOrder, m.classOrder)
}

// Name is the name of a label value: of the entry that stands for it alone, else the value in digits.
func (l *Labels) Name(value int) string {
	for _, e := range l.entries {
		if len(e.values) == 1 && e.values[0] == value {
			return e.name
		}
	}
	return strconv.Itoa(value)
}

// Declared tells whether a label file may hold the value.
func (l *Labels) Declared(value int) bool {
	_, ok := slices.BinarySearch(l.all, value)
	return ok || value == l.ignore && l.ignore >= 0
}

// Decoder converts the heads' scores to labels, one head after the other, so that all heads need not be in memory at
// once.
// Without regions the first maximum wins. With regions a voxel whose score means more than one half takes the region's
// label, later regions over earlier ones.
type Decoder struct {
	labels *Labels
	logits bool
	dst    []uint16
	best   []float32
	head   int
}

// Decode makes a decoder into dst, one label per voxel. logits says whether a region's score is a logit or already a
// probability.
func (l *Labels) Decode(dst []uint16, logits bool) *Decoder {
	clear(dst)
	return &Decoder{labels: l, logits: logits, dst: dst}
}

// Add decodes the scores of the next head, one per voxel of dst.
func (d *Decoder) Add(scores []float32) {
	switch {
	case d.labels.regions:
		label := uint16(d.labels.classOrder[d.head])
		for i, s := range scores {
			if d.logits {
				s = sigmoid(s)
			}
			if s > 0.5 {
				d.dst[i] = label
			}
		}
	case d.head == 0:
		label := uint16(d.labels.all[0])
		d.best = slices.Clone(scores)
		for i := range d.dst {
			d.dst[i] = label
		}
	default:
		label := uint16(d.labels.all[d.head])
		for i, s := range scores {
			if s > d.best[i] {
				d.best[i], d.dst[i] = s, label
			}
		}
	}
	d.head++
}

func sigmoid(x float32) float32 { return float32(1 / (1 + math.Exp(-float64(x)))) }

// Probabilities converts logits (one slice per head) to probabilities in place: softmax over the heads, with regions the
// sigmoid of each.
func (l *Labels) Probabilities(logits [][]float32) {
	if l.regions {
		for _, head := range logits {
			for i, x := range head {
				head[i] = sigmoid(x)
			}
		}
		return
	}
	for i := range logits[0] {
		peak := logits[0][i]
		for _, head := range logits {
			peak = max(peak, head[i])
		}
		var sum float64
		for _, head := range logits {
			e := math.Exp(float64(head[i] - peak))
			sum += e
			head[i] = float32(e)
		}
		for _, head := range logits {
			head[i] = float32(float64(head[i]) / sum)
		}
	}
}
