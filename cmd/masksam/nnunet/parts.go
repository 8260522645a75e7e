package nnunet

import (
	"masksam/cmd/masksam/commands"
	"masksam/internal/work"
)

// parts are the flags of commands whose cases several processes may share.
type parts struct {
	Parts *int `option:"num-parts" name:"num_parts" help:"Divide the cases into so many parts; by default those of the SLURM job array or the indexed Kubernetes job that runs this."`
	Part  *int `option:"part" name:"part_id" help:"The part to do, from 0."`
}

func (p parts) part() (work.Part, error) { return commands.PartOf(p.Parts, p.Part) }

// ownParts are masksam's flags of commands that nnU-Net does not divide.
type ownParts struct {
	Parts *int `own:"" option:"num-parts" name:"num_parts" help:"Divide the cases into so many parts; by default those of the SLURM job array or the indexed Kubernetes job that runs this (not nnU-Net's)."`
	Part  *int `own:"" option:"part" name:"part_id" help:"The part to do, from 0 (not nnU-Net's)."`
}

func (p ownParts) part() (work.Part, error) { return commands.PartOf(p.Parts, p.Part) }
