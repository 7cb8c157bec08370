package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"nekoq/services/errs"
	keys "nekoq/warehouse/api"
	"nekoq/warehouse/form"
)

const txnLong = `Carry out a transaction: when all conditions of --if hold, the operations of --then, else those of --else, all at one revision. Each
of the three may be given again. A transaction without writes is a read.

Conditions
  version(KEY) = 0                  versions of the key; all numbers of a missing key are 0
  create(KEY), mod(KEY) > 17        its create or mod revision
  value(KEY) = "host=db1"           its value
  lease(KEY) = 0                    the lease on which it hangs; 0 is none
  exists(KEY), missing(KEY)         short for create(KEY) > 0, create(KEY) = 0
with =, !=, < or >

Operations
  put KEY VALUE [--ttl 30s] [--lease ID] [--prev]
  get KEY [END] [--prefix] [--limit N] [--revision N] [--keys-only] [--count]
  del KEY [END] [--prefix] [--prev]
  txn JSON                          a transaction in the transaction
Keys and values with spaces stand in double quotes (with the escapes of Go, such as \n and \x00) or in single quotes.

The transaction may also come from a file, or for - from the standard input: as JSON, in the words of POST /v1/warehouse/txn, or as three blocks of
lines with an empty line between them, conditions, then, else, which is the form of etcdctl.

A condition that does not hold is no error: the answer says which operations were carried out. With --must it is one (exit code 4).`

func (a *app) kvTxn() *cobra.Command {
	var (
		conditions, then, otherwise, holding []string
		must                                 bool
	)
	cmd := &cobra.Command{
		Use: "txn [FILE|-]", Short: "Carry out a transaction", Args: cobra.MaximumNArgs(1), Long: txnLong,
		Example: `  nekoq kv txn --if 'missing(app/owner)' --then 'put app/owner me --ttl 30s' --else 'get app/owner'
  nekoq kv txn --if 'mod(app/db) = 17' --then 'put app/db "host=db2"' --then 'del app/old/ --prefix' --must
  nekoq kv txn --holding lock:deploy=42 --then 'put app/version 7'
  nekoq kv txn - < txn.json`,
	}
	f := cmd.Flags()
	f.StringArrayVar(&conditions, "if", nil, "a condition, such as 'version(KEY) = 0'")
	f.StringArrayVar(&then, "then", nil, "an operation for when all conditions hold, such as 'put KEY VALUE'")
	f.StringArrayVar(&otherwise, "else", nil, "an operation for when one does not")
	f.StringArrayVar(&holding, "holding", nil, "refuse all of it unless lock:NAME=TOKEN (or election:, key:) is still held")
	f.BoolVar(&must, "must", false, "fail when a condition does not hold")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		lines := txnLines{conditions, then, otherwise, holding}
		t, err := a.readTxn(args, lines)
		if err != nil {
			return err
		}
		return a.store(cmd, func(ctx context.Context, s Store) error {
			res, err := s.KV().Txn().If(t.If...).Then(t.Then...).Else(t.Else...).Holding(t.Holding...).Commit(ctx)
			if err != nil {
				return err
			}
			if err := a.emit(form.ResultOf(&res), func(tab *table) { showTxn(tab, t, &res, "") }); err != nil {
				return err
			}
			if must && !res.Succeeded {
				return errs.New(errs.FailedPrecond, "a condition of the transaction does not hold")
			}
			return nil
		})
	}
	return cmd
}

// readTxn reads the transaction out of the flags or the file.
func (a *app) readTxn(args []string, lines txnLines) (*keys.Txn, error) {
	var (
		t   *form.Txn
		err error
	)
	switch {
	case len(args) == 0 && lines.empty():
		return nil, errs.New(errs.InvalidArgument, "no transaction: give it with --if, --then and --else, in a FILE, or - for the standard input; see nekoq kv txn --help")
	case len(args) == 0:
		t, err = lines.parse()
	case len(lines.conditions)+len(lines.then)+len(lines.otherwise) > 0:
		return nil, errs.New(errs.InvalidArgument, "the transaction is given twice: in %s, and with --if, --then or --else", args[0])
	default:
		var text []byte
		if text, err = a.read("FILE", args[0]); err != nil {
			return nil, err
		}
		if t, err = parseTxn(text); err == nil {
			var held *form.Txn
			if held, err = (txnLines{holding: lines.holding}).parse(); err == nil {
				t.Holding = append(t.Holding, held.Holding...)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return t.Txn()
}

// showTxn tells what was carried out, one line an operation.
func showTxn(t *table, txn *keys.Txn, res *keys.TxnResult, indent string) {
	ops, said := txn.Then, "succeeded"
	if !res.Succeeded {
		ops, said = txn.Else, "a condition does not hold"
	}
	if len(txn.If) > 0 || indent == "" {
		t.row(indent + said)
	}
	for i := range res.Ops {
		if i < len(ops) {
			showOp(t, &ops[i], &res.Ops[i], indent)
		}
	}
	if indent == "" {
		t.row("revision", res.Revision)
	}
}

func showOp(t *table, op *keys.Op, res *keys.OpResult, indent string) {
	was := func(kv *keys.KV) {
		t.row(indent+"  was "+printable(kv.Key, 0), printable(kv.Value, valueWidth), fmt.Sprintf("revision %d, version %d", kv.ModRevision, kv.Version))
	}
	switch {
	case res.Put != nil && op.Put != nil:
		t.row(indent+"put "+printable(op.Put.Key, 0), fmt.Sprintf("revision %d, version %d", res.Put.Revision, res.Put.Version))
		if res.Put.Prev != nil {
			was(res.Put.Prev)
		}
	case res.Delete != nil && op.Delete != nil:
		t.row(indent+"del "+printable(op.Delete.Span.Key, 0), fmt.Sprintf("%d deleted", res.Delete.Deleted))
		for i := range res.Delete.Prev {
			was(&res.Delete.Prev[i])
		}
	case res.Range != nil && op.Range != nil:
		t.row(indent+"get "+printable(op.Range.Span.Key, 0), fmt.Sprintf("%d of %d", len(res.Range.Items), res.Range.Count))
		for i := range res.Range.Items {
			kv := &res.Range.Items[i]
			t.row(indent+"  "+printable(kv.Key, 0), printable(kv.Value, valueWidth), fmt.Sprintf("revision %d, version %d", kv.ModRevision, kv.Version))
		}
	case res.Txn != nil && op.Txn != nil:
		t.row(indent + "txn")
		showTxn(t, op.Txn, res.Txn, indent+"  ")
	}
}
