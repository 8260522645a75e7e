package argv

import "regexp"

// kongWords are phrases of kong's errors and what they say to people.
var kongWords = []struct {
	kong  *regexp.Regexp
	plain string
}{
	{regexp.MustCompile(`expected a valid \d+ bit uint but got ("[^"]*")`), "$1 is not a whole number from 0 on"},
	{regexp.MustCompile(`expected (?:a valid \d+ bit int|an int) but got ("[^"]*")( \(\w+\))?`), "$1 is not a whole number"},
	{regexp.MustCompile(`expected a float but got ("[^"]*")( \(\w+\))?`), "$1 is not a number"},
	{regexp.MustCompile(`bool value must be true, 1, yes, false, 0 or no but got`), "write yes or no, not"},
	{regexp.MustCompile(`missing value, expecting .*|expected \S+ value but got "EOL".*`), "a value is missing"},
	{regexp.MustCompile(`expected \S+ value but got "(-[\d.]+)".*`), "$1 reads as a flag; a value below zero is joined by =, as in =$1"},
	{regexp.MustCompile(`expected \S+ value but got "(-[^"]*)".*`), "a value is missing before $1"},
	{regexp.MustCompile(`expected one of (.*)`), "name one of $1"},
	{regexp.MustCompile(`(?:expected "|missing positional arguments )(<[^"]*>)"?`), "$1 is missing"},
	{regexp.MustCompile(`missing flags: (.*)`), "$1 is missing"},
	{regexp.MustCompile(`unexpected argument (\S+), did you mean`), "unknown command $1, did you mean"},
	{regexp.MustCompile(`, did you mean (one of )?(.*)\?`), "; did you mean $1$2?"},
}

// Plain is the text of a parse error of kong for people.
func Plain(text string) string {
	for _, w := range kongWords {
		text = w.kong.ReplaceAllString(text, w.plain)
	}
	return text
}
