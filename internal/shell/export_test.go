package shell

// For tests.
var (
	SplitWords = splitWords
	FirstWord  = firstWord
	ErrQuote   = errQuote
	ErrShell   = errShell
	ErrTooLong = errTooLong
)
