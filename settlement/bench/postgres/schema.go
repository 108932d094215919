package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/joulecloud/joule/settlement/bench/workload"
	"github.com/joulecloud/joule/settlement/ledger"
)

// A lease row keeps what was charged as a whole, so that the JOULE paid for it
// follow from it (one rate is in force throughout): the update computes one
// number. hold_total is all that was ever set aside; a charge never exceeds it.
// The hot accounts have a row for each connection. The journal has no index; a
// row of it is a record's three transfers: usd from the hold to the treasury,
// paid and fee from the treasury to the supplier and to the fees.
var schema = []string{
	`CREATE TABLE lease (
		id int8 NOT NULL, supplier int4 NOT NULL,
		base int8 NOT NULL, cpu int8 NOT NULL, gpu int8 NOT NULL, memory int8 NOT NULL,
		last_seq int8 NOT NULL, hold_total int8 NOT NULL, charged int8 NOT NULL, charged_before int8 NOT NULL
	) WITH (fillfactor = 50, autovacuum_enabled = off)`,
	`CREATE TABLE supplier (id int4 NOT NULL, joule int8 NOT NULL) WITH (fillfactor = 20)`,
	`CREATE TABLE hot (shard int4 NOT NULL, holds_usd int8 NOT NULL, treasury_usd int8 NOT NULL,
		treasury_joule int8 NOT NULL CHECK (treasury_joule >= 0), fees_joule int8 NOT NULL) WITH (fillfactor = 10)`,
	`CREATE TABLE journal (lease int8 NOT NULL, usd int8 NOT NULL, paid int8 NOT NULL, fee int8 NOT NULL,
		supplier int4 NOT NULL, rate int4 NOT NULL)`,
}

// The tables are loaded with room for new versions of their rows, and then told
// that they may fill up: otherwise a page that is fuller than its fillfactor is
// pruned at nearly every visit, a fifth of a server's work.
var indexes = []string{
	`ALTER TABLE lease ADD PRIMARY KEY (id) WITH (fillfactor = 100)`,
	`ALTER TABLE supplier ADD PRIMARY KEY (id)`,
	`ALTER TABLE hot ADD PRIMARY KEY (shard)`,
	`ALTER TABLE lease SET (fillfactor = 100)`,
	`ALTER TABLE supplier SET (fillfactor = 100)`,
	`ALTER TABLE hot SET (fillfactor = 100)`,
	`VACUUM ANALYZE`,
	`CHECKPOINT`,
}

// cost is the exact cost of r's totals at l's prices, rounded down (rule M3).
// Each product t×p is taken apart as (t÷D)×p + (t mod D)×p, so that int8 holds
// all parts, whatever a lease may use in a century; D is ms per hour, and for
// memory ms × MiB per hour and GiB.
const cost = `(
	r.wall / 3600000 * l.base + r.cpu / 3600000 * l.cpu + r.gpu / 3600000 * l.gpu + r.memory / 3686400000 * l.memory
	+ ((r.wall % 3600000 * l.base + r.cpu % 3600000 * l.cpu + r.gpu % 3600000 * l.gpu) / 3600000)
	+ ((r.wall % 3600000 * l.base + r.cpu % 3600000 * l.cpu + r.gpu % 3600000 * l.gpu) % 3600000 * 1024
		+ r.memory % 3686400000 * l.memory) / 3686400000)`

// gross is the JOULE that a charge as a whole is worth, in nJ (rule M4), feeOf
// the fee on that.
func gross(charged string) string {
	return fmt.Sprintf("(%[1]s / %[2]d * 1000000000 + %[1]s %% %[2]d * 1000000000 / %[2]d)", charged, int64(workload.Rate))
}

func feeOf(gross string) string {
	return fmt.Sprintf("(%[1]s / 1000000 * %[2]d + %[1]s %% 1000000 * %[2]d / 1000000)", gross, workload.FeePPM)
}

