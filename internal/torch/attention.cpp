// Attention in tiles of some queries and some keys that stay in a core's own caches, with the online softmax of Milakov &
// Gimelshein (2018) and the backward pass of Dao et al. (2022): logits never meet memory, and the gradient computes them
// again. Tiles are transposed: the lanes of a vector are queries, so that softmax needs no sums across lanes and keys and
// values are read as they lie in memory, one number at a time.
#include "attention.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace kernels {
namespace {

constexpr double log2e = 1.4426950408889634;

// c (rows,lanes) = or += a (rows,depth) · b (depth,lanes); a's steps are free, so that it may be transposed.
template <typename T> struct Product {
  int64_t rows, lanes, depth;
  const T *a;
  int64_t a_row, a_depth;
  const T *b;
  int64_t b_depth;
  T *c;
  int64_t c_row;
  bool add;
};

// A tile of logits to base 2, (keys,lanes).
template <typename T> struct Tile {
  int64_t keys, lanes;
  T *s;
};

template <typename T, int VB> struct Body {
  typedef T V __attribute__((vector_size(VB), aligned(alignof(T)), may_alias));
  static constexpr int n = VB / sizeof(T);

  static INLINE V load(const T *p) { return *(const V *)p; }
  static INLINE void store(T *p, V v) { *(V *)p = v; }

  template <int R, int NV> static INLINE void block(const Product<T> &p, int64_t row, int64_t lane) {
    V sum[R][NV];
    const T *a = p.a + row * p.a_row, *b = p.b + lane;
    T *c = p.c + row * p.c_row + lane;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) sum[r][v] = p.add ? load(c + r * p.c_row + v * n) : V{};
    for (int64_t i = 0; i < p.depth; i++, a += p.a_depth, b += p.b_depth) {
      V x[NV];
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) x[v] = load(b + v * n);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const T w = a[r * p.a_row];
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) sum[r][v] += w * x[v];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) store(c + r * p.c_row + v * n, sum[r][v]);
  }

  template <int NV> static INLINE void columns(const Product<T> &p, int64_t lane) {
    int64_t i = 0;
    for (; i + 6 <= p.rows; i += 6) block<6, NV>(p, i, lane);
    for (; i + 2 <= p.rows; i += 2) block<2, NV>(p, i, lane);
    if (i < p.rows) block<1, NV>(p, i, lane);
  }

  static INLINE void product(const Product<T> &p) {
    int64_t j = 0;
    for (; j + 2 * n <= p.lanes; j += 2 * n) columns<2>(p, j);
    if (j < p.lanes) columns<1>(p, j);
  }

  static INLINE V max(V a, V b) { return b > a ? b : a; }

  // Turns logits into exponentials of what they are below the greatest so far, and brings sums and the results o (rows,lanes)
  // to the new greatest.
  static INLINE void soften(const Tile<T> &t, T *greatest, T *sum, T *o, int64_t rows, bool first) {
    const V none = V{} - std::numeric_limits<T>::infinity();
    for (int64_t j = 0; j < t.lanes; j += n) {
      const V before = first ? none : load(greatest + j);
      V m = before;
      for (int64_t i = 0; i < t.keys; i++) m = max(m, load(t.s + i * t.lanes + j));
      store(greatest + j, m);
      const V base = m == none ? V{} : m; // exponentials of -∞ are 0 and not NaN
      V total{};
      for (int64_t i = 0; i < t.keys; i++) {
        T *p = t.s + i * t.lanes + j;
        const V e = exp2<T, VB>(load(p) - base);
        store(p, e);
        total += e;
      }
      if (first) {
        store(sum + j, total);
        continue;
      }
      const V shrink = exp2<T, VB>(before - base);
      store(sum + j, load(sum + j) * shrink + total);
      for (int64_t i = 0; i < rows; i++) store(o + i * t.lanes + j, load(o + i * t.lanes + j) * shrink);
    }
  }

  // Turns logits into softmax's results p, and the gradients ds of p into those of the logits: p·(ds - mean), where mean is
  // that of ds by p.
  static INLINE void unsoften(const Tile<T> &t, const T *lse, const T *mean, T *ds) {
    for (int64_t j = 0; j < t.lanes; j += n) {
      const V l = load(lse + j), d = load(mean + j);
      for (int64_t i = 0; i < t.keys; i++) {
        const int64_t at = i * t.lanes + j;
        const V p = exp2<T, VB>(load(t.s + at) - l);
        store(t.s + at, p);
        store(ds + at, p * (load(ds + at) - d));
      }
    }
  }

  // Logits of keys from key on = rel_h + rel_w, both (positions,lanes).
  static INLINE void place(const Tile<T> &t, const T *rel_h, const T *rel_w, int64_t key, int64_t columns) {
    for (int64_t i = 0; i < t.keys; i++) {
      const T *h = rel_h + (key + i) / columns * t.lanes, *w = rel_w + (key + i) % columns * t.lanes;
      for (int64_t j = 0; j < t.lanes; j += n) store(t.s + i * t.lanes + j, load(h + j) + load(w + j));
    }
  }

  // The other way: adds gradients of logits to those of rel_h and rel_w.
  static INLINE void collect(const Tile<T> &t, T *rel_h, T *rel_w, int64_t key, int64_t columns) {
    for (int64_t i = 0; i < t.keys; i++) {
      T *h = rel_h + (key + i) / columns * t.lanes, *w = rel_w + (key + i) % columns * t.lanes;
      for (int64_t j = 0; j < t.lanes; j += n) {
        const V g = load(t.s + i * t.lanes + j);
        store(h + j, load(h + j) + g);
        store(w + j, load(w + j) + g);
      }
    }
  }
};

