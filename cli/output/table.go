// Package output prints results: aligned tables and fields for people, JSON
// with stable names for programs. Text that came from a server may have been
// chosen by a stranger (a job's name), so control characters in it are shown
// escaped and can't reach the terminal.
package output

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// gap separates columns.
const gap = "  "

// Align says how a column's cells stand under each other.
type Align uint8

// The alignments.
const (
	Left  Align = iota
	Right       // whole numbers
	Point       // decimal numbers: their points stand under each other
)

// Column is one column of a table.
type Column struct {
	Title string
	Align Align
}

// Table collects rows and prints them aligned. It is not safe for concurrent
// use.
type Table struct {
	columns []Column
	rows    [][]string
}

// NewTable returns an empty table.
func NewTable(columns ...Column) *Table { return &Table{columns: columns} }

// Row adds a row; cells that are missing stay empty, surplus ones are dropped.
func (t *Table) Row(cells ...string) {
	row := make([]string, len(t.columns))
	for i := range min(len(cells), len(row)) {
		row[i] = Clean(cells[i])
	}
	t.rows = append(t.rows, row)
}

// Empty reports whether the table has no rows.
func (t *Table) Empty() bool { return len(t.rows) == 0 }

// Write prints the titles and the rows, or nothing where there are no rows.
// No line ends in blanks.
func (t *Table) Write(w io.Writer) error {
	if len(t.rows) == 0 {
		return nil
	}
	titles := make([]string, len(t.columns))
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		if c.Align == Point {
			alignPoints(t.rows, i)
		}
		titles[i] = c.Title
		widths[i] = width(c.Title)
		for _, row := range t.rows {
			widths[i] = max(widths[i], width(row[i]))
		}
	}
	var buf bytes.Buffer
	for _, row := range append([][]string{titles}, t.rows...) {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString(gap)
			}
			pad := strings.Repeat(" ", widths[i]-width(cell))
			if t.columns[i].Align == Left {
				line.WriteString(cell + pad)
			} else {
				line.WriteString(pad + cell)
			}
		}
		buf.WriteString(strings.TrimRight(line.String(), " "))
		buf.WriteByte('\n')
	}
	_, err := w.Write(buf.Bytes())
	return err
}

// alignPoints pads the cells of column i on the right so that, right-aligned,
// their decimal points stand under each other.
func alignPoints(rows [][]string, i int) {
	after := func(s string) int {
		if at := strings.IndexByte(s, '.'); at >= 0 {
			return len(s) - at
		}
		return 0
	}
	most := 0
	for _, row := range rows {
		most = max(most, after(row[i]))
	}
	for _, row := range rows {
		row[i] += strings.Repeat(" ", most-after(row[i]))
	}
}

// Fields collects names with values and prints one a line, values aligned.
type Fields struct{ pairs [][2]string }

// Add appends a field. The value is printed as fmt.Sprintf gives it.
func (f *Fields) Add(name, format string, args ...any) {
	f.pairs = append(f.pairs, [2]string{name, Clean(fmt.Sprintf(format, args...))})
}

// Write prints the fields.
func (f *Fields) Write(w io.Writer) error {
	most := 0
	for _, p := range f.pairs {
		most = max(most, width(p[0]))
	}
	var buf bytes.Buffer
	for _, p := range f.pairs {
		line := p[0] + strings.Repeat(" ", most-width(p[0])) + gap + p[1]
		buf.WriteString(strings.TrimRight(line, " "))
		buf.WriteByte('\n')
	}
	_, err := w.Write(buf.Bytes())
	return err
}

// Clean returns s with everything that does not print (control characters,
// direction overrides, invalid UTF-8) as Go escapes.
func Clean(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if unprintable(r) {
			quoted := strconv.QuoteToASCII(s[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

func width(s string) int { return utf8.RuneCountInString(s) }
