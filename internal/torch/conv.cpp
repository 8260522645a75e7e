// Direct 3-D convolutions. Work goes slab by slab (conv_simd.h): a slab of the input fits into a core's own cache, and a
// block of outputs is added up in registers over all channels and taps.
#include "conv_simd.h"

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
};

#define LEVEL(name, T, VB, target)                                                                                       \
  target void positions1_##name(int o, const Positions<T> &a) { positions_of<T, VB, 1>(o, a); }                          \
  target void positions3_##name(int o, const Positions<T> &a) { positions_of<T, VB, 3>(o, a); }                          \
  target void products1_##name(int o, const Products<T> &a) { products_of<T, VB, 1>(o, a); }                             \
  target void products3_##name(int o, const Products<T> &a) { products_of<T, VB, 3>(o, a); }                             \
  target void put_row_##name(const T *x, T *y, int64_t n, T add) { put_row<T, VB>(x, y, n, add); }                       \
  const Entries<T> name{VB == 64 ? 8 : 4, VB / sizeof(T), {positions1_##name, positions3_##name},                        \
                        {products1_##name, products3_##name}, put_row_##name};

LEVELS(LEVEL)

template <typename T> const Entries<T> &entries();
CHOOSE(float)
CHOOSE(double)

// ---- slabs ------------------------------------------------------------------------------------------

// How a convolution is cut: chunks of planes and of rows of the output.
struct Cut {
  int64_t planes, rows;
  int64_t over_planes(const Conv &c) const { return (c.D + planes - 1) / planes; }
  int64_t over_rows(const Conv &c) const { return (c.H + rows - 1) / rows; }
  int64_t tasks(const Conv &c) const { return c.B * over_planes(c) * over_rows(c); }
};

// Vectors may run over the end of the last row.
constexpr int64_t lead = 16, tail = 16;

// The slab for so many rows of output, with rows - 1 + kh of input, or without margin for gradients.
Slab slab(const Conv &c, int64_t planes, int64_t rows) {
  Slab s;
  s.pitch = c.W + (c.kw > 1);
  s.lead = lead;
  s.plane = (lead + rows * s.pitch + tail + 15) / 16 * 16;
  s.channel = s.plane * planes;
  return s;
}

// The cut that reads least (neighbouring slabs share rows and planes) among those with so many bytes for a channel.
template <typename T> Cut cut(const Conv &c, int64_t bytes) {
  Cut best{1, 1};
  double least = 1e300;
  for (int64_t planes = c.D; planes > 0; planes--) {
    if (c.D % planes && planes > 1) continue;
    const int64_t in = std::min(c.D, planes + c.kd - 1);
    for (int64_t rows = 1; rows <= c.H; rows++) {
      if (slab(c, in, rows + c.kh - 1).channel * int64_t(sizeof(T)) > bytes) break;
      const int64_t chunks = (c.H + rows - 1) / rows;
      const double cost = double(in) / planes * double(c.H + chunks * (c.kh - 1) + chunks * 0.2) / c.H;
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

// Fills a channel of a slab with rows [h, h+rows) of planes [d, d+planes) of a map; what lies outside the map is 0.
template <typename T>
void fill(const Conv &c, const Slab &s, const T *map, int64_t d, int64_t planes, int64_t h, int64_t rows, T *out) {
  for (int64_t p = 0; p < planes; p++) {
    T *plane = out + p * s.plane;
    if (d + p < 0 || d + p >= c.D) {
      std::fill(plane, plane + s.plane, T(0));
      continue;
    }
    std::fill(plane, plane + s.lead, T(0));
    T *row = plane + s.lead;
    for (int64_t r = 0; r < rows; r++, row += s.pitch) {
      if (h + r < 0 || h + r >= c.H) {
        std::fill(row, row + s.pitch, T(0));
        continue;
      }
      std::copy_n(map + ((d + p) * c.H + h + r) * c.W, c.W, row);
      if (s.pitch > c.W) row[c.W] = 0;
    }
    std::fill(row, plane + s.plane, T(0));
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

template <typename T> int64_t packed_size(const Conv &c) { return c.C * c.O * c.taps(); }

template <typename T> void pack(const Conv &c, const T *w, bool back, T *packed) {
  const int64_t ins = back ? c.O : c.C, outs = back ? c.C : c.O;
  const int taps = c.taps();
  blocks(outs, entries<T>().outputs, [&](int64_t o, int size) {
    for (int64_t i = 0; i < ins; i++)
      for (int t = 0; t < taps; t++)
        for (int k = 0; k < size; k++)
          *packed++ = back ? w[(i * c.C + o + k) * taps + taps - 1 - t] : w[((o + k) * c.C + i) * taps + t];
  });
}

template <typename T> int64_t conv_tasks(const Conv &c) { return cut<T>(c, slab_bytes / c.C).tasks(c); }

template <typename T>
void conv(const Conv &c, Maps<const T> x, const T *packed, const T *bias, Maps<T> y, int64_t from, int64_t to) {
  const auto &e = entries<T>();
  const Cut k = cut<T>(c, slab_bytes / c.C);
  const int pd = c.kd / 2, ph = c.kh / 2, pw = c.kw / 2;
  const Slab s = slab(c, k.planes + c.kd - 1, k.rows + c.kh - 1);
  const int64_t ostep = (k.rows * s.pitch + 3 * 16 + 15) / 16 * 16;
  const auto in = buffer<T>(s.channel * c.C), out = buffer<T>(most * ostep);
  int64_t rows[9];
  for (int64_t task = from; task < to; task++) {
    const int64_t h = task % k.over_rows(c) * k.rows, d = task / k.over_rows(c) % k.over_planes(c) * k.planes,
                  b = task / k.over_rows(c) / k.over_planes(c);
    const int64_t nh = std::min(k.rows, c.H - h), nd = std::min(k.planes, c.D - d);
    for (int64_t i = 0; i < c.C; i++) {
      fill(c, s, x[b * c.C + i], d - pd, nd + c.kd - 1, h - ph, nh + c.kh - 1, in.get() + i * s.channel);
    }
    const T *w = packed;
    blocks(c.O, e.outputs, [&](int64_t o, int size) {
      for (int64_t p = 0; p < nd; p++) {
        // Planes outside the map are left out.
        const int first = std::max<int64_t>(0, pd - (d + p)), last = std::min<int64_t>(c.kd, c.D + pd - (d + p));
        int n = 0;
        for (int i = first; i < last; i++)
          for (int j = 0; j < c.kh; j++) rows[n++] = (p + i) * s.plane + j * s.pitch + s.lead - pw;
        e.positions[c.kw > 1](size, {in.get(), s.channel, c.C, rows, n, w + first * c.kh * c.kw * size,
                                     int64_t(c.taps()) * size, out.get(), ostep, nh * s.pitch});
        for (int q = 0; q < size; q++) {
          const T add = bias ? bias[o + q] : T(0);
          T *map = y[b * c.O + o + q] + ((d + p) * c.H + h) * c.W;
          const T *row = out.get() + q * ostep;
          for (int64_t r = 0; r < nh; r++, row += s.pitch, map += c.W)
            e.put_row(row, map, c.W, add);
        }
      }
      w += c.C * c.taps() * size;
    });
  }
}

template <typename T> void conv_weights(const Conv &c, Maps<const T> x, Maps<const T> g, T *dw, int64_t from, int64_t to) {
  const auto &e = entries<T>();
  const Cut k = cut<T>(c, map_bytes);
  const int pd = c.kd / 2, ph = c.kh / 2, pw = c.kw / 2;
  const Slab s = slab(c, k.planes + c.kd - 1, k.rows + c.kh - 1), gs = slab(c, k.planes, k.rows);
  const auto in = buffer<T>(s.channel * (to - from)), out = buffer<T>(gs.channel * c.O);
  for (int64_t b = 0; b < c.B; b++)
    for (int64_t d = 0; d < c.D; d += k.planes)
      for (int64_t h = 0; h < c.H; h += k.rows) {
        const int64_t nh = std::min(k.rows, c.H - h), nd = std::min(k.planes, c.D - d);
        for (int64_t i = from; i < to; i++) {
          fill(c, s, x[b * c.C + i], d - pd, nd + c.kd - 1, h - ph, nh + c.kh - 1, in.get() + (i - from) * s.channel);
        }
        for (int64_t o = 0; o < c.O; o++)
          fill<T>(c, gs, g[b * c.O + o], d, nd, h, nh, out.get() + o * gs.channel);
        blocks(c.O, e.outputs, [&](int64_t o, int size) {
          for (int64_t i = from; i < to; i++)
            for (int kd = 0; kd < c.kd; kd++) {
              const int64_t first = std::max<int64_t>(0, pd - kd - d), last = std::min<int64_t>(nd, c.D + pd - kd - d);
              if (last <= first) continue;
              for (int kh = 0; kh < c.kh; kh++)
                e.products[c.kw > 1](size, {in.get() + (i - from) * s.channel + (first + kd) * s.plane + kh * s.pitch + s.lead - pw,
                                            out.get() + o * gs.channel + first * gs.plane + gs.lead, s.plane, gs.plane, gs.channel,
                                            last - first, nh * s.pitch,
                                            dw + ((o * c.C + i) * c.kd + kd) * c.kh * c.kw + kh * c.kw, c.C * c.taps()});
            }
        });
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
