package attack

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The promises of DESIGN.md §1.
const (
	P1 = "P1" // sealed bytes never change
	P2 = "P2" // a sealed name never disappears and is never re-pointed
	P3 = "P3" // retention and the past are the server's
	P4 = "P4" // what was acknowledged is there
	P5 = "P5" // a tenant reaches its own tree only
	P6 = "P6" // every change is in the journal
	P7 = "P7" // a full or attacked tenant can read and restore
)

// Case is one attack.
type Case struct {
	Name    string
	Promise string // P1 .. P7
	Story   string // one sentence: what the attacker does
	// Run attacks. nil: the vault held. ErrUnsupported: not applicable here. Anything else says what broke.
	Run func(ctx context.Context, e *Env) error

	files []string // the victims, below the case's directory
	who   who
}

// Victims is how many files the owner stores for the case.
func (c Case) Victims() int { return len(c.files) * len(c.who.keys()) }

// Outcome of a case.
type Outcome int

// The outcomes.
const (
	Held Outcome = iota
	Broken
	NotApplicable
)

func (o Outcome) String() string { return [...]string{"held", "BROKEN", "not applicable"}[o] }

// Result is one case's outcome; Err says why it is not Held.
type Result struct {
	Case
	Outcome Outcome
	Err     error
	Took    time.Duration
}

// Cases returns the whole suite, in an order in which the cases do not disturb each other.
func Cases() []Case {
	var all []Case
	for _, group := range [][]spec{contentSpecs(), truncateSpecs(), nameSpecs(), renameSpecs(), linkSpecs(), symlinkSpecs(),
		metadataSpecs(), uploadSpecs(), temporarySpecs(), scratchSpecs(), viewSpecs(), pathSpecs(), tenantSpecs(),
		limitSpecs(), reservedSpecs()} {
		for _, s := range group {
			all = append(all, s.build())
		}
	}
	return all
}

// Run stores the victims of all cases, runs them one after the other and looks at every victim's past
// once more: a last result named "sweep" says whether a later attack undid what an earlier one left. The
// error is for what kept the suite from being run; then nothing is proved.
func Run(ctx context.Context, e *Env, cases []Case) ([]Result, error) {
	if err := e.prepare(ctx, cases); err != nil {
		return nil, err
	}
	results := make([]Result, 0, len(cases)+1)
	for _, c := range cases {
		if err := ctx.Err(); err != nil {
			return results, err
		}
		results = append(results, runOne(ctx, e, c))
	}
	sweep := Case{Name: "sweep", Promise: P2, Story: "After all attacks every victim is read once more.", Run: sweepVictims}
	return append(results, runOne(ctx, e, sweep)), nil
}

func runOne(ctx context.Context, e *Env, c Case) Result {
	start := time.Now()
	err := c.Run(ctx, e)
	r := Result{Case: c, Err: err, Took: time.Since(start)}
	switch {
	case err == nil:
	case errors.Is(err, ErrUnsupported) && !errors.Is(err, errBroken):
		r.Outcome = NotApplicable
	default:
		r.Outcome = Broken
	}
	return r
}

func sweepVictims(ctx context.Context, e *Env) error {
	var errs []error
	for _, set := range e.sets {
		for _, v := range set.victims {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := e.checkPast(v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", set.key, err))
			}
		}
	}
	return errors.Join(errs...)
}
