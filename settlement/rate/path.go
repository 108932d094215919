package rate

import (
	"encoding/json"
	"strconv"
	"strings"
)

// depthMax bounds a path.
const depthMax = 32

// Path leads to one value of a JSON document.
//
// It is written as names and indexes joined by dots: "data.0.price" is the
// member "price" of the first element of the member "data". A part made of
// digits is an index where it meets an array and a name where it meets an
// object. A dot or a backslash that belongs to a name is written with a
// backslash before it: "a\.b" is one name. There is nothing else: no wildcards,
// no filters, no negative indexes.
type Path struct {
	text  string
	parts []string
}

// ParsePath reads a path; the error names field.
func ParsePath(field, text string) (Path, error) {
	p := Path{text: text}
	fault := func(rule string) (Path, error) {
		return Path{}, &Error{Field: field, Value: text, Rule: rule}
	}
	var part strings.Builder
	for i := 0; i <= len(text); i++ {
		switch {
		case i == len(text) || text[i] == '.':
			if part.Len() == 0 {
				return fault("must be names and indexes joined by dots, such as data.0.price")
			}
			p.parts = append(p.parts, part.String())
			part.Reset()
		case text[i] == '\\':
			i++
			if i == len(text) || text[i] != '.' && text[i] != '\\' {
				return fault(`must have \. or \\ where it has a backslash`)
			}
			part.WriteByte(text[i])
		default:
			part.WriteByte(text[i])
		}
	}
	if len(p.parts) > depthMax {
		return fault("must have at most " + strconv.Itoa(depthMax) + " parts")
	}
	return p, nil
}

// String is the path as it was written.
func (p Path) String() string { return p.text }

// Find follows the path through a document that was decoded with
// json.Decoder.UseNumber and returns the number or string there as text.
func (p Path) Find(document any) (string, error) {
	v := document
	for i, part := range p.parts {
		fault := func(rule string) (string, error) {
			return "", &Error{Field: "answer at " + strings.Join(p.parts[:i+1], "."), Rule: rule}
		}
		switch at := v.(type) {
		case map[string]any:
			next, ok := at[part]
			if !ok {
				return fault("has no such member")
			}
			v = next
		case []any:
			n, err := strconv.ParseUint(part, 10, 31)
			if err != nil || !onlyDigits(part) {
				return fault("is an array: an index is wanted")
			}
			if n >= uint64(len(at)) {
				return fault("has only " + strconv.Itoa(len(at)) + " elements")
			}
			v = at[n]
		default:
			return fault("has nothing below it")
		}
	}
	switch v := v.(type) {
	case json.Number:
		return v.String(), nil
	case string:
		return v, nil
	}
	return "", &Error{Field: "answer at " + p.text, Rule: "is neither a number nor a string"}
}
