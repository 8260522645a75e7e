package commands

import (
	"fmt"
	"masksam/internal/torch"
	"runtime/debug"
	"strings"
)

type versionCmd struct{}

func (versionCmd) Run(a *App) error {
	fmt.Fprintf(a.Out, "masksam %s, libtorch %s\n", version(), torch.Version())
	return nil
}

// version is the commit that the binary was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of unknown origin"
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = ", changed since"
			}
		}
	}
	if revision == "" {
		return strings.Trim(info.Main.Version, "()") + " " + info.GoVersion
	}
	return revision + dirty + " " + info.GoVersion
}