// ---- one function for each level of vector instructions ---------------------------------------------

template <typename T> struct Entries {
  int lanes;
  void (*product)(const Product<T> &);
  void (*soften)(const Tile<T> &, T *, T *, T *, int64_t, bool);
  void (*unsoften)(const Tile<T> &, const T *, const T *, T *);
  void (*place)(const Tile<T> &, const T *, const T *, int64_t, int64_t);
  void (*collect)(const Tile<T> &, T *, T *, int64_t, int64_t);
};

#define LEVEL(name, T, VB, target)                                                                                       \
  target void product_##name(const Product<T> &p) { Body<T, VB>::product(p); }                                           \
  target void soften_##name(const Tile<T> &t, T *m, T *sum, T *o, int64_t rows, bool first) {                            \
    Body<T, VB>::soften(t, m, sum, o, rows, first);                                                                      \
  }                                                                                                                      \
  target void unsoften_##name(const Tile<T> &t, const T *lse, const T *mean, T *ds) {                                    \
    Body<T, VB>::unsoften(t, lse, mean, ds);                                                                             \
  }                                                                                                                      \
  target void place_##name(const Tile<T> &t, const T *h, const T *w, int64_t key, int64_t columns) {                     \
    Body<T, VB>::place(t, h, w, key, columns);                                                                           \
  }                                                                                                                      \
  target void collect_##name(const Tile<T> &t, T *h, T *w, int64_t key, int64_t columns) {                               \
    Body<T, VB>::collect(t, h, w, key, columns);                                                                         \
  }                                                                                                                      \
  const Entries<T> name{VB / sizeof(T), product_##name, soften_##name, unsoften_##name, place_##name, collect_##name};

LEVELS(LEVEL)

template <typename T> const Entries<T> &entries();
CHOOSE(float)
CHOOSE(double)

// ---- tiles -------------------------------------------------------------------------------------------

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// What a pass of a thread works in: pieces of one block of memory, each at a cache line.
template <typename T> struct Workspace {
  std::vector<T> memory;
  T *next = nullptr;
  explicit Workspace(int64_t values, int64_t pieces) : memory(values + (pieces + 1) * 16) {
    const auto at = reinterpret_cast<uintptr_t>(memory.data());
    next = memory.data() + (64 - at % 64) % 64 / sizeof(T);
  }
  T *take(int64_t values) {
    T *p = next;
    next += round_up(values, 16);
    return p;
  }
};

template <typename T> struct Pass {
  const Attention<T> &a;
  const Entries<T> &run = entries<T>();
  int64_t QB, KB, rows; // queries and keys of a tile, rows of rel_h
  bool copies;          // keys and values of a tile are brought together: it pays when many queries read them

  explicit Pass(const Attention<T> &a) : a(a) {
    const int64_t most = a.queries ? round_up(a.queries, run.lanes) : 64;
    QB = std::min(most, round_up(a.N, run.lanes));
    KB = std::min(a.M, a.keys ? a.keys : std::max<int64_t>(64, 2048 / QB));
    rows = a.rel_h ? a.M / a.columns : 0;
    copies = QB >= 32;
  }
  int64_t blocks() const { return (a.N + QB - 1) / QB; }

  // (lanes of rows) from rows of width d: to[c][i] = from[i][c]·factor, zeros behind the last row.
  void across(const T *from, int64_t step, int64_t count, int64_t d, T factor, T *to) const {
    for (int64_t i = 0; i < count; i++)
      for (int64_t c = 0; c < d; c++) to[c * QB + i] = from[i * step + c] * factor;
    for (int64_t i = count; i < QB; i++)
      for (int64_t c = 0; c < d; c++) to[c * QB + i] = 0;
  }
  // And back.
  void along(const T *from, int64_t count, int64_t d, T factor, T *to, int64_t step) const {
    for (int64_t i = 0; i < count; i++)
      for (int64_t c = 0; c < d; c++) to[i * step + c] = from[c * QB + i] * factor;
  }
  static void copy(const T *from, int64_t step, int64_t count, int64_t d, T factor, T *to, int64_t width) {
    for (int64_t i = 0; i < count; i++) {
      for (int64_t c = 0; c < d; c++) to[i * width + c] = from[i * step + c] * factor;
      std::fill(to + i * width + d, to + (i + 1) * width, T(0));
    }
  }

  // Rows of a tile, as they lie or copied.
  Rows<const T> gather(const Rows<const T> &x, const T *from, int64_t count, int64_t width, T *to) const {
    if (!copies) return {from, 0, 0, x.row};
    for (int64_t i = 0; i < count; i++) std::copy(from + i * x.row, from + i * x.row + width, to + i * width);
    return {to, 0, 0, width};
  }

  // The logits of some keys.
  void logits(const Tile<T> &t, const Rows<const T> &k, const T *q, const T *rel_h, const T *rel_w, int64_t key) const {
    if (rows) run.place(t, rel_h, rel_w, key, a.columns);
    run.product({t.keys, QB, a.d, k.p, k.row, 1, q, QB, t.s, QB, rows > 0});
  }
};

} // namespace

