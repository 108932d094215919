// Package command is the joule command line: one command per noun and verb,
// for operators, customers, suppliers and the daemons.
//
// Results go to standard output, and nothing else does; errors and hints go to
// standard error as lines that begin with "joule: error:" and "joule: hint:".
// The process's exit code comes from one table (see ExitCode), which --help
// prints.
//
// # JSON
//
// With --output json every result is one JSON object. Its fields are the API's
// (settlement/api/joule/v1/settlement.proto), all of them, in the API's order
// and under the API's snake_case names, with these additions:
//
//   - integers are JSON numbers, 64-bit ones too;
//   - a currency is "USD" or "JOULE", null where there is none;
//   - an amount whose unit depends on a currency carries the unit in its name:
//     balance_nusd or balance_nj, hold_nusd or hold_nj, amount_nusd or
//     amount_nj; and the sums of all balances are usd_sum_nusd, joule_sum_nj;
//   - a journal entry that moves no money has no amount.
//
// nusd is 10⁻⁹ of a dollar, nj 10⁻⁹ of a JOULE. Fields are added over time and
// never renamed or removed.
//
// # Repeating a command
//
// Every changing command carries an idempotency key, --key. Without one a fresh
// random key is used, and shown in a hint when no answer came, so that the same
// command can be repeated with it and still happens once at most.
package command
