package wire

import (
	"encoding/binary"

	"github.com/joulecloud/joule/settlement/ledger"
)

const batchVersion = 1

// AppendBatch appends a host's batch of records: what it signs. The boot id
// ties the records to one run of the host's kernel and its monotonic clock.
func AppendBatch(dst []byte, host HostID, boot [16]byte, records []Record) []byte {
	dst = append(dst, batchVersion)
	dst = appendU32(dst, uint32(host))
	dst = append(dst, boot[:]...)
	dst = appendU32(dst, uint32(len(records)))
	for i := range records {
		dst = AppendRecord(dst, &records[i])
	}
	return dst
}

// BatchSize is the length of a batch of n records in bytes.
func BatchSize(n int) int { return 1 + 4 + 16 + 4 + n*RecordSize }

// DecodeBatch is the inverse of AppendBatch. It fills every record's Hash,
// leaves into.Signature alone, and reuses into.Records where its capacity is
// enough (then it does not allocate). After an error into is unspecified. A
// batch of more than BatchRecordsMax records is an error.
func DecodeBatch(b []byte, into *UsageBatch) error {
	d := decoder{what: "usage batch", b: b}
	d.batch(into)
	return d.end()
}

// SignedBatch is a ledger.UsageBatch on its way into the log, still as its host
// sent it: there it encodes to the same bytes. CheckBatch must have passed it.
type SignedBatch struct {
	Batch     []byte
	Signature [64]byte
}

// Kind implements ledger.Command.
func (*SignedBatch) Kind() ledger.CommandKind { return ledger.KindUsageBatch }

// CheckBatch says whether DecodeBatch accepts b, and whose batch of how many
// records it is, at a small part of the cost. Errors are those of DecodeBatch.
func CheckBatch(b []byte) (host HostID, records int, err error) {
	const head = 1 + 4 + 16 + 4
	if len(b) >= head && b[0] == batchVersion {
		records = int(binary.LittleEndian.Uint32(b[1+4+16:]))
		ok := records <= BatchRecordsMax && len(b) == BatchSize(records)
		for at := head; ok && at < len(b); at += RecordSize {
			ok = b[at+recVersion] == recordVersion && b[at+recFinal] <= 1
		}
		if ok {
			return HostID(binary.LittleEndian.Uint32(b[1:])), records, nil
		}
	}
	var into ledger.UsageBatch // to say what is wrong
	err = DecodeBatch(b, &into)
	return into.Host, len(into.Records), err
}

func (d *decoder) batch(into *ledger.UsageBatch) {
	d.version("version", batchVersion)
	into.Host = ledger.HostID(d.u32("host"))
	into.Boot = [16]byte{}
	copy(into.Boot[:], d.take("boot", len(into.Boot)))
	at := d.off
	// A record of a later version may be shorter: count on its version byte
	// alone here, d.record checks the rest.
	n := d.count("records", 1)
	if n > BatchRecordsMax {
		d.fail("records", at, nil, "count %d, at most %d", n, BatchRecordsMax)
	}
	if d.err != nil {
		return
	}
	if cap(into.Records) >= n {
		into.Records = into.Records[:n]
	} else {
		into.Records = make([]ledger.Record, n)
	}
	d.push("records")
	for i := 0; i < n && d.err == nil; i++ {
		d.at(i)
		d.record(&into.Records[i])
	}
	d.pop()
}
