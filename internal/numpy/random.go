package numpy

import "math/bits"

const (
	words  = 624
	middle = 397
)

// Random is the Mersenne Twister as NumPy's RandomState uses it: the same seed gives the same numbers, permutations and
// samples. nnU-Net draws its folds, fingerprint samples and class locations with it. It is not safe for concurrent use.
type Random struct {
	state [words]uint32
	next  int // index of the next state word; words: the state must be twisted first
}

// NewRandom is RandomState(seed) for a seed of one 32-bit word.
func NewRandom(seed uint32) *Random {
	s := &Random{next: words}
	for i := range s.state {
		s.state[i] = seed
		seed = 1812433253*(seed^seed>>30) + uint32(i) + 1
	}
	return s
}

func (s *Random) twist() {
	mix := func(i, after, far int) {
		y := s.state[i]&0x80000000 | s.state[after]&0x7fffffff
		s.state[i] = s.state[far] ^ y>>1 ^ y&1*0x9908b0df
	}
	for i := range words - middle {
		mix(i, i+1, i+middle)
	}
	for i := words - middle; i < words-1; i++ {
		mix(i, i+1, i+middle-words)
	}
	mix(words-1, 0, middle-1)
	s.next = 0
}

// Uint32 is the next raw word.
func (s *Random) Uint32() uint32 {
	if s.next == words {
		s.twist()
	}
	y := s.state[s.next]
	s.next++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

// Intn is uniform in [0, n), n ≥ 1: words masked to the next power of two until one fits. For n = 1 nothing is drawn.
func (s *Random) Intn(n int) int {
	limit := uint32(n - 1)
	if limit == 0 {
		return 0
	}
	mask := uint32(1)<<bits.Len32(limit) - 1
	for {
		if v := s.Uint32() & mask; v <= limit {
			return int(v)
		}
	}
}

// Fill fills dst with draws of Intn(n), faster than one by one.
func (s *Random) Fill(dst []uint32, n int) {
	limit := uint32(n - 1)
	if limit == 0 {
		clear(dst)
		return
	}
	mask := uint32(1)<<bits.Len32(limit) - 1
	for i := 0; i < len(dst); {
		if s.next == words {
			s.twist()
		}
		for _, y := range s.state[s.next:] {
			if i == len(dst) {
				break
			}
			s.next++
			y ^= y >> 11
			y ^= y << 7 & 0x9d2c5680
			y ^= y << 15 & 0xefc60000
			y = (y ^ y>>18) & mask
			dst[i] = y // stays only if it fits: a branch here would be mispredicted at every third draw
			fits := 0
			if y <= limit {
				fits = 1
			}
			i += fits
		}
	}
}

// Shuffle permutes n elements in place as RandomState.shuffle does.
func (s *Random) Shuffle(n int, swap func(i, j int)) {
	for i := n - 1; i > 0; i-- {
		swap(i, s.Intn(i+1))
	}
}

// Perm is permutation(n): the shuffled 0..n-1. choice(n, k, replace=False) is its first k entries.
func (s *Random) Perm(n int) []int {
	p := make([]int, n)
	for i := range p {
		p[i] = i
	}
	s.Shuffle(n, func(i, j int) { p[i], p[j] = p[j], p[i] })
	return p
}
