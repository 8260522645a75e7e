package pyjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a text, so that no file can exhaust the stack.
const maxDepth = 200

// SyntaxError says where a text stops being JSON.
type SyntaxError struct {
	Line, Column int // from 1
	Msg          string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Msg)
}

// Parse reads one JSON value; errors are of type *SyntaxError. A key that comes twice keeps its last value, as in
// Python; Repeated tells of it.
func Parse(text []byte) (any, error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, &SyntaxError{Line: 1, Column: 1, Msg: "the text is UTF-16; save the file as UTF-8"}
	}
	p := &parser{text: strings.TrimPrefix(string(text), bom)}
	if valid := strings.ToValidUTF8(p.text, "\x00"); valid != p.text {
		for p.at < len(p.text) && p.text[p.at] == valid[p.at] {
			p.at++
		}
		return nil, p.fail("the text is not UTF-8 here; save the file as UTF-8")
	}
	if p.space(); p.at == len(p.text) {
		return nil, p.fail("the text is empty")
	}
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if p.space(); p.at < len(p.text) {
		return nil, p.fail("the text goes on behind its end, %s", p.found())
	}
	return v, nil
}

// bom is the mark that some editors put before a UTF-8 text.
const bom = "\ufeff"

// HasBOM tells whether a text begins with the mark of some editors for UTF-8, at which Python's json stops.
func HasBOM(text []byte) bool { return bytes.HasPrefix(text, []byte(bom)) }

// ParseObject is Parse for a text that must be an object; another value is a *TypeError.
func ParseObject(text []byte) (*Object, error) {
	v, err := Parse(text)
	if err != nil {
		return nil, err
	}
	o, ok := v.(*Object)
	if !ok {
		return nil, &TypeError{Value: v, Want: "an object {…}"}
	}
	return o, nil
}

type parser struct {
	text string
	at   int
}

func (p *parser) fail(format string, args ...any) error {
	before := p.text[:min(p.at, len(p.text))]
	return &SyntaxError{
		Line:   strings.Count(before, "\n") + 1,
		Column: len(before) - strings.LastIndexByte(before, '\n'),
		Msg:    fmt.Sprintf(format, args...),
	}
}

func (p *parser) space() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

// take steps over s if it comes next behind white space.
func (p *parser) take(s string) bool {
	p.space()
	if strings.HasPrefix(p.text[p.at:], s) {
		p.at += len(s)
		return true
	}
	return false
}

func (p *parser) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, p.fail("nested deeper than %d", maxDepth)
	}
	switch {
	case p.take("{"):
		return p.object(depth)
	case p.take("["):
		return p.list(depth)
	case p.take(`"`):
		return p.str()
	case p.take("null"):
		return nil, nil
	case p.take("true"):
		return true, nil
	case p.take("false"):
		return false, nil
	case p.take("NaN"):
		return math.NaN(), nil
	case p.take("Infinity"):
		return math.Inf(1), nil
	case p.take("-Infinity"):
		return math.Inf(-1), nil
	case p.at == len(p.text):
		return nil, p.fail("the text ends early")
	}
	start := p.at
	for p.at < len(p.text) && strings.IndexByte("+-.0123456789eE", p.text[p.at]) >= 0 {
		p.at++
	}
	text := p.text[start:p.at]
	if !json.Valid([]byte(text)) {
		p.at = start
		return nil, p.fail("%s", p.stray())
	}
	return number(text)
}

// found says what stands where something else was expected.
func (p *parser) found() string {
	if p.space(); p.at == len(p.text) {
		return "but the text ends"
	}
	r, _ := utf8.DecodeRuneInString(p.text[p.at:])
	return fmt.Sprintf("found %c", r)
}

// stray says what is wrong where no JSON value begins.
func (p *parser) stray() string {
	word := p.text[p.at:]
	if end := strings.IndexAny(word, " \t\r\n,:]}"); end > 0 {
		word = word[:end]
	}
	switch {
	case word == "True" || word == "False":
		return fmt.Sprintf("%s is Python's word: write %s", word, strings.ToLower(word))
	case word == "None":
		return "None is Python's word: write null"
	case word[0] == '\'':
		return `JSON has no single quotes: write "`
	case strings.HasPrefix(word, "//") || word[0] == '#' || strings.HasPrefix(word, "/*"):
		return "JSON has no comments: remove it"
	case word[0] == ']' || word[0] == '}':
		return "a value is missing before " + word[:1]
	case word[0] == ',':
		return "a value is missing before the comma"
	}
	return fmt.Sprintf("%.40q is no JSON value: a text needs double quotes, a number its digits as in 0.5", word)
}

func (p *parser) object(depth int) (any, error) {
	o := NewObject()
	if p.take("}") {
		return o, nil
	}
	for {
		if !p.take(`"`) {
			if p.take("}") {
				p.at--
				return nil, p.fail("a comma stands before the closing }: remove it")
			}
			if p.at < len(p.text) && strings.IndexByte("'/#", p.text[p.at]) >= 0 {
				return nil, p.fail("%s", p.stray())
			}
			return nil, p.fail("expected a key in double quotes, %s", p.found())
		}
		key, err := p.str()
		if err != nil {
			return nil, err
		}
		if !p.take(":") {
			return nil, p.fail("expected : behind the key %q, %s", key, p.found())
		}
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if o.Has(key) && !slices.Contains(o.repeated, key) {
			o.repeated = append(o.repeated, key)
		}
		o.Set(key, v)
		if p.take("}") {
			return o, nil
		}
		if !p.take(",") {
			return nil, p.fail("expected , or } behind the value of %q, %s", key, p.found())
		}
	}
}

func (p *parser) list(depth int) (any, error) {
	list := []any{}
	if p.take("]") {
		return list, nil
	}
	for {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		if p.take("]") {
			return list, nil
		}
		if !p.take(",") {
			return nil, p.fail("expected , or ] behind element %d, %s", len(list), p.found())
		}
	}
}

// str reads on behind an opening quote.
func (p *parser) str() (string, error) {
	start := p.at
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case '\\':
			p.at += 2
		case '"':
			p.at++
			var s string
			if err := json.Unmarshal([]byte(p.text[start-1:p.at]), &s); err != nil {
				p.at = start
				return "", p.fail(`broken text: \ must stand before one of "\\/bfnrtu, and line breaks are written \n`)
			}
			return s, nil
		default:
			p.at++
		}
	}
	p.at = start
	return "", p.fail(`a text without its closing "`)
}
