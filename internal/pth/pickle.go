package pth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxPickle   = 32 << 20 // bytes of a pickle: structure, names, numbers; no tensor's data
	maxValues   = 48 << 20 // bytes that the values of a pickle may take beside their texts, as charge estimates them
	maxLong     = 1 << 10  // bytes of a whole number
	maxProtocol = 5
)

// errShort is the error of a pickle that goes on after the text that was given.
var errShort = errors.New("is cut off")

// mark is where an object of several items begins on the stack.
type machine struct {
	text  string // of the pickle; texts of values are parts of it
	at    int
	stack []any
	marks []int // heights of the stack
	memo  map[int64]any

	spent, encoded int // of maxValues and of len(text)

	// persistent makes a storage of its id.
	persistent func(id Tuple) (any, error)
}

// load runs one pickle, which begins at m.at, and leaves m.at behind it.
//
// A pickle is a program for a machine with a stack and without jumps. This one makes nothing but the values of this
// package: what Python would look up and call by name is looked up in the table globals, and any other name is an error.
func (m *machine) load() (any, error) {
	m.stack, m.marks, m.memo, m.spent, m.encoded = nil, nil, map[int64]any{}, 0, 0
	for {
		op, err := m.take(1)
		if err != nil {
			return nil, err
		}
		if op == "." {
			v, err := m.pop()
			if err == nil && len(m.stack) > 0 {
				err = errors.New("ends with more than one value")
			}
			return v, err
		}
		run := opcodes[op[0]]
		if run == nil {
			return nil, fmt.Errorf("has the opcode %s, which no checkpoint needs; it is refused", opcodeName(op[0]))
		}
		if err := run(m); err != nil {
			return nil, err
		}
	}
}

// refusedOpcodes names those that reach for classes, functions or memory outside the file.
var refusedOpcodes = map[byte]string{'i': "INST", 'o': "OBJ", '\x81': "NEWOBJ", '\x92': "NEWOBJ_EX", '\x82': "EXT1", '\x83': "EXT2",
	'\x84': "EXT4", '\x97': "NEXT_BUFFER", '\x98': "READONLY_BUFFER", 'P': "PERSID"}

func opcodeName(op byte) string {
	if name := refusedOpcodes[op]; name != "" {
		return name
	}
	return fmt.Sprintf("0x%02x", op)
}

// opcodes are those of pickle's protocols 0 to 5 that make plain values (Python's pickletools describes each).
var opcodes [256]func(m *machine) error

func init() {
	push := func(v any) func(m *machine) error {
		return func(m *machine) error { return m.push(v, 0) }
	}
	opcodes = [256]func(m *machine) error{
		'\x80': (*machine).protocol,
		'\x95': (*machine).frame,
		'N':    push(nil),
		'\x88': push(true),
		'\x89': push(false),
		')':    push(Tuple(nil)),
		']':    func(m *machine) error { return m.push(&List{}, 32) },
		'\x8f': func(m *machine) error { return m.push(&List{}, 32) }, // a set, as a list
		'}':    func(m *machine) error { return m.push(&Dict{}, 80) },
		'K':    func(m *machine) error { return m.integer(1, false) },
		'M':    func(m *machine) error { return m.integer(2, false) },
		'J':    func(m *machine) error { return m.integer(4, true) },
		'G':    (*machine).float,
		'I':    (*machine).integerLine,
		'L':    (*machine).longLine,
		'F':    (*machine).floatLine,
		'\x8a': func(m *machine) error { return m.long(1) },
		'\x8b': func(m *machine) error { return m.long(4) },
		'\x8c': func(m *machine) error { return m.unicode(1) },
		'X':    func(m *machine) error { return m.unicode(4) },
		'\x8d': func(m *machine) error { return m.unicode(8) },
		'V':    (*machine).unicodeLine,
		'U':    func(m *machine) error { return m.python2String(1) },
		'T':    func(m *machine) error { return m.python2String(4) },
		'S':    (*machine).stringLine,
		'C':    func(m *machine) error { return m.bytes(1) },
		'B':    func(m *machine) error { return m.bytes(4) },
		'\x8e': func(m *machine) error { return m.bytes(8) },
		'\x96': func(m *machine) error { return m.bytes(8) },
		'(':    (*machine).mark,
		'0':    func(m *machine) error { _, err := m.pop(); return err },
		'1':    func(m *machine) error { _, err := m.popMark(); return err },
		'2':    (*machine).duplicate,
		't':    func(m *machine) error { return m.tuple(m.popMark()) },
		'\x91': func(m *machine) error { return m.tuple(m.popMark()) }, // a frozen set, as a tuple
		'\x85': func(m *machine) error { return m.tuple(m.popN(1)) },
		'\x86': func(m *machine) error { return m.tuple(m.popN(2)) },
		'\x87': func(m *machine) error { return m.tuple(m.popN(3)) },
		'l':    (*machine).list,
		'a':    func(m *machine) error { return m.appendTo(m.popN(1)) },
		'e':    func(m *machine) error { return m.appendTo(m.popMark()) },
		'\x90': func(m *machine) error { return m.appendTo(m.popMark()) },
		'd':    (*machine).dict,
		's':    func(m *machine) error { return m.setItems(m.popN(2)) },
		'u':    func(m *machine) error { return m.setItems(m.popMark()) },
		'p':    (*machine).putLine,
		'q':    func(m *machine) error { return m.put(1) },
		'r':    func(m *machine) error { return m.put(4) },
		'\x94': func(m *machine) error { return m.remember(int64(len(m.memo))) },
		'g':    (*machine).getLine,
		'h':    func(m *machine) error { return m.get(1) },
		'j':    func(m *machine) error { return m.get(4) },
		'c':    (*machine).globalLines,
		'\x93': (*machine).stackGlobal,
		'R':    (*machine).reduce,
		'b':    (*machine).build,
		'Q':    (*machine).persistentID,
	}
}

