// Convolutions by Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray 2016, "Fast algorithms for convolutional neural
// networks"): a tile of 4×4 outputs takes 36 products in place of 144. Work goes by tiles side by side whose transforms,
// of all channels, fit into a core's second cache.
#include "winograd.h"
#include "conv_simd.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

namespace kernels {
namespace winograd {
namespace {

constexpr int64_t cache = 1280 << 10; // bytes of transforms
constexpr int64_t most = 16;          // values of a vector

// ph[j][t] = row[4t + j]
template <typename T, int VB> INLINE void split(const T *row, T *const *ph, int64_t n) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  for (int64_t i = 0; i < n; i += L, row += 4 * L) {
    V a = *(const V *)row, b = *(const V *)(row + L), c = *(const V *)(row + 2 * L), d = *(const V *)(row + 3 * L);
    unzip<T, VB>(a, b);
    unzip<T, VB>(c, d);
    unzip<T, VB>(a, c);
    unzip<T, VB>(b, d);
    *(V *)(ph[0] + i) = a;
    *(V *)(ph[1] + i) = b;
    *(V *)(ph[2] + i) = c;
    *(V *)(ph[3] + i) = d;
  }
}

template <typename T, int VB> INLINE void join(const T *const *ph, T *row, int64_t n) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  for (int64_t i = 0; i < n; i += L, row += 4 * L) {
    V a = *(const V *)(ph[0] + i), b = *(const V *)(ph[1] + i), c = *(const V *)(ph[2] + i), d = *(const V *)(ph[3] + i);
    zip<T, VB>(a, c);
    zip<T, VB>(b, d);
    zip<T, VB>(a, b);
    zip<T, VB>(c, d);
    *(V *)row = a;
    *(V *)(row + L) = b;
    *(V *)(row + 2 * L) = c;
    *(V *)(row + 3 * L) = d;
  }
}

template <typename T, int VB> INLINE void positions_of(int outputs, const Positions<T> &a) {
  switch (outputs) {
  case 1: return positions<T, VB, 1, 1>(a);
  case 2: return positions<T, VB, 2, 1>(a);
  case 3: return positions<T, VB, 3, 1>(a);
  case 4: return positions<T, VB, 4, 1>(a);
  default:
    if constexpr (VB == 64) return positions<T, VB, 8, 1>(a);
  }
}

template <typename T> struct Entries {
  int outputs; // of a block, at most
  void (*positions)(int, const Positions<T> &);
  void (*lift)(const T *const *, T *, int64_t, int64_t);
  void (*lower)(const T *, int64_t, T *const *, int64_t, T);
  void (*split)(const T *, T *const *, int64_t);
  void (*join)(const T *const *, T *, int64_t);
};

#define LEVEL(name, T, VB, target)                                                                                       \
  target void positions_##name(int o, const Positions<T> &a) { positions_of<T, VB>(o, a); }                              \
  target void lift_##name(const T *const *d, T *out, int64_t step, int64_t n) { lift_input<T, VB>(d, out, step, n); }    \
  target void lower_##name(const T *m, int64_t step, T *const *y, int64_t n, T add) { lower<T, VB>(m, step, y, n, add); } \
  target void split_##name(const T *row, T *const *ph, int64_t n) { split<T, VB>(row, ph, n); }                          \
  target void join_##name(const T *const *ph, T *row, int64_t n) { join<T, VB>(ph, row, n); }                            \
  const Entries<T> name{VB == 64 ? 8 : 4, positions_##name, lift_##name, lower_##name, split_##name, join_##name};
LEVELS(LEVEL)

template <typename T> const Entries<T> &entries();
CHOOSE(float)
CHOOSE(double)

// How a convolution is cut: planes of output, tiles side by side.
struct Cut {
  int64_t planes, tiles, pitch, over_planes, over_rows, over_tiles; // pitch: tiles and what fills up a vector
};

template <typename T> Cut cut(const Conv &c) {
  const int64_t across = (c.W + group - 1) / group, bytes = parts * parts * int64_t(sizeof(T));
  const auto fits = [&](int64_t planes, int64_t tiles) {
    return bytes * tiles * (c.C * std::min(c.D, planes + c.kd - 1) + c.O * planes) <= cache;
  };
  Cut k{c.kd == 1 ? 1 : c.D};
  while (k.planes > 1 && !fits(k.planes, most)) k.planes = (k.planes + 1) / 2;
  for (k.over_tiles = 1; k.over_tiles < (across + most - 1) / most; k.over_tiles++)
    if (fits(k.planes, (across + k.over_tiles - 1) / k.over_tiles)) break;
  k.tiles = (across + k.over_tiles - 1) / k.over_tiles;
  k.tiles = std::min(across, (k.tiles + 7) / 8 * 8);
  k.over_tiles = (across + k.tiles - 1) / k.tiles;
  k.pitch = (k.tiles + most - 1) / most * most;
  k.over_planes = (c.D + k.planes - 1) / k.planes;
  k.over_rows = (c.H + group - 1) / group;
  return k;
}

template <typename T> struct Free {
  void operator()(T *p) const { free(p); }
};
template <typename T> using Buffer = std::unique_ptr<T[], Free<T>>;

template <typename T> Buffer<T> buffer(int64_t n) {
  void *p = aligned_alloc(64, (n * sizeof(T) + 127) / 64 * 64);
  if (!p) throw std::bad_alloc();
  return Buffer<T>(static_cast<T *>(p));
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

bool pays(const Conv &c) { return c.kh == 3 && c.kw == 3 && c.W >= 60 && c.H >= 16 && c.C >= 32 && c.O >= 32; }

int64_t packed_size(const Conv &c) { return parts * parts * c.C * c.O * c.kd; }

// Weights lie by part, block of outputs, channel, plane of the kernel and output.
template <typename T> void pack(const Conv &c, const T *w, bool back, T *packed) {
  const int taps = c.taps();
  const int64_t part = c.C * c.O * c.kd;
  blocks(c.O, entries<T>().outputs, [&](int64_t o, int size) {
    T *to = packed + o * c.C * c.kd;
    for (int64_t i = 0; i < c.C; i++)
      for (int plane = 0; plane < c.kd; plane++)
        for (int k = 0; k < size; k++, to++) {
          const T *g = back ? w + (i * c.O + o + k) * taps + taps - 1 - plane * 9 : w + ((o + k) * c.C + i) * taps + plane * 9;
          const int step = back ? -1 : 1;
          T rows[parts][3];
          for (int p = 0; p < parts; p++)
            for (int j = 0; j < 3; j++)
              rows[p][j] = lifted<T>[p][0] * g[step * j] + lifted<T>[p][1] * g[step * (3 + j)] + lifted<T>[p][2] * g[step * (6 + j)];
          for (int p = 0; p < parts; p++)
            for (int q = 0; q < parts; q++)
              to[(p * parts + q) * part] = lifted<T>[q][0] * rows[p][0] + lifted<T>[q][1] * rows[p][1] + lifted<T>[q][2] * rows[p][2];
        }
  });
}

template <typename T> int64_t conv_tasks(const Conv &c) {
  const Cut k = cut<T>(c);
  return c.B * k.over_planes * k.over_rows * k.over_tiles;
}

template <typename T>
void conv(const Conv &c, Maps<const T> x, const T *packed, const T *bias, Maps<T> y, int64_t from, int64_t to) {
  const auto &e = entries<T>();
  const Cut k = cut<T>(c);
  const int pd = c.kd / 2;
  const int64_t ld = k.pitch, in_planes = k.planes + c.kd - 1, wide = group * (ld + most);
  const int64_t in_part = in_planes * c.C * ld, out_part = k.planes * c.O * ld;
  const auto in = buffer<T>(parts * parts * in_part), out = buffer<T>(parts * parts * out_part);
  const auto rows = buffer<T>(parts * wide), zeros = buffer<T>(c.W), phases = buffer<T>(group * (ld + most)), half = buffer<T>(group * parts * ld);
  std::fill_n(zeros.get(), c.W, T(0));
  T *ph[group];
  for (int i = 0; i < group; i++) ph[i] = phases.get() + i * (ld + most);
  for (int64_t task = from; task < to; task++) {
    int64_t rest = task;
    const auto take = [&](int64_t n) {
      const int64_t i = rest % n;
      rest /= n;
      return i;
    };
    const int64_t first_tile = take(k.over_tiles) * k.tiles, h = take(k.over_rows) * group, d = take(k.over_planes) * k.planes, b = rest;
    const int64_t nd = std::min(k.planes, c.D - d), left = first_tile * group, right = std::min(c.W, left + k.tiles * group);
    // Columns of the input are [left - 1, left - 1 + wide) of a row.
    const int64_t begin = std::max<int64_t>(left - 1, 0), end = std::min(c.W, left + k.tiles * group + 1), margin = begin - (left - 1);
    for (int64_t p = 0; p < parts; p++) {
      std::fill_n(rows.get() + p * wide, margin, T(0));
      std::fill(rows.get() + p * wide + margin + end - begin, rows.get() + (p + 1) * wide, T(0));
    }
    for (int64_t q = 0; q < nd + c.kd - 1; q++) {
      if (d + q - pd < 0 || d + q - pd >= c.D) continue; // no tap reads it
      for (int64_t i = 0; i < c.C; i++) {
        const T *map = x[b * c.C + i] + (d + q - pd) * c.H * c.W, *six[parts];
        for (int r = 0; r < parts; r++) {
          const int64_t at = h - 1 + r;
          six[r] = (at < 0 || at >= c.H ? zeros.get() : map + at * c.W) + begin;
        }
        e.lift(six, rows.get() + margin, wide, end - begin);
        for (int p = 0; p < parts; p++) {
          e.split(rows.get() + p * wide, ph, ld + most);
          const T *columns[parts] = {ph[0], ph[1], ph[2], ph[3], ph[0] + 1, ph[1] + 1};
          e.lift(columns, in.get() + p * parts * in_part + (q * c.C + i) * ld, in_part, ld);
        }
      }
    }
    for (int part = 0; part < parts * parts; part++)
      for (int64_t p = 0; p < nd; p++) {
        const int first = std::max<int64_t>(0, pd - (d + p)), last = std::min<int64_t>(c.kd, c.D + pd - (d + p));
        int64_t planes[3];
        int n = 0;
        for (int i = first; i < last; i++) planes[n++] = (p + i) * c.C * ld;
        blocks(c.O, e.outputs, [&](int64_t o, int size) {
          e.positions(size, {in.get() + part * in_part, ld, c.C, planes, n, packed + (part * c.O + o) * c.C * c.kd + first * size, c.kd * size,
                             out.get() + part * out_part + (p * c.O + o) * ld, ld, k.tiles});
        });
      }
    for (int64_t p = 0; p < nd; p++)
      for (int64_t o = 0; o < c.O; o++) {
        for (int j = 0; j < parts; j++) {
          T *four[group];
          for (int r = 0; r < group; r++) four[r] = half.get() + (r * parts + j) * ld;
          e.lower(out.get() + j * out_part + (p * c.O + o) * ld, parts * out_part, four, ld, T(0));
        }
        for (int64_t r = 0; r < std::min<int64_t>(group, c.H - h); r++) {
          T *to = y[b * c.O + o] + ((d + p) * c.H + h + r) * c.W + left;
          e.lower(half.get() + r * parts * ld, ld, ph, ld, bias ? bias[o] : T(0));
          const bool whole = right - left == ld * group;
          e.join(ph, whole ? to : rows.get(), ld);
          if (!whole) memcpy(to, rows.get(), (right - left) * sizeof(T));
        }
      }
  }
}

#define INSTANCES(T)                                                                                                     \
  template void pack<T>(const Conv &, const T *, bool, T *);                                                             \
  template int64_t conv_tasks<T>(const Conv &);                                                                          \
  template void conv<T>(const Conv &, Maps<const T>, const T *, const T *, Maps<T>, int64_t, int64_t);
INSTANCES(float)
INSTANCES(double)

} // namespace winograd
} // namespace kernels
