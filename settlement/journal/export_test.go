package journal

import "github.com/joulecloud/joule/settlement/wire"

// OpenRotating is OpenIn with another size of segments.
var OpenRotating = open

// NewChain makes n blocks that follow one another.
func NewChain(n int) (blocks []*wire.Block, encoded [][]byte) {
	c := new(chain).fill(n)
	return c.blocks, c.encoded
}