// take reads n bytes.
func (m *machine) take(n uint64) (string, error) {
	if n > uint64(len(m.text)-m.at) {
		return "", errShort
	}
	s := m.text[m.at : m.at+int(n)]
	m.at += int(n)
	return s, nil
}

// number reads a little-endian number of 1, 2, 4 or 8 bytes.
func (m *machine) number(size int) (uint64, error) {
	s, err := m.take(uint64(size))
	var b [8]byte
	copy(b[:], s)
	return binary.LittleEndian.Uint64(b[:]), err
}

// line reads up to a line feed, of which there must be one within what a number or a name takes.
func (m *machine) line() (string, error) {
	i := strings.IndexByte(m.text[m.at:], '\n')
	if i < 0 {
		return "", errShort
	}
	s := m.text[m.at : m.at+i]
	m.at += i + 1
	return s, nil
}

// charge counts the memory that values take.
func (m *machine) charge(bytes int) error {
	m.spent += bytes
	if m.spent > maxValues {
		return fmt.Errorf("holds more values than a checkpoint has: they would take more than %d MiB", maxValues>>20)
	}
	return nil
}

func (m *machine) push(v any, bytes int) error {
	m.stack = append(m.stack, v)
	return m.charge(16 + bytes)
}

// floor is the height of the stack at the last mark.
func (m *machine) floor() int {
	if len(m.marks) == 0 {
		return 0
	}
	return m.marks[len(m.marks)-1]
}

var errStack = errors.New("is damaged: it takes values from an empty stack")

func (m *machine) pop() (any, error) {
	v, err := m.popN(1)
	if err != nil {
		return nil, err
	}
	return v[0], nil
}

// popN takes the last n values; they are valid until the next push.
func (m *machine) popN(n int) ([]any, error) {
	at := len(m.stack) - n
	if at < m.floor() {
		return nil, errStack
	}
	v := m.stack[at:]
	m.stack = m.stack[:at]
	return v, nil
}

func (m *machine) popMark() ([]any, error) {
	if len(m.marks) == 0 {
		return nil, errStack
	}
	at := m.floor()
	m.marks = m.marks[:len(m.marks)-1]
	v := m.stack[at:]
	m.stack = m.stack[:at]
	return v, nil
}

func (m *machine) mark() error {
	m.marks = append(m.marks, len(m.stack))
	return m.charge(8)
}

func (m *machine) duplicate() error {
	v, err := m.pop()
	if err != nil {
		return err
	}
	m.stack = append(m.stack, v)
	return m.push(v, 0)
}

func (m *machine) protocol() error {
	n, err := m.number(1)
	if err == nil && n > maxProtocol {
		err = fmt.Errorf("is of pickle's protocol %d; %d is the last that is known", n, maxProtocol)
	}
	return err
}

func (m *machine) frame() error {
	n, err := m.number(8)
	if err == nil && n > uint64(len(m.text)-m.at) {
		err = errShort
	}
	return err
}

func (m *machine) integer(size int, signed bool) error {
	n, err := m.number(size)
	if err != nil {
		return err
	}
	if signed {
		return m.push(int64(int32(n)), 8)
	}
	return m.push(int64(n), 8)
}

func (m *machine) float() error {
	s, err := m.take(8)
	if err != nil {
		return err
	}
	return m.push(math.Float64frombits(binary.BigEndian.Uint64([]byte(s))), 8)
}

