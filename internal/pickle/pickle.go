// Package pickle reads and writes Python's pickles without Python. A pickle is a program for a machine with a stack and without
// jumps, which may call whatever Python can import. The machine here makes plain values, calls the functions of a given
// table and refuses every other name. It allocates no more than a pickle of plain values needs.
package pickle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxValues   = 24 << 20 // bytes that the values of all pickles of a text may take beside their texts, as Charge estimates them
	maxLong     = 1 << 10  // bytes of a whole number
	maxDigits   = 400      // of a whole number in decimal, which takes longer to read
	maxFloat    = 64       // bytes of a number in decimal; Python writes at most 24
	maxProtocol = 5
)

// ErrShort is the error of a pickle that goes on after the text that was given.
var ErrShort = errors.New("is cut off")

// Machine runs pickles that follow one another in a text.
type Machine struct {
	Text    string // parts of it become values
	At      int    // where the next pickle begins
	Globals Table
	// Room is how many bytes values may take beyond what every text may: those of a large file.
	Room int
	// Persistent makes the value that a persistent id names; without it such an id is refused.
	Persistent func(id Tuple) (any, error)

	stack          []any
	marks          []int         // heights of the stack
	memo           []any         // values that were kept under 0, 1, 2 …, as Python numbers them
	far            map[int64]any // and under other numbers
	spent, encoded int           // of maxValues and of len(Text), by all pickles of the text
	pushed         int
}

