package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNotFound is what a function that looks for one row returns when there is
// none.
var ErrNotFound = errors.New("not found in the database")

// ConflictError says that rows were not written because of rows that are
// there: a unique key that is taken, or a reference to a row that is missing.
type ConflictError struct {
	// Constraint is the name of the constraint that refused the rows.
	Constraint string
	// Table is the table the constraint belongs to.
	Table string
	err   error
}

// Error names the constraint and the table; it never holds row values.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("conflict with %s of table %s", e.Constraint, e.Table)
}

// Unwrap returns the driver's error.
func (e *ConflictError) Unwrap() error { return e.err }

// SQLSTATE codes this package acts on. The codes of class WF are raised by the
// functions in the migrations.
const (
	codeUniqueViolation      = "23505"
	codeForeignKeyViolation  = "23503"
	codeExclusionViolation   = "23P01"
	codeSerializationFailure = "40001"
	codeDeadlockDetected     = "40P01"
	codeUndefinedTable       = "42P01"
	codeWriterReplaced       = "WF001"
	codeWriterRenewed        = "WF002"
	codeLeaseLost            = "WF003"
)

// TranslateError turns the driver's errors into this package's:
// [ErrNotFound], [*ConflictError], [ErrWriterReplaced], [ErrWriterRenewed] and
// [ErrLeaseLost]. Other errors are returned as they are. Every exported function
// of this package has its errors translated; programs that bring SQL of their
// own call it themselves.
func TranslateError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case codeUniqueViolation, codeForeignKeyViolation, codeExclusionViolation:
		return &ConflictError{Constraint: pg.ConstraintName, Table: pg.TableName, err: err}
	case codeWriterReplaced:
		return fmt.Errorf("%w: %s", ErrWriterReplaced, pg.Message)
	case codeWriterRenewed:
		return fmt.Errorf("%w: %s", ErrWriterRenewed, pg.Message)
	case codeLeaseLost:
		return fmt.Errorf("%w: %s", ErrLeaseLost, pg.Message)
	}
	return err
}

// IsRetryable tells whether a transaction failed only because of another one
// beside it (serialisation failure, deadlock) or because its writer's turn was
// renewed in between ([ErrWriterRenewed]), so that running it again is
// expected to succeed. Such a transaction has changed nothing.
func IsRetryable(err error) bool {
	if errors.Is(err, ErrWriterRenewed) {
		return true
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	return pg.Code == codeSerializationFailure || pg.Code == codeDeadlockDetected
}

// IsTransient tells whether err means that the server could not be reached or
// went away: refused or broken connections, a server that is starting, stopping
// or has no connection free. Whether a statement that was under way took effect
// is then unknown. A context that ended is not transient.
func IsTransient(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) && !pgconn.Timeout(err) {
		return false
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// Class 08: connection exception; 57P01 to 57P05: shutdown, crash,
		// starting up; 53300: too many connections.
		return strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "57P") && pg.Code != "57P04" || pg.Code == "53300"
	}
	var connect *pgconn.ConnectError
	var op *net.OpError
	return errors.As(err, &connect) && !isConfigMistake(err) || errors.As(err, &op) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNREFUSED) ||
		errors.Is(err, os.ErrDeadlineExceeded) || isClosedConn(err)
}

// isConfigMistake tells whether no amount of waiting helps a connection that
// failed.
func isConfigMistake(err error) bool {
	var dns *net.DNSError
	return errors.Is(err, os.ErrPermission) || errors.As(err, &dns) && dns.IsNotFound
}

// isClosedConn recognises the driver's error for a connection that it closed
// itself after an earlier failure; it has no type.
func isClosedConn(err error) bool {
	return strings.HasSuffix(err.Error(), "conn closed") || strings.HasSuffix(err.Error(), "conn is closed")
}