template <typename T> int64_t forward_tasks(const Attention<T> &a) { return a.B * a.H * Pass<T>(a).blocks(); }

template <typename T> void forward(const Attention<T> &a, int64_t from, int64_t to) {
  const Pass<T> pass(a);
  const int64_t QB = pass.QB, KB = pass.KB, blocks = pass.blocks();
  Workspace<T> work(QB * (a.d + a.e + KB + pass.rows + a.columns + 2) + KB * (a.d + a.e), 9);
  T *q = work.take(a.d * QB), *o = work.take(a.e * QB), *s = work.take(KB * QB), *greatest = work.take(QB), *sum = work.take(QB);
  T *rel_h = work.take(pass.rows * QB), *rel_w = work.take(a.columns * QB), *kt = work.take(KB * a.d), *vt = work.take(KB * a.e);
  for (int64_t task = from; task < to; task++) {
    const int64_t head = task / blocks, b = head / a.H, h = head % a.H, i = task % blocks * QB, count = std::min(QB, a.N - i);
    pass.across(a.q.at(b, h) + i * a.q.row, a.q.row, count, a.d, a.scale * T(log2e), q);
    if (pass.rows) {
      pass.across(a.rel_h.at(b, h) + i * a.rel_h.row, a.rel_h.row, count, pass.rows, log2e, rel_h);
      pass.across(a.rel_w.at(b, h) + i * a.rel_w.row, a.rel_w.row, count, a.columns, log2e, rel_w);
    }
    for (int64_t j = 0; j < a.M; j += KB) {
      const Tile<T> t{std::min(KB, a.M - j), QB, s};
      const auto k = pass.gather(a.k, a.k.at(b, h) + j * a.k.row, t.keys, a.d, kt);
      const auto v = pass.gather(a.v, a.v.at(b, h) + j * a.v.row, t.keys, a.e, vt);
      pass.logits(t, k, q, rel_h, rel_w, j);
      pass.run.soften(t, greatest, sum, o, a.e, j == 0);
      pass.run.product({a.e, QB, t.keys, v.p, 1, v.row, s, QB, o, QB, j > 0});
    }
    T *y = a.y.at(b, h) + i * a.y.row, *lse = a.lse + head * a.N + i;
    for (int64_t r = 0; r < count; r++) {
      const T share = 1 / sum[r];
      for (int64_t c = 0; c < a.e; c++) y[r * a.y.row + c] = o[c * QB + r] * share;
      lse[r] = greatest[r] + std::log2(sum[r]);
    }
  }
}