// Load runs one pickle and leaves At behind it. ErrShort is its error, wrapped, if the text ends before the pickle.
func (m *Machine) Load() (any, error) {
	m.stack, m.marks, m.memo, m.far = nil, nil, nil, map[int64]any{}
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
			return nil, fmt.Errorf("has the opcode %s, which plain values do not need; it is refused", opcodeName(op[0]))
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
var opcodes [256]func(m *Machine) error

func init() {
	push := func(v any) func(m *Machine) error {
		return func(m *Machine) error { return m.push(v, 0) }
	}
	opcodes = [256]func(m *Machine) error{
		'\x80': (*Machine).protocol,
		'\x95': (*Machine).frame,
		'N':    push(nil),
		'\x88': push(true),
		'\x89': push(false),
		')':    push(Tuple(nil)),
		']':    func(m *Machine) error { return m.push(&List{}, 32) },
		'\x8f': func(m *Machine) error { return m.push(&List{}, 32) }, // a set, as a list
		'}':    func(m *Machine) error { return m.push(&Dict{}, 80) },
		'K':    func(m *Machine) error { return m.integer(1, false) },
		'M':    func(m *Machine) error { return m.integer(2, false) },
		'J':    func(m *Machine) error { return m.integer(4, true) },
		'G':    (*Machine).float,
		'I':    (*Machine).integerLine,
		'L':    (*Machine).longLine,
		'F':    (*Machine).floatLine,
		'\x8a': func(m *Machine) error { return m.long(1) },
		'\x8b': func(m *Machine) error { return m.long(4) },
		'\x8c': func(m *Machine) error { return m.unicode(1) },
		'X':    func(m *Machine) error { return m.unicode(4) },
		'\x8d': func(m *Machine) error { return m.unicode(8) },
		'V':    (*Machine).unicodeLine,
		'U':    func(m *Machine) error { return m.python2String(1) },
		'T':    func(m *Machine) error { return m.python2String(4) },
		'S':    (*Machine).stringLine,
		'C':    func(m *Machine) error { return m.bytes(1) },
		'B':    func(m *Machine) error { return m.bytes(4) },
		'\x8e': func(m *Machine) error { return m.bytes(8) },
		'\x96': func(m *Machine) error { return m.bytes(8) },
		'(':    (*Machine).mark,
		'0':    func(m *Machine) error { _, err := m.pop(); return err },
		'1':    func(m *Machine) error { _, err := m.popMark(); return err },
		'2':    (*Machine).duplicate,
		't':    func(m *Machine) error { return m.tuple(m.popMark()) },
		'\x91': func(m *Machine) error { return m.tuple(m.popMark()) }, // a frozen set, as a tuple
		'\x85': func(m *Machine) error { return m.tuple(m.popN(1)) },
		'\x86': func(m *Machine) error { return m.tuple(m.popN(2)) },
		'\x87': func(m *Machine) error { return m.tuple(m.popN(3)) },
		'l':    (*Machine).list,
		'a':    func(m *Machine) error { return m.appendTo(m.popN(1)) },
		'e':    func(m *Machine) error { return m.appendTo(m.popMark()) },
		'\x90': func(m *Machine) error { return m.appendTo(m.popMark()) },
		'd':    (*Machine).dict,
		's':    func(m *Machine) error { return m.setItems(m.popN(2)) },
		'u':    func(m *Machine) error { return m.setItems(m.popMark()) },
		'p':    (*Machine).putLine,
		'q':    func(m *Machine) error { return m.put(1) },
		'r':    func(m *Machine) error { return m.put(4) },
		'\x94': func(m *Machine) error { return m.remember(int64(len(m.memo) + len(m.far))) },
		'g':    (*Machine).getLine,
		'h':    func(m *Machine) error { return m.get(1) },
		'j':    func(m *Machine) error { return m.get(4) },
		'c':    (*Machine).globalLines,
		'\x93': (*Machine).stackGlobal,
		'R':    (*Machine).reduce,
		'b':    (*Machine).build,
		'Q':    (*Machine).persistentID,
	}
}

// take reads n bytes.
func (m *Machine) take(n uint64) (string, error) {
	if n > uint64(len(m.Text)-m.At) {
		return "", ErrShort
	}
	s := m.Text[m.At : m.At+int(n)]
	m.At += int(n)
	return s, nil
}

// number reads a little-endian number of 1, 2, 4 or 8 bytes.
func (m *Machine) number(size int) (uint64, error) {
	s, err := m.take(uint64(size))
	var b [8]byte
	copy(b[:], s)
	return binary.LittleEndian.Uint64(b[:]), err
}

// line reads up to a line feed, of which there must be one within what a number or a name takes.
func (m *Machine) line() (string, error) {
	i := strings.IndexByte(m.Text[m.At:], '\n')
	if i < 0 {
		return "", ErrShort
	}
	s := m.Text[m.At : m.At+i]
	m.At += i + 1
	return s, nil
}

// Charge counts bytes of memory that values take, and refuses more than the pickles of a text may take together.
func (m *Machine) Charge(bytes int) error {
	m.spent += bytes
	if most := maxValues + m.Room; m.spent > most {
		return fmt.Errorf("holds too many values: they would take more than %d MiB", most>>20)
	}
	return nil
}

func (m *Machine) push(v any, bytes int) error {
	if len(m.stack) == cap(m.stack) {
		m.stack = slices.Grow(m.stack, len(m.stack)+64) // append alone would copy a large stack more often
	}
	m.stack = append(m.stack, v)
	m.pushed++
	return m.Charge(16 + bytes)
}

// Pushed is how often the pickles put a value on the stack: no fewer than they hold values.
func (m *Machine) Pushed() int { return m.pushed }

// floor is the height of the stack at the last mark.
func (m *Machine) floor() int {
	if len(m.marks) == 0 {
		return 0
	}
	return m.marks[len(m.marks)-1]
}

var errStack = errors.New("is damaged: it takes values from an empty stack")

func (m *Machine) pop() (any, error) {
	v, err := m.popN(1)
	if err != nil {
		return nil, err
	}
	return v[0], nil
}

// popN takes the last n values; they are valid until the next push.
func (m *Machine) popN(n int) ([]any, error) {
	at := len(m.stack) - n
	if at < m.floor() {
		return nil, errStack
	}
	v := m.stack[at:]
	m.stack = m.stack[:at]
	return v, nil
}

func (m *Machine) popMark() ([]any, error) {
	if len(m.marks) == 0 {
		return nil, errStack
	}
	at := m.floor()
	m.marks = m.marks[:len(m.marks)-1]
	v := m.stack[at:]
	m.stack = m.stack[:at]
	return v, nil
}

func (m *Machine) mark() error {
	m.marks = append(m.marks, len(m.stack))
	return m.Charge(8)
}

func (m *Machine) duplicate() error {
	v, err := m.pop()
	if err != nil {
		return err
	}
	if err := m.push(v, 0); err != nil {
		return err
	}
	return m.push(v, 0)
}

func (m *Machine) protocol() error {
	n, err := m.number(1)
	if err == nil && n > maxProtocol {
		err = fmt.Errorf("is of pickle's protocol %d; %d is the last that is known", n, maxProtocol)
	}
	return err
}

func (m *Machine) frame() error {
	n, err := m.number(8)
	if err == nil && n > uint64(len(m.Text)-m.At) {
		err = ErrShort
	}
	return err
}

func (m *Machine) integer(size int, signed bool) error {
	n, err := m.number(size)
	if err != nil {
		return err
	}
	if signed {
		return m.push(int64(int32(n)), 8)
	}
	return m.push(int64(n), 8)
}

func (m *Machine) float() error {
	s, err := m.take(8)
	if err != nil {
		return err
	}
	return m.push(math.Float64frombits(binary.BigEndian.Uint64([]byte(s))), 8)
}

// long is a little-endian number in two's complement.
func (m *Machine) long(size int) error {
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

func (m *Machine) pushInteger(v *big.Int) error {
	if v.IsInt64() {
		return m.push(v.Int64(), 8)
	}
	return m.push(v, 48+v.BitLen()/8)
}

func (m *Machine) integerLine() error {
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

func (m *Machine) longLine() error {
	s, err := m.line()
	if err != nil {
		return err
	}
	return m.decimal(strings.TrimSuffix(s, "L"))
}

func (m *Machine) decimal(s string) error {
	if len(s) > maxDigits {
		return fmt.Errorf("has a whole number of %d digits; %d are the most", len(s), maxDigits)
	}
	v, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return fmt.Errorf("has %.40q where a whole number should be", s)
	}
	return m.pushInteger(v)
}

func (m *Machine) floatLine() error {
	s, err := m.line()
	if err != nil {
		return err
	}
	if len(s) > maxFloat {
		return fmt.Errorf("has a number of %d characters; %d are the most", len(s), maxFloat)
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return fmt.Errorf("has %.40q where a number should be", s)
	}
	return m.push(v, 8)
}

// counted reads bytes behind their number.
func (m *Machine) counted(size int) (string, error) {
	n, err := m.number(size)
	if err != nil {
		return "", err
	}
	return m.take(n)
}

func (m *Machine) unicode(size int) error {
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
func (m *Machine) python2String(size int) error {
	s, err := m.counted(size)
	if err != nil {
		return err
	}
	return m.push(s, 16)
}

func (m *Machine) unicodeLine() error {
	s, err := m.line()
	if err == nil && (strings.Contains(s, `\`) || !utf8.ValidString(s)) {
		err = errors.New("has an escaped text of pickle's protocol 0, which is not read")
	}
	if err != nil {
		return err
	}
	return m.push(s, 16)
}

func (m *Machine) stringLine() error {
	s, err := m.line()
	if err != nil {
		return err
	}
	if len(s) < 2 || s[0] != s[len(s)-1] || s[0] != '\'' && s[0] != '"' || strings.Contains(s, `\`) {
		return errors.New("has an escaped text of pickle's protocol 0, which is not read")
	}
	return m.push(s[1:len(s)-1], 16)
}

func (m *Machine) bytes(size int) error {
	s, err := m.counted(size)
	if err != nil {
		return err
	}
	return m.push(Bytes(s), 16)
}

func (m *Machine) tuple(items []any, err error) error {
	if err != nil {
		return err
	}
	t := make(Tuple, len(items))
	copy(t, items)
	return m.push(t, 24+16*len(t))
}

func (m *Machine) list() error {
	items, err := m.popMark()
	if err != nil {
		return err
	}
	return m.push(&List{append([]any(nil), items...)}, 32+16*len(items))
}

func (m *Machine) dict() error {
	items, err := m.popMark()
	if err != nil {
		return err
	}
	d := &Dict{}
	if err := m.Fill(d, items); err != nil {
		return err
	}
	return m.push(d, 80)
}

// appendTo appends to the list below the items, which have been taken from the stack.
func (m *Machine) appendTo(items []any, err error) error {
	if err != nil {
		return err
	}
	if len(m.stack) <= m.floor() {
		return errStack
	}
	l, ok := m.stack[len(m.stack)-1].(*List)
	if !ok {
		return fmt.Errorf("appends to %s", Describe(m.stack[len(m.stack)-1]))
	}
	l.Items = append(l.Items, items...)
	return m.Charge(24 * len(items))
}

func (m *Machine) setItems(items []any, err error) error {
	if err != nil {
		return err
	}
	if len(m.stack) <= m.floor() {
		return errStack
	}
	d, ok := m.stack[len(m.stack)-1].(*Dict)
	if !ok {
		return fmt.Errorf("gives items to %s", Describe(m.stack[len(m.stack)-1]))
	}
	return m.Fill(d, items)
}
