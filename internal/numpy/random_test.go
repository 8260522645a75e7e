package numpy

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// TestNumPy compares every kind of draw with NumPy's RandomState; each entry of the table starts a fresh generator.
func TestNumPy(t *testing.T) {
	raw, err := os.ReadFile("testdata/mt19937.json")
	if err != nil {
		t.Fatal(err)
	}
	var table map[string]map[string][]float64
	if err := json.Unmarshal(raw, &table); err != nil {
		t.Fatal(err)
	}
	draws := map[string]func(s *Random) float64{
		"raw_u32_first8":                 func(s *Random) float64 { return float64(s.Uint32()) },
		"choice_replace_true_n777_k20":   func(s *Random) float64 { return float64(s.Intn(777)) },
		"choice_replace_true_n5_k40":     func(s *Random) float64 { return float64(s.Intn(5)) },
		"choice_replace_true_n65536_k12": func(s *Random) float64 { return float64(s.Intn(65536)) },
		"choice_replace_true_n1_k3":      func(s *Random) float64 { return float64(s.Intn(1)) },
	}
	perms := map[string]int{"permutation_20": 20, "permutation_1000_first16": 1000, "shuffle_arange_10": 10, "choice_1000_of_37": 1000}
	for seedText, entries := range table {
		seed, err := strconv.ParseUint(seedText, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range entries {
			s := NewRandom(uint32(seed))
			got := make([]float64, len(want))
			if n, ok := perms[name]; ok {
				for i, v := range s.Perm(n)[:len(want)] {
					got[i] = float64(v)
				}
			} else if draw, ok := draws[name]; ok {
				for i := range got {
					got[i] = draw(s)
				}
			} else {
				t.Fatalf("no test for the table's entry %q", name)
			}
			for i := range want {
				if math.Abs(got[i]-want[i]) > 1e-15*max(1, math.Abs(want[i])) {
					t.Errorf("seed %d, %s[%d]: %v, want %v", seed, name, i, got[i], want[i])
					break
				}
			}
		}
	}
}

func TestPermIsAPermutation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 300).Draw(t, "n")
		p := NewRandom(rapid.Uint32().Draw(t, "seed")).Perm(n)
		slices.Sort(p)
		for i, v := range p {
			if i != v {
				t.Fatalf("permutation of %d holds %d at rank %d", n, v, i)
			}
		}
	})
}

func TestFillIsIntn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed, n := rapid.Uint32().Draw(t, "seed"), rapid.IntRange(1, 1<<20).Draw(t, "n")
		a, b := NewRandom(seed), NewRandom(seed)
		for range 3 {
			dst := make([]uint32, rapid.IntRange(0, 700).Draw(t, "length"))
			a.Fill(dst, n)
			for i, v := range dst {
				if want := b.Intn(n); int(v) != want {
					t.Fatalf("draw %d: %d, want %d", i, v, want)
				}
			}
		}
		if a.Uint32() != b.Uint32() {
			t.Fatal("the generators went apart")
		}
	})
}

func BenchmarkFill(b *testing.B) {
	s, dst := NewRandom(1), make([]uint32, 1<<16)
	b.SetBytes(4 << 16)
	for b.Loop() {
		s.Fill(dst, 1000)
	}
}
