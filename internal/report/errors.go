package report

import (
	"context"
	"errors"
	"regexp"
	"strings"
)

// systemCall is an error of the system with the name of its call and the path.
var systemCall = regexp.MustCompile(`\b(?:open|openat|stat|lstat|mkdir|read|readlink|fdopendir|readdirent|unlinkat|remove) ([^:\n]+)` +
	`(: (?:no such file or directory|is a directory|not a directory|too many levels of symbolic links|permission denied))`)

// systemWords are phrases of the system's errors and what they say to people.
var systemWords = []struct {
	system *regexp.Regexp
	plain  string
}{
	{regexp.MustCompile(`: no such file or directory`), ": there is no such file or folder"},
	{regexp.MustCompile(`: is a directory`), ": it is a folder, not a file"},
	{regexp.MustCompile(`: not a directory`), ": a part of this path is a file, not a folder"},
	{regexp.MustCompile(`: too many levels of symbolic links`), ": it is a link that leads back to itself"},
}

// Sentence is an error's text in words for people: without Go's words for a stop, without the system's for files.
func Sentence(err error) string {
	text := err.Error()
	if errors.Is(err, context.Canceled) {
		text = strings.ReplaceAll(text, ": "+context.Canceled.Error(), "")
		text = strings.ReplaceAll(text, context.Canceled.Error(), "stopped")
	}
	for _, m := range systemCall.FindAllStringSubmatch(text, -1) {
		path := m[1]
		text = strings.ReplaceAll(strings.ReplaceAll(text, m[0], path+m[2]), path+": "+path+": ", path+": ")
	}
	for _, w := range systemWords {
		text = w.system.ReplaceAllString(text, w.plain)
	}
	return text
}
