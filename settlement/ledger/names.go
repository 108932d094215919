package ledger

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
)

// What is found by a text of others' is found by the bytes of its record: an
// index has a hash of them, the arena has themselves.

func (l *Ledger) hash(key []byte) uint32 { return uint32(maphash.Bytes(l.seed, key) >> 32) }

// lookUp returns the row whose record has name where from begins.
func lookUp[T string | []byte](l *Ledger, x *index, name T, from func(row int) []byte) (row int, ok bool) {
	if len(name) > NomadNameBytesMax {
		return 0, false
	}
	var buf [2 + NomadNameBytesMax]byte
	key := appendText(buf[:0], name)
	return x.find(l.hash(key), func(row int) bool { return bytes.HasPrefix(from(row), key) })
}

func customerNamed[T string | []byte](l *Ledger, name T) (CustomerID, bool) {
	row, ok := lookUp(l, &l.customerNames, name, func(row int) []byte { return l.texts.from(l.customers.get(row).texts) })
	return CustomerID(row), ok
}

// customerOf finds the customer that a namespace belongs to.
func customerOf[T string | []byte](l *Ledger, namespace T) (CustomerID, bool) {
	row, ok := lookUp(l, &l.namespaces, namespace, func(row int) []byte {
		b := l.texts.from(l.customers.get(row).texts)
		return b[2+int(binary.LittleEndian.Uint16(b)):]
	})
	return CustomerID(row), ok
}

func supplierNamed[T string | []byte](l *Ledger, name T) (SupplierID, bool) {
	row, ok := lookUp(l, &l.supplierNames, name, func(row int) []byte { return l.texts.from(l.suppliers.get(row).texts) })
	return SupplierID(row), ok
}

func hostNamed[T string | []byte](l *Ledger, name T) (HostID, bool) {
	row, ok := lookUp(l, &l.hostNames, name, func(row int) []byte { return l.texts.from(l.hosts.get(row).texts) })
	return HostID(row), ok
}

func (l *Ledger) hostOf(publicKey *[32]byte) (HostID, bool) {
	row, ok := l.hostKeys.find(l.hash(publicKey[:]), func(row int) bool { return l.hosts.get(row).publicKey == *publicKey })
	return HostID(row), ok
}

func keyNamed[T string | []byte](l *Ledger, key T) (row int, ok bool) {
	return lookUp(l, &l.keyIndex, key, func(row int) []byte { return l.texts.from(l.keys.get(row).texts) })
}

// leaseKeyed finds a lease by its natural key.
func leaseKeyed[T string | []byte](l *Ledger, alloc, task, invocation T) (LeaseID, bool) {
	if max(len(alloc), len(task), len(invocation)) > NomadNameBytesMax {
		return 0, false
	}
	var buf [3 * (2 + NomadNameBytesMax)]byte
	key := appendText(appendText(appendText(buf[:0], alloc), task), invocation)
	row, ok := l.leaseIndex.find(l.hash(key), func(row int) bool { return bytes.HasPrefix(l.texts.from(l.leaseTerms.get(row).texts), key) })
	return LeaseID(row), ok
}

// jobKey is what a job is hashed by.
func jobKey[T string | []byte](dst []byte, customer CustomerID, name T) []byte {
	return appendText(binary.LittleEndian.AppendUint32(dst, uint32(customer)), name)
}

func jobNamed[T string | []byte](l *Ledger, customer CustomerID, name T) (row int, ok bool) {
	if len(name) > NomadNameBytesMax {
		return 0, false
	}
	var buf [4 + 2 + NomadNameBytesMax]byte
	key := jobKey(buf[:0], customer, name)
	return l.jobIndex.find(l.hash(key), func(row int) bool {
		n := l.jobNames.get(row)
		return n.customer == customer && bytes.HasPrefix(l.texts.from(n.texts), key[4:])
	})
}

func (l *Ledger) customerName(id CustomerID) string {
	return string(l.texts.text(l.customers.get(int(id)).texts, 0))
}

func (l *Ledger) supplierName(id SupplierID) string {
	return string(l.texts.text(l.suppliers.get(int(id)).texts, 0))
}

func (l *Ledger) hostName(id HostID) string {
	return string(l.texts.text(l.hosts.get(int(id)).texts, 0))
}

func (l *Ledger) jobName(job uint32) string {
	return string(l.texts.text(l.jobNames.get(int(job)).texts, 0))
}

func addCustomer[T string | []byte](l *Ledger, row customer, name, namespace T) CustomerID {
	record := appendText(l.newRecord(), name)
	n := len(record)
	record = appendText(record, namespace)
	row.texts = l.texts.add(record)
	i, c := l.customers.add()
	*c = row
	l.customerNames.add(l.hash(record[:n]), i)
	l.namespaces.add(l.hash(record[n:]), i)
	return CustomerID(i)
}

func addSupplier[T string | []byte](l *Ledger, row supplier, name T) SupplierID {
	record := appendText(l.newRecord(), name)
	row.texts = l.texts.add(record)
	i, s := l.suppliers.add()
	*s = row
	l.supplierNames.add(l.hash(record), i)
	return SupplierID(i)
}

func addHost[T string | []byte](l *Ledger, row host, name T) HostID {
	record := appendText(l.newRecord(), name)
	row.texts = l.texts.add(record)
	i, h := l.hosts.add()
	*h = row
	l.hostNames.add(l.hash(record), i)
	l.hostKeys.add(l.hash(row.publicKey[:]), i)
	l.suppliers.edit(int(row.supplier)).hosts++
	return HostID(i)
}

func addJob[T string | []byte](l *Ledger, customer CustomerID, name T) (row int) {
	key := jobKey(l.newRecord(), customer, name)
	row, _ = l.jobs.add()
	_, n := l.jobNames.add()
	*n = jobName{customer: customer, texts: l.texts.add(key[4:])}
	l.jobIndex.add(l.hash(key), row)
	return row
}

// newRecord is an empty record to append to, until the next one is made.
func (l *Ledger) newRecord() []byte {
	if l.scratch == nil {
		l.scratch = make([]byte, 0, 8<<10) // more than any but a forged one needs
	}
	return l.scratch[:0]
}
