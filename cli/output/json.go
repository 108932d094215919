package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// JSON prints v as indented JSON, by its json tags or its own MarshalJSON. It
// escapes nothing for HTML.
func JSON(w io.Writer, v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	_, err := w.Write(buf.Bytes())
	return err
}
