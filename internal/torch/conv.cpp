// Direct 3-D convolutions. Work goes slab by slab (conv_simd.h): a slab of the input fits into a core's own cache, and a
// block of outputs is added up in registers over all channels and taps.
#include "conv_simd.h"
#include "winograd.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace kernels {
namespace {

constexpr int64_t slab_bytes = 384 << 10; // of a core's second cache
constexpr int64_t map_bytes = 5 << 10;    // of its first cache, which holds some maps for the gradient of weights
constexpr int64_t most = 8;               // outputs of a block

int find_level() {
#ifdef __x86_64__
  __builtin_cpu_init();
  int best = 1;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = 3;
  if (best == 3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) best = 4;
  // The name that libtorch knows for its own choice.
  if (const char *wanted = getenv("ATEN_CPU_CAPABILITY")) {
    if (!strcmp(wanted, "avx2")) best = std::min(best, 3);
    if (!strcmp(wanted, "default")) best = 1;
  }
  return best;
#else
  return 1;
#endif
}

// ---- entries: one function for each level, kernel width and number type ----------------------------

template <typename T, int VB, int KW> INLINE void positions_of(int ocb, const Positions<T> &a) {
  switch (ocb) {
  case 1: return positions<T, VB, 1, KW>(a);
  case 2: return positions<T, VB, 2, KW>(a);
  case 3: return positions<T, VB, 3, KW>(a);
  case 4: return positions<T, VB, 4, KW>(a);
  default:
    if constexpr (VB == 64) return positions<T, VB, 8, KW>(a);
  }
}

template <typename T, int VB, int KW> INLINE void products_of(int ocb, const Products<T> &a) {
  switch (ocb) {
  case 1: return products<T, VB, 1, KW>(a);
  case 2: return products<T, VB, 2, KW>(a);
  case 3: return products<T, VB, 3, KW>(a);
  case 4: return products<T, VB, 4, KW>(a);
  default:
    if constexpr (VB == 64) return products<T, VB, 8, KW>(a);
  }
}

template <typename T> struct Entries {
  int outputs; // of a block, at most
  int lanes;   // values of a vector
  void (*positions[2])(int, const Positions<T> &); // for kernels of width 1 and 3
  void (*products[2])(int, const Products<T> &);
  void (*put_row)(const T *, T *, int64_t, T);
  void (*lift_input)(const T *const *, T *, int64_t, int64_t);
  void (*lift_gradient)(const T *const *, T *, int64_t, int64_t);
  void (*lower)(const T *, int64_t, T *const *, int64_t, T);
};

#define LEVEL(name, T, VB, target)                                                                                       \
  target void positions1_##name(int o, const Positions<T> &a) { positions_of<T, VB, 1>(o, a); }                          \
  target void positions3_##name(int o, const Positions<T> &a) { positions_of<T, VB, 3>(o, a); }                          \
  target void products1_##name(int o, const Products<T> &a) { products_of<T, VB, 1>(o, a); }                             \
  target void products3_##name(int o, const Products<T> &a) { products_of<T, VB, 3>(o, a); }                             \
  target void put_row_##name(const T *x, T *y, int64_t n, T add) { put_row<T, VB>(x, y, n, add); }                       \
  target void lift_input_##name(const T *const *d, T *out, int64_t step, int64_t n) { lift_input<T, VB>(d, out, step, n); } \
  target void lift_gradient_##name(const T *const *y, T *out, int64_t step, int64_t n) {                                 \
    lift_gradient<T, VB>(y, out, step, n);                                                                               \
  }                                                                                                                      \
  target void lower_##name(const T *m, int64_t step, T *const *y, int64_t n, T add) { lower<T, VB>(m, step, y, n, add); } \
  const Entries<T> name{VB == 64 ? 8 : 4, VB / sizeof(T), {positions1_##name, positions3_##name},                        \
                        {products1_##name, products3_##name}, put_row_##name,      \
                        lift_input_##name, lift_gradient_##name, lower_##name};

LEVELS(LEVEL)

template <typename T> const Entries<T> &entries();
CHOOSE(float)
CHOOSE(double)

// ---- slabs ------------------------------------------------------------------------------------------

// A convolution and whether its rows are transformed.
struct Way : Conv {
  bool lift;
  int parts_of() const { return lift ? parts : 1; }
  int column() const { return lift ? 1 : kh; }
  int taps_of() const { return kd * kw * column(); } // of each part
};

// Transforms pay for maps that are not small, where there are enough channels; they take more of the cache. These are
// measured.
bool pays(const Conv &c) { return c.kh == 3 && c.H * c.W >= 512 && std::min(c.C, c.O) >= 4; }

template <typename T> Way way(const Conv &c) {
  const int64_t group_bytes = c.C * std::min<int64_t>(c.D, c.kd) * parts * (c.W + 48) * sizeof(T);
  return {c, pays(c) && c.C * c.O >= 256 && group_bytes <= 1 << 20};
}

Way way_of_weights(const Conv &c) { return {c, pays(c)}; }

// How a convolution is cut: chunks of planes and of rows of the output.
struct Cut {
  int64_t planes, rows;
  int64_t over_planes(const Conv &c) const { return (c.D + planes - 1) / planes; }
  int64_t over_rows(const Conv &c) const { return (c.H + rows - 1) / rows; }
  int64_t tasks(const Conv &c) const { return c.B * over_planes(c) * over_rows(c); }
};

// Vectors may run over the end of the last row.
constexpr int64_t lead = 16, tail = 16;

// Rows of a slab for so many of output: with those that the kernel reaches, or groups of them.
int64_t rows_of(const Way &c, int64_t rows, bool input) {
  return c.lift ? (rows + group - 1) / group : rows + (input ? c.kh - 1 : 0);
}

Slab slab(const Way &c, int64_t planes, int64_t rows, bool input) {
  Slab s;
  s.pitch = c.W + (c.kw > 1);
  s.lead = lead;
  s.part = (lead + rows_of(c, rows, input) * s.pitch + tail + 15) / 16 * 16;
  s.plane = s.part * c.parts_of();
  s.channel = s.plane * (planes + (input ? c.kd - 1 : 0));
  return s;
}

// The cut that reads least (neighbouring slabs share rows and planes) among those with so many bytes for a channel.
template <typename T> Cut cut(const Way &c, int64_t bytes) {
  const int64_t step = c.lift ? group : 1;
  Cut best{1, step};
  double least = 1e300;
  for (int64_t planes = c.D; planes > 0; planes--) {
    if (c.D % planes && planes > 1) continue;
    for (int64_t rows = step; rows < c.H + step; rows += step) {
      if (slab(c, planes, rows, true).channel * int64_t(sizeof(T)) > bytes) break;
      const int64_t chunks = (c.H + rows - 1) / rows;
      const double cost = double(std::min(c.D, planes + c.kd - 1)) / planes * double(c.H + chunks * (c.kh - 1) + chunks * 0.2) / c.H;
      if (cost < least) least = cost, best = {planes, rows};
    }
  }
  return best;
}

template <typename T> struct Free {
  void operator()(T *p) const { free(p); }
};
template <typename T> using Buffer = std::unique_ptr<T[], Free<T>>;

template <typename T> Buffer<T> buffer(int64_t n) {
  void *p = nullptr;
  if (posix_memalign(&p, 64, std::max<int64_t>(n, 1) * sizeof(T))) throw std::bad_alloc();
  return Buffer<T>(static_cast<T *>(p));
}

// Fills a channel of a slab for rows [h, h+rows) of planes [d, d+planes) of the output; what lies outside the map is 0.
template <typename T>
void fill(const Way &c, const Slab &s, const T *map, int64_t d, int64_t planes, int64_t h, int64_t rows, bool input, const T *zeros, T *out) {
  const auto &e = entries<T>();
  const int64_t margin = input ? c.kh / 2 : 0, n = rows_of(c, rows, input);
  if (input) d -= c.kd / 2, planes += c.kd - 1;
  const auto row_at = [&](int64_t p, int64_t r) {
    return r < 0 || r >= c.H || (!input && r >= h + rows) ? zeros : map + (p * c.H + r) * c.W;
  };
  for (int64_t p = 0; p < planes; p++, out += s.plane) {
    if (d + p < 0 || d + p >= c.D) continue; // no tap reads it
    for (int i = 0; i < c.parts_of(); i++) {
      T *part = out + i * s.part, *end = part + s.part;
      std::fill(part, part + s.lead, T(0));
      part += s.lead;
      if (s.pitch > c.W)
        for (int64_t r = 0; r < n; r++) part[r * s.pitch + c.W] = 0;
      std::fill(part + n * s.pitch, end, T(0));
    }
    T *row = out + s.lead;
    for (int64_t r = 0; r < n; r++, row += s.pitch) {
      if (!c.lift) {
        memcpy(row, row_at(d + p, h + r - margin), c.W * sizeof(T));
        continue;
      }
      const T *from[parts];
      for (int i = 0; i < (input ? parts : group); i++) from[i] = row_at(d + p, h + r * group + i - margin);
      (input ? e.lift_input : e.lift_gradient)(from, row, s.part, c.W);
    }
  }
}

// Blocks of outputs: as many of the largest size as there are, then one with the rest, or two.
template <typename F> void blocks(int64_t n, int64_t largest, F &&f) {
  for (int64_t o = 0; o < n;) {
    const int64_t left = n - o, size = left >= largest ? largest : left >= 4 ? 4 : left;
    f(o, int(size));
    o += size;
  }
}

} // namespace

int level() {
  static const int found = find_level();
  return found;
}

template <typename T> int64_t packed_size(const Conv &conv) {
  if (winograd::pays(conv)) return winograd::packed_size(conv);
  const auto c = way<T>(conv);
  return c.C * c.O * c.taps_of() * c.parts_of();
}

template <typename T> void pack(const Conv &conv, const T *w, bool back, T *packed) {
  if (winograd::pays(conv)) return winograd::pack(conv, w, back, packed);
  const auto c = way<T>(conv);
  const int taps = c.taps(), each = c.taps_of();
  blocks(c.O, entries<T>().outputs, [&](int64_t o, int size) {
    const int64_t part = c.C * each * size;
    for (int64_t i = 0; i < c.C; i++)
      for (int k = 0; k < size; k++) {
        const T *from = back ? w + (i * c.O + o + k) * taps + taps - 1 : w + ((o + k) * c.C + i) * taps;
        const int step = back ? -1 : 1;
        T *to = packed + i * each * size + k;
        for (int t = 0; t < each; t++, to += size) {
          if (!c.lift) {
            *to = from[step * t];
            continue;
          }
          const T *top = from + step * (t / c.kw * 3 * c.kw + t % c.kw);
          const T g0 = top[0], g1 = top[step * c.kw], g2 = top[2 * step * c.kw];
          const T *m = &lifted<T>[0][0];
          for (int p = 0; p < parts; p++, m += 3) to[p * part] = m[0] * g0 + m[1] * g1 + m[2] * g2;
        }
      }
    packed += c.parts_of() * part;
  });
}

template <typename T> int64_t conv_tasks(const Conv &c) {
  if (winograd::pays(c)) return winograd::conv_tasks<T>(c);
  return cut<T>(way<T>(c), slab_bytes / c.C).tasks(c);
}

template <typename T>
void conv(const Conv &what, Maps<const T> x, const T *packed, const T *bias, Maps<T> y, int64_t from, int64_t to) {
  if (winograd::pays(what)) return winograd::conv(what, x, packed, bias, y, from, to);
  const auto c = way<T>(what);
  const auto &e = entries<T>();
  const Cut k = cut<T>(c, slab_bytes / c.C);
  const int pd = c.kd / 2, pw = c.kw / 2, kh = c.column();
  const Slab s = slab(c, k.planes, k.rows, true);
  const int64_t ostep = (rows_of(c, k.rows, false) * s.pitch + 3 * 16 + 15) / 16 * 16, opart = ostep * most;
  const auto in = buffer<T>(s.channel * c.C), out = buffer<T>(opart * c.parts_of()), rest = buffer<T>(2 * c.W);
  std::fill_n(rest.get(), c.W, T(0));
  int64_t rows[9];
  for (int64_t task = from; task < to; task++) {
    const int64_t h = task % k.over_rows(c) * k.rows, d = task / k.over_rows(c) % k.over_planes(c) * k.planes,
                  b = task / k.over_rows(c) / k.over_planes(c);
    const int64_t nh = std::min(k.rows, c.H - h), nd = std::min(k.planes, c.D - d), ns = rows_of(c, nh, false);
    for (int64_t i = 0; i < c.C; i++) fill(c, s, x[b * c.C + i], d, nd, h, nh, true, rest.get(), in.get() + i * s.channel);
    const T *w = packed;
    blocks(c.O, e.outputs, [&](int64_t o, int size) {
      const int64_t wstep = c.taps_of() * size;
      for (int64_t p = 0; p < nd; p++) {
        // Planes outside the map are left out.
        const int first = std::max<int64_t>(0, pd - (d + p)), last = std::min<int64_t>(c.kd, c.D + pd - (d + p));
        for (int part = 0; part < c.parts_of(); part++) {
          int n = 0;
          for (int i = first; i < last; i++)
            for (int j = 0; j < kh; j++) rows[n++] = (p + i) * s.plane + part * s.part + j * s.pitch + s.lead - pw;
          e.positions[c.kw > 1](size, {in.get(), s.channel, c.C, rows, n, w + part * c.C * wstep + first * kh * c.kw * size, wstep,
                                       out.get() + part * opart, ostep, ns * s.pitch});
        }
        for (int q = 0; q < size; q++) {
          const T add = bias ? bias[o + q] : T(0);
          T *map = y[b * c.O + o + q] + ((d + p) * c.H + h) * c.W;
          const T *row = out.get() + q * ostep;
          for (int64_t r = 0; r < ns; r++, row += s.pitch) {
            if (!c.lift) {
              e.put_row(row, map + r * c.W, c.W, add);
              continue;
            }
            T *to[group];
            for (int i = 0; i < group; i++) to[i] = r * group + i < nh ? map + (r * group + i) * c.W : rest.get() + c.W;
            e.lower(row, opart, to, c.W, add);
          }
        }
      }
      w += c.parts_of() * c.C * wstep;
    });
  }
}

template <typename T> void conv_weights(const Conv &what, Maps<const T> x, Maps<const T> g, T *dw, int64_t from, int64_t to) {
  const auto c = way_of_weights(what);
  const auto &e = entries<T>();
  const Cut k = cut<T>(c, map_bytes * c.parts_of());
  const int pd = c.kd / 2, pw = c.kw / 2, kh = c.column();
  const Slab s = slab(c, k.planes, k.rows, true), gs = slab(c, k.planes, k.rows, false);
  const auto in = buffer<T>(s.channel * (to - from)), out = buffer<T>(gs.channel * c.O), zeros = buffer<T>(c.W);
  std::fill_n(zeros.get(), c.W, T(0));
  // Of each output, input channel and part.
  const int64_t sums = c.taps_of() * c.parts_of(), own = (to - from) * sums;
  const auto sum = buffer<T>(c.O * own);
  std::fill_n(sum.get(), c.O * own, T(0));
  for (int64_t b = 0; b < c.B; b++)
    for (int64_t d = 0; d < c.D; d += k.planes)
      for (int64_t h = 0; h < c.H; h += k.rows) {
        const int64_t nh = std::min(k.rows, c.H - h), nd = std::min(k.planes, c.D - d);
        for (int64_t i = from; i < to; i++) fill(c, s, x[b * c.C + i], d, nd, h, nh, true, zeros.get(), in.get() + (i - from) * s.channel);
        for (int64_t o = 0; o < c.O; o++) fill(c, gs, g[b * c.O + o], d, nd, h, nh, false, zeros.get(), out.get() + o * gs.channel);
        blocks(c.O, e.outputs, [&](int64_t o, int size) {
          for (int64_t i = 0; i < to - from; i++)
            for (int part = 0; part < c.parts_of(); part++)
              for (int kd = 0; kd < c.kd; kd++) {
                const int64_t first = std::max<int64_t>(0, pd - kd - d), last = std::min<int64_t>(nd, c.D + pd - kd - d);
                if (last <= first) continue;
                for (int j = 0; j < kh; j++)
                  e.products[c.kw > 1](size, {in.get() + i * s.channel + (first + kd) * s.plane + part * s.part + j * s.pitch + s.lead - pw,
                                              out.get() + o * gs.channel + first * gs.plane + part * gs.part + gs.lead, s.plane, gs.plane,
                                              gs.channel, last - first, rows_of(c, nh, false) * s.pitch,
                                              sum.get() + o * own + i * sums + part * c.taps_of() + (kd * kh + j) * c.kw, own});
              }
        });
      }
  for (int64_t o = 0; o < c.O; o++)
    for (int64_t i = from; i < to; i++)
      for (int t = 0; t < c.taps(); t++) {
        const T *p = sum.get() + o * own + (i - from) * sums;
        T all = 0;
        if (c.lift)
          for (int part = 0; part < parts; part++) all += lifted<T>[part][t / c.kw % 3] * p[part * c.taps_of() + t / c.kw / 3 * c.kw + t % c.kw];
        dw[(o * c.C + i) * c.taps() + t] = c.lift ? all : p[t];
      }
}

#define INSTANCES(T)                                                                                                     \
  template int64_t packed_size<T>(const Conv &);                                                                         \
  template void pack<T>(const Conv &, const T *, bool, T *);                                                             \
  template int64_t conv_tasks<T>(const Conv &);                                                                          \
  template void conv<T>(const Conv &, Maps<const T>, const T *, const T *, Maps<T>, int64_t, int64_t);               \
  template void conv_weights<T>(const Conv &, Maps<const T>, Maps<const T>, T *, int64_t, int64_t);
INSTANCES(float)
INSTANCES(double)

} // namespace kernels