// settle posts one batch as one statement: $1 is the connection's shard, the
// others are the batch's columns. It returns how many records counted and what
// they were charged.
var settle = `WITH r AS (
	SELECT * FROM unnest($2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[]) AS r(lease, seq, wall, cpu, gpu, memory)
), u AS (
	UPDATE lease l SET last_seq = r.seq, charged_before = l.charged, charged = least(` + cost + `, l.hold_total)
	FROM r WHERE l.id = r.lease AND l.last_seq < r.seq
	RETURNING l.id, l.supplier, charged - charged_before AS usd, ` + gross("charged") + ` AS gross, ` + gross("charged_before") + ` AS gross_before
), f AS (
	SELECT id, supplier, usd, gross - gross_before AS joule, ` + feeOf("gross") + ` - ` + feeOf("gross_before") + ` AS fee FROM u
), j AS (
	INSERT INTO journal SELECT id, usd, joule - fee, fee, supplier, 1 FROM f
), s AS (
	UPDATE supplier SET joule = supplier.joule + n.joule
	FROM (SELECT supplier AS id, sum(joule - fee)::int8 AS joule FROM f GROUP BY supplier ORDER BY supplier) n WHERE supplier.id = n.id
), n AS (
	SELECT count(*) AS n, coalesce(sum(usd), 0)::int8 AS usd, coalesce(sum(joule), 0)::int8 AS joule, coalesce(sum(fee), 0)::int8 AS fee FROM f
), h AS (
	UPDATE hot SET holds_usd = holds_usd - n.usd, treasury_usd = treasury_usd + n.usd,
		treasury_joule = treasury_joule - n.joule, fees_joule = fees_joule + n.fee
	FROM n WHERE shard = $1
) SELECT n, usd FROM n`

// hold is what each lease has set aside: enough for any run.
const hold = 100 * 1_000_000_000

// load fills the tables with the workload's leases, each with its first record
// settled. spread gives each lease a supplier of its own choice, instead of its
// host's.
func (s *Server) load(ctx context.Context, spec workload.Spec, shards int, spread bool) error {
	c, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, q := range append([]string{"DROP TABLE IF EXISTS lease, supplier, hot, journal"}, schema...) {
		if _, err := c.Exec(ctx, q); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	charged, _, _ := spec.Charged(1)
	copyRows := func(table string, columns []string, n int, row func(i int) ([]any, error)) {
		if err == nil {
			_, err = c.CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromSlice(n, row))
		}
	}
	copyRows("lease", []string{"id", "supplier", "base", "cpu", "gpu", "memory", "last_seq", "hold_total", "charged", "charged_before"},
		spec.Leases, func(i int) ([]any, error) {
			id := ledger.LeaseID(i + 1)
			supplier := int32(spec.HostOf(id))
			if spread {
				supplier = int32(spec.SpreadOf(id))
			}
			return []any{int64(id), supplier, int64(workload.Prices.Base), int64(workload.Prices.CPU), int64(workload.Prices.GPU),
				int64(workload.Prices.Memory), int64(1), int64(hold), int64(charged), int64(0)}, nil
		})
	copyRows("supplier", []string{"id", "joule"}, spec.Suppliers, func(i int) ([]any, error) { return []any{int32(i + 1), int64(0)}, nil })
	copyRows("hot", []string{"shard", "holds_usd", "treasury_usd", "treasury_joule", "fees_joule"}, shards, func(i int) ([]any, error) {
		return []any{int32(i), int64(0), int64(0), int64(workload.Minted) / int64(shards), int64(0)}, nil
	})
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	for _, q := range indexes {
		if _, err := c.Exec(ctx, q); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	return nil
}

// check compares every row with what the rules say for the records that were
// settled: the same as our ledger is checked against.
func (s *Server) check(ctx context.Context, spec workload.Spec, records int64) error {
	c, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	rows, err := c.Query(ctx, "SELECT last_seq, count(*), min(charged), max(charged) FROM lease GROUP BY last_seq")
	if err != nil {
		return err
	}
	charged1, paid1, fee1 := spec.Charged(1)
	var seq, n, least, most, leases int64
	var usd, paid, fee int64
	if _, err := pgx.ForEachRow(rows, []any{&seq, &n, &least, &most}, func() error {
		c, p, f := spec.Charged(uint64(seq))
		if least != int64(c) || most != int64(c) {
			return fmt.Errorf("leases at record %d were charged %d to %d, want %d", seq, least, most, c)
		}
		leases += n
		usd += n * int64(c-charged1)
		paid += n * int64(p-paid1)
		fee += n * int64(f-fee1)
		return nil
	}); err != nil {
		return err
	}
	if leases != int64(spec.Leases) {
		return fmt.Errorf("got %d leases, want %d", leases, spec.Leases)
	}
	type sums struct{ Treasury, Fees, Suppliers, Journal, Records int64 }
	want := sums{usd, fee, paid, usd + paid + fee, records}
	var got sums
	if err := c.QueryRow(ctx, `SELECT (SELECT sum(treasury_usd) FROM hot)::int8, (SELECT sum(fees_joule) FROM hot)::int8,
		(SELECT sum(joule) FROM supplier)::int8, sum(usd + paid + fee)::int8, count(*) FROM journal`).
		Scan(&got.Treasury, &got.Fees, &got.Suppliers, &got.Journal, &got.Records); err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("got sums %+v, want %+v", got, want)
	}
	return nil
}
