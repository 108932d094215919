package ledger

// Side returns whose fault an offence of this reason is; only SideSupplier can
// be fined (rule T4).
func (r FineReason) Side() FaultSide {
	switch r {
	case FineEquivocation, FineHostLost, FineBreach:
		return SideSupplier
	case FineNetwork:
		return SideNetwork
	case FineWorkload:
		return SideWorkload
	case FineFunds:
		return SideFunds
	case FinePlatform:
		return SidePlatform
	}
	return SideNone
}

// String returns the reason's name.
func (r FineReason) String() string {
	return nameOf(r, "equivocation", "host lost", "breach", "network", "workload", "funds", "platform")
}

// String returns the side's name.
func (s FaultSide) String() string {
	if s == SideNone {
		return "none"
	}
	return nameOf(s, "supplier", "workload", "funds", "network", "platform")
}

// Side returns on whose side the cause of a lease's end is (rule T4).
func (r CloseReason) Side() FaultSide {
	switch r {
	case CloseFunds:
		return SideFunds
	case CloseOperator:
		return SidePlatform
	case CloseHostLost:
		return SideSupplier
	}
	return SideNone
}