template <typename T> void backward(const Attention<T> &a, const Gradients<T> &to, int64_t from, int64_t last) {
  const Pass<T> pass(a);
  const int64_t QB = pass.QB, KB = pass.KB, dw = round_up(a.d, pass.run.lanes), ew = round_up(a.e, pass.run.lanes);
  Workspace<T> work(QB * (2 * a.d + a.e + dw + ew + 2 * KB + 2 * (pass.rows + a.columns) + 2) + KB * (a.d + a.e) + a.M * (dw + ew), 17);
  T *q = work.take(a.d * QB), *g = work.take(a.e * QB), *dq = work.take(a.d * QB), *q_rows = work.take(dw * QB), *g_rows = work.take(ew * QB);
  T *s = work.take(KB * QB), *ds = work.take(KB * QB), *lse = work.take(QB), *mean = work.take(QB);
  T *rel_h = work.take(pass.rows * QB), *rel_w = work.take(a.columns * QB), *drel_h = work.take(pass.rows * QB), *drel_w = work.take(a.columns * QB);
  T *kt = work.take(KB * a.d), *vt = work.take(KB * a.e), *dk = work.take(a.M * dw), *dv = work.take(a.M * ew);
  for (int64_t head = from; head < last; head++) {
    const int64_t b = head / a.H, h = head % a.H;
    std::fill(dk, dk + a.M * dw, T(0));
    std::fill(dv, dv + a.M * ew, T(0));
    for (int64_t i = 0; i < a.N; i += QB) {
      const int64_t count = std::min(QB, a.N - i);
      const T *qi = a.q.at(b, h) + i * a.q.row, *gi = to.g.at(b, h) + i * to.g.row, *yi = a.y.at(b, h) + i * a.y.row;
      pass.across(qi, a.q.row, count, a.d, a.scale * T(log2e), q);
      pass.across(gi, to.g.row, count, a.e, 1, g);
      pass.copy(qi, a.q.row, count, a.d, a.scale, q_rows, dw);
      pass.copy(gi, to.g.row, count, a.e, 1, g_rows, ew);
      if (pass.rows) {
        pass.across(a.rel_h.at(b, h) + i * a.rel_h.row, a.rel_h.row, count, pass.rows, log2e, rel_h);
        pass.across(a.rel_w.at(b, h) + i * a.rel_w.row, a.rel_w.row, count, a.columns, log2e, rel_w);
        std::fill(drel_h, drel_h + pass.rows * QB, T(0));
        std::fill(drel_w, drel_w + a.columns * QB, T(0));
      }
      for (int64_t r = 0; r < QB; r++) {
        lse[r] = r < count ? a.lse[head * a.N + i + r] : 0;
        mean[r] = 0;
        for (int64_t c = 0; r < count && c < a.e; c++) mean[r] += g_rows[r * ew + c] * yi[r * a.y.row + c];
      }
      for (int64_t j = 0; j < a.M; j += KB) {
        const Tile<T> t{std::min(KB, a.M - j), QB, s};
        const auto k = pass.gather(a.k, a.k.at(b, h) + j * a.k.row, t.keys, a.d, kt);
        const auto v = pass.gather(a.v, a.v.at(b, h) + j * a.v.row, t.keys, a.e, vt);
        pass.logits(t, k, q, rel_h, rel_w, j);
        pass.run.product({t.keys, QB, a.e, v.p, v.row, 1, g, QB, ds, QB, false});
        pass.run.unsoften(t, lse, mean, ds);
        if (to.v) pass.run.product({t.keys, ew, count, s, QB, 1, g_rows, ew, dv + j * ew, ew, true});
        if (to.k) pass.run.product({t.keys, dw, count, ds, QB, 1, q_rows, dw, dk + j * dw, dw, true});
        if (to.q) pass.run.product({a.d, QB, t.keys, k.p, 1, k.row, ds, QB, dq, QB, j > 0});
        if (to.rel_h) pass.run.collect({t.keys, QB, ds}, drel_h, drel_w, j, a.columns);
      }
      if (to.q) pass.along(dq, count, a.d, a.scale, to.q.at(b, h) + i * to.q.row, to.q.row);
      if (to.rel_h) {
        pass.along(drel_h, count, pass.rows, 1, to.rel_h.at(b, h) + i * to.rel_h.row, to.rel_h.row);
        pass.along(drel_w, count, a.columns, 1, to.rel_w.at(b, h) + i * to.rel_w.row, to.rel_w.row);
      }
    }
    for (int64_t j = 0; j < a.M; j++) {
      if (to.k) std::copy(dk + j * dw, dk + j * dw + a.d, to.k.at(b, h) + j * to.k.row);
      if (to.v) std::copy(dv + j * ew, dv + j * ew + a.e, to.v.at(b, h) + j * to.v.row);
    }
  }
}

#define FOR(T)                                                                                                           \
  template int64_t forward_tasks<T>(const Attention<T> &);                                                               \
  template void forward<T>(const Attention<T> &, int64_t, int64_t);                                                      \
  template void backward<T>(const Attention<T> &, const Gradients<T> &, int64_t, int64_t);
FOR(float)
FOR(double)

} // namespace kernels
