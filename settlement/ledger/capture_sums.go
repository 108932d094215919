package ledger

// Sums is Ledger.Sums of what was captured.
func (c *Capture) Sums() (usd, joule int64) { return c.frozen.Sums() }
