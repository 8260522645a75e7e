package commands

import (
	"errors"
	"log/slog"
	"os"

	"masksam/internal/remedy"
	"masksam/internal/work"
)

// parts are the flags of commands whose cases several processes may share.
type parts struct {
	NumParts *int `help:"Divide the cases into so many parts; by default those of the SLURM job array or the indexed Kubernetes job that runs this." placeholder:"N"`
	Part     *int `help:"With --num-parts: the part to do, from 0." placeholder:"K"`
}

func (p parts) part() (work.Part, error) { return PartOf(p.NumParts, p.Part) }

// PartOf is the part that flags give, else the one that a scheduler gives, which the log tells.
func PartOf(of, index *int) (p work.Part, err error) {
	switch {
	case of != nil:
		p.Of = *of
		if index != nil {
			p.Index = *index
		}
		if p.Of < 1 {
			return p, errors.New("there must be one part or more")
		}
		return p, p.Check()
	case index != nil:
		return p, remedy.Add(errors.New("a part needs to know how many there are"), "say so with ", remedy.NumParts.With("N"))
	}
	p, by, err := work.ArrayPart(os.Getenv)
	if err != nil {
		return p, remedy.Add(err, "do all cases with ", remedy.NumParts.With("1"), ", or name the part with ", remedy.NumParts.With("N"),
			" and ", remedy.Part.With("K"))
	}
	if by != "" {
		slog.Info("of the cases, this process does "+p.String()+", by the "+by+" that it belongs to", "every", p.Of, "from", p.Index)
	}
	return p, nil
}