// long is a little-endian number in two's complement.
func (m *machine) long(size int) error {
	n, err := m.number(size)
	if err != nil {
		return err
	}
	if n > maxLong {
		return fmt.Errorf("has a whole number of %d bytes; %d are the most", n, maxLong)
	}
	s, err := m.take(n)
	if err != nil {
		return err
	}
	b := make([]byte, len(s))
	for i := range b {
		b[len(b)-1-i] = s[i]
	}
	v := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0]&0x80 != 0 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return m.pushInteger(v)
}

func (m *machine) pushInteger(v *big.Int) error {
	if v.IsInt64() {
		return m.push(v.Int64(), 8)
	}
	return m.push(v, 48+v.BitLen()/8)
}

func (m *machine) integerLine() error {
	s, err := m.line()
	if err != nil {
		return err
	}
	switch s {
	case "00":
		return m.push(false, 0)
	case "01":
		return m.push(true, 0)
	}
	return m.decimal(s)
}

func (m *machine) longLine() error {
	s, err := m.line()
	if err != nil {
		return err
	}
	return m.decimal(strings.TrimSuffix(s, "L"))
}

func (m *machine) decimal(s string) error {
	if len(s) > maxLong {
		return fmt.Errorf("has a whole number of %d digits; %d are the most", len(s), maxLong)
	}
	v, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return fmt.Errorf("has %.40q where a whole number should be", s)
	}
	return m.pushInteger(v)
}

func (m *machine) floatLine() error {
	s, err := m.line()
	if err != nil {
		return err
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return fmt.Errorf("has %.40q where a number should be", s)
	}
	return m.push(v, 8)
}

// counted reads bytes behind their number.
func (m *machine) counted(size int) (string, error) {
	n, err := m.number(size)
	if err != nil {
		return "", err
	}
	return m.take(n)
}

func (m *machine) unicode(size int) error {
	s, err := m.counted(size)
	if err == nil && !utf8.ValidString(s) {
		err = errors.New("has a text that is no UTF-8")
	}
	if err != nil {
		return err
	}
	return m.push(s, 16)
}

// python2String is a str of Python 2: text or bytes.
func (m *machine) python2String(size int) error {
	s, err := m.counted(size)
	if err != nil {
		return err
	}
	return m.push(s, 16)
}

func (m *machine) unicodeLine() error {
	s, err := m.line()
	if err == nil && (strings.Contains(s, `\`) || !utf8.ValidString(s)) {
		err = errors.New("has an escaped text of pickle's protocol 0, which is not read")
	}
	if err != nil {
		return err
	}
	return m.push(s, 16)
}

func (m *machine) stringLine() error {
	s, err := m.line()
	if err != nil {
		return err
	}
	if len(s) < 2 || s[0] != s[len(s)-1] || s[0] != '\'' && s[0] != '"' || strings.Contains(s, `\`) {
		return errors.New("has an escaped text of pickle's protocol 0, which is not read")
	}
	return m.push(s[1:len(s)-1], 16)
}

func (m *machine) bytes(size int) error {
	s, err := m.counted(size)
	if err != nil {
		return err
	}
	return m.push(Bytes(s), 16)
}

func (m *machine) tuple(items []any, err error) error {
	if err != nil {
		return err
	}
	t := make(Tuple, len(items))
	copy(t, items)
	return m.push(t, 24+16*len(t))
}

func (m *machine) list() error {
	items, err := m.popMark()
	if err != nil {
		return err
	}
	return m.push(&List{append([]any(nil), items...)}, 32+16*len(items))
}

func (m *machine) dict() error {
	items, err := m.popMark()
	if err != nil {
		return err
	}
	d := &Dict{}
	if err := m.fill(d, items); err != nil {
		return err
	}
	return m.push(d, 80)
}

// appendTo appends to the list below the items, which have been taken from the stack.
func (m *machine) appendTo(items []any, err error) error {
	if err != nil {
		return err
	}
	if len(m.stack) <= m.floor() {
		return errStack
	}
	l, ok := m.stack[len(m.stack)-1].(*List)
	if !ok {
		return fmt.Errorf("appends to %s", describe(m.stack[len(m.stack)-1]))
	}
	l.Items = append(l.Items, items...)
	return m.charge(24 * len(items))
}

func (m *machine) setItems(items []any, err error) error {
	if err != nil {
		return err
	}
	if len(m.stack) <= m.floor() {
		return errStack
	}
	d, ok := m.stack[len(m.stack)-1].(*Dict)
	if !ok {
		return fmt.Errorf("gives items to %s", describe(m.stack[len(m.stack)-1]))
	}
	return m.fill(d, items)
}

func (m *machine) fill(d *Dict, items []any) error {
	if len(items)%2 != 0 {
		return errors.New("is damaged: a dictionary has a key without a value")
	}
	for i := 0; i < len(items); i += 2 {
		if err := d.set(items[i], items[i+1]); err != nil {
			return err
		}
	}
	return m.charge(60 * len(items))
}
