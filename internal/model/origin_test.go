package model

import (
	"fmt"
	"strings"
	"testing"
)

func TestOriginChanges(t *testing.T) {
	stored := func(version string) func(string) string { return func(id string) string { return version + id } }
	was := NewOrigin([]byte("{}"), []string{"a", "b", "c"}, []string{"d"}, stored("1"), stored("0"))
	many := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprint("n", i))
		}
		return list
	}
	for _, c := range []struct {
		now  *Origin
		want string
	}{
		{was, ""},
		{NewOrigin([]byte("[]"), was.Train, was.Val, stored("1"), stored("0")), "plans.json has another text"},
		{NewOrigin([]byte("{}"), []string{"a", "c"}, []string{"d"}, stored("1"), stored("0")), "training has lost cases: b"},
		{NewOrigin([]byte("{}"), []string{"a", "b", "d"}, []string{"c"}, stored("1"), stored("0")), "training has more cases: d; training has lost " +
			"cases: c; validation has more cases: c; validation has lost cases: d"},
		{NewOrigin([]byte("{}"), []string{"b", "a", "c"}, []string{"d"}, stored("1"), stored("0")), "the split has the training cases in another order"},
		{NewOrigin([]byte("{}"), was.Train, was.Val, stored("2"), stored("0")), "cases were preprocessed from other files or settings: a, b, c, d"},
		{NewOrigin([]byte("{}"), was.Train, was.Val, stored("1"), stored("3")), "the previous stage has given cases other labels: a, b, c, d"},
		{NewOrigin([]byte("{}"), append(many(7), was.Train...), was.Val, stored("1"), stored("0")), "training has more cases: n0, n1, n2, n3, n4 and 2 others"},
	} {
		if got := strings.Join(was.Changes(c.now), "; "); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
		same, differs := was.Digests(), c.now.Digests()
		if changed := fmt.Sprint(same) != fmt.Sprint(differs); changed != (c.want != "") {
			t.Errorf("%s: digests %v and %v", c.want, same, differs)
		}
	}
	none := NewOrigin([]byte("{}"), was.Train, was.Val, stored("1"), nil) // of a version that did not tell
	if got := none.Changes(was); len(got) > 0 {
		t.Errorf("%q where nothing is known", got)
	}
}
