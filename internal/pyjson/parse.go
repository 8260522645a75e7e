package pyjson

import (
	"encoding/json"
	"fmt"
	"math"
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
// Python.
func Parse(text []byte) (any, error) {
	p := &parser{text: strings.TrimPrefix(string(text), "\ufeff")}
	if !utf8.ValidString(p.text) {
		return nil, p.fail("the text is not UTF-8")
	}
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if p.space(); p.at < len(p.text) {
		return nil, p.fail("more text behind the value")
	}
	return v, nil
}

// ParseObject is Parse for a text that must be an object.
func ParseObject(text []byte) (*Object, error) {
	v, err := Parse(text)
	if err != nil {
		return nil, err
	}
	o, ok := v.(*Object)
	if !ok {
		return nil, &SyntaxError{Line: 1, Column: 1, Msg: "the text is not an object {…}"}
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
		return nil, p.fail("no JSON value begins here")
	}
	return number(text)
}

func (p *parser) object(depth int) (any, error) {
	o := NewObject()
	if p.take("}") {
		return o, nil
	}
	for {
		if !p.take(`"`) {
			return nil, p.fail("expected a key in double quotes")
		}
		key, err := p.str()
		if err != nil {
			return nil, err
		}
		if !p.take(":") {
			return nil, p.fail("expected : behind the key %q", key)
		}
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		o.Set(key, v)
		if p.take("}") {
			return o, nil
		}
		if !p.take(",") {
			return nil, p.fail("expected , or } behind the value of %q", key)
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
			return nil, p.fail("expected , or ] behind element %d", len(list))
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
				return "", p.fail("broken text")
			}
			return s, nil
		default:
			p.at++
		}
	}
	p.at = start
	return "", p.fail("a text without an end")
}
