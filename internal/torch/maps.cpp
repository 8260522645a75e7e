// What networks do to every value of a map, each in one pass: GELU, means of cells, windows that are put together.
#include "kernels.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace kernels {
namespace {

constexpr double root_2pi = 2.50662827463100050;

// Φ(x) and e^(-x²/2). Above |x| the share is e^(-x²/2)·q(u) with u = 0.44·|x| / (1 + 0.44·|x|): the form of Abramowitz &
// Stegun 7.1.26, in an argument that rounding leaves exact near 0. The polynomial is fitted; Φ is off by 5e-8 at most.
template <int VB, typename V> INLINE V normal(V x, V &e) {
  constexpr float q[] = {0.5f, -0.906686723f, 0.384619713f, 0.115135282f, -0.0508397855f, -0.0402667671f, -0.0389793105f, 0.0374222063f};
  V size = x > 0 ? x : -x;
  size = size > 32 ? V{} + 32 : size; // infinity, too
  const V t = 0.44f * size, u = t / (1 + t);
  e = exp2<float, VB>(x * x * -0.72134752f); // log₂e / 2
  V above = V{} + q[7];
#pragma GCC unroll 8
  for (int i = 6; i >= 0; i--) above = above * u + q[i];
  above *= e;
  return x > 0 ? 1 - above : above;
}

template <typename T, int VB> INLINE void gelu_of(int64_t n, const T *x, T *y) {
  int64_t i = 0;
  if constexpr (sizeof(T) == 4) {
    typedef typename Vec<T, VB>::V V;
    constexpr int L = Vec<T, VB>::n;
    V e;
    for (; i + L <= n; i += L) *(V *)(y + i) = *(const V *)(x + i) * normal<VB>(*(const V *)(x + i), e);
    if (i == n) return;
    V rest{};
    memcpy(&rest, x + i, (n - i) * sizeof(T));
    rest *= normal<VB>(rest, e);
    memcpy(y + i, &rest, (n - i) * sizeof(T));
  } else {
    for (; i < n; i++) y[i] = x[i] * T(0.5) * std::erfc(-x[i] * T(M_SQRT1_2));
  }
}

template <typename T, int VB> INLINE void gelu_back_of(int64_t n, const T *x, const T *g, T *gx) {
  int64_t i = 0;
  if constexpr (sizeof(T) == 4) {
    typedef typename Vec<T, VB>::V V;
    constexpr int L = Vec<T, VB>::n;
    const auto slope = [](V x) __attribute__((always_inline)) {
      V e;
      const V whole = normal<VB>(x, e);
      return whole + x * e * float(1 / root_2pi);
    };
    for (; i + L <= n; i += L) *(V *)(gx + i) = *(const V *)(g + i) * slope(*(const V *)(x + i));
    if (i == n) return;
    V rest{}, incoming{};
    memcpy(&rest, x + i, (n - i) * sizeof(T));
    memcpy(&incoming, g + i, (n - i) * sizeof(T));
    rest = incoming * slope(rest);
    memcpy(gx + i, &rest, (n - i) * sizeof(T));
  } else {
    for (; i < n; i++)
      gx[i] = g[i] * (T(0.5) * std::erfc(-x[i] * T(M_SQRT1_2)) + x[i] * std::exp(x[i] * x[i] * T(-0.5)) * T(1 / root_2pi));
  }
}

// Cells of an axis.
int64_t first(int64_t i, int64_t size, int64_t cells) { return i * size / cells; }
int64_t last(int64_t i, int64_t size, int64_t cells) { return ((i + 1) * size + cells - 1) / cells; }

template <typename T, int VB> INLINE void plus(int64_t n, const T *x, T *y) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  int64_t i = 0;
  for (; i + L <= n; i += L) *(V *)(y + i) = *(const V *)(y + i) + *(const V *)(x + i);
  for (; i < n; i++) y[i] += x[i];
}

template <typename T, int VB> INLINE T sum_of(int64_t n, const T *x) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  V a{};
  int64_t i = 0;
  for (; i + L <= n; i += L) a += *(const V *)(x + i);
  T s = total<T, VB>(a);
  for (; i < n; i++) s += x[i];
  return s;
}

template <typename T, int VB> INLINE void pool_of(const Pool &k, const T *x, T *y, T *row) {
  for (int64_t i = 0; i < k.h; i++) {
    const int64_t top = first(i, k.H, k.h), end = last(i, k.H, k.h);
    std::copy(x + top * k.W, x + (top + 1) * k.W, row);
    for (int64_t r = top + 1; r < end; r++) plus<T, VB>(k.W, x + r * k.W, row);
    for (int64_t j = 0; j < k.w; j++) {
      const int64_t left = first(j, k.W, k.w), right = last(j, k.W, k.w);
      y[i * k.w + j] = sum_of<T, VB>(right - left, row + left) / T((end - top) * (right - left));
    }
  }
}

// row has room for a row of the map.
template <typename T, int VB> INLINE void pool_back_of(const Pool &k, const T *g, T *gx, T *row) {
  int64_t done = 0; // rows that are set
  for (int64_t i = 0; i < k.h; i++) {
    const int64_t top = first(i, k.H, k.h), end = last(i, k.H, k.h);
    std::fill(row, row + k.W, T(0));
    for (int64_t j = 0; j < k.w; j++) {
      const int64_t left = first(j, k.W, k.w), right = last(j, k.W, k.w);
      const T each = g[i * k.w + j] / T((end - top) * (right - left));
      for (int64_t c = left; c < right; c++) row[c] += each;
    }
    for (int64_t r = top; r < end; r++) {
      if (r < done) plus<T, VB>(k.W, row, gx + r * k.W);
      else std::copy(row, row + k.W, gx + r * k.W);
    }
    done = end;
  }
}

template <typename T, int VB> INLINE void weave_of(int64_t n, const T *even, const T *odd, T add, T *y) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    V a = *(const V *)(even + i) + add, b = *(const V *)(odd + i) + add;
    zip<T, VB>(a, b);
    *(V *)(y + 2 * i) = a;
    *(V *)(y + 2 * i + L) = b;
  }
  for (; i < n; i++) y[2 * i] = even[i] + add, y[2 * i + 1] = odd[i] + add;
}

template <typename T, int VB> INLINE T unweave_of(int64_t n, const T *y, T *even, T *odd) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  V all{};
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    V a = *(const V *)(y + 2 * i), b = *(const V *)(y + 2 * i + L);
    unzip<T, VB>(a, b);
    *(V *)(even + i) = a;
    *(V *)(odd + i) = b;
    all += a + b;
  }
  T sum = total<T, VB>(all);
  for (; i < n; i++) {
    even[i] = y[2 * i], odd[i] = y[2 * i + 1];
    sum += y[2 * i] + y[2 * i + 1];
  }
  return sum;
}

template <typename T> struct Entries {
  void (*gelu)(int64_t, const T *, T *);
  void (*gelu_back)(int64_t, const T *, const T *, T *);
  void (*pool)(const Pool &, const T *, T *, T *);
  void (*pool_back)(const Pool &, const T *, T *, T *);
  void (*weave)(int64_t, const T *, const T *, T, T *);
  T (*unweave)(int64_t, const T *, T *, T *);
};

#define LEVEL(name, T, VB, target)                                                                                       \
  target void gelu_##name(int64_t n, const T *x, T *y) { gelu_of<T, VB>(n, x, y); }                                      \
  target void gelu_back_##name(int64_t n, const T *x, const T *g, T *gx) { gelu_back_of<T, VB>(n, x, g, gx); }           \
  target void pool_##name(const Pool &k, const T *x, T *y, T *row) { pool_of<T, VB>(k, x, y, row); }                     \
  target void pool_back_##name(const Pool &k, const T *g, T *gx, T *row) { pool_back_of<T, VB>(k, g, gx, row); }         \
  target void weave_##name(int64_t n, const T *even, const T *odd, T add, T *y) { weave_of<T, VB>(n, even, odd, add, y); } \
  target T unweave_##name(int64_t n, const T *y, T *even, T *odd) { return unweave_of<T, VB>(n, y, even, odd); }         \
  const Entries<T> name{gelu_##name, gelu_back_##name, pool_##name, pool_back_##name, weave_##name, unweave_##name};
LEVELS(LEVEL)

template <typename T> const Entries<T> &entries();
CHOOSE(float)
CHOOSE(double)

} // namespace

template <typename T> void gelu(int64_t n, const T *x, T *y) { entries<T>().gelu(n, x, y); }
template <typename T> void gelu_back(int64_t n, const T *x, const T *g, T *gx) { entries<T>().gelu_back(n, x, g, gx); }
template <typename T> void pool(const Pool &k, const T *x, T *y) {
  std::vector<T> row(k.W);
  entries<T>().pool(k, x, y, row.data());
}
template <typename T> void pool_back(const Pool &k, const T *g, T *gx) {
  std::vector<T> row(k.W);
  entries<T>().pool_back(k, g, gx, row.data());
}
template <typename T> void weave(int64_t n, const T *even, const T *odd, T add, T *y) { entries<T>().weave(n, even, odd, add, y); }
template <typename T> T unweave(int64_t n, const T *y, T *even, T *odd) { return entries<T>().unweave(n, y, even, odd); }

#define INSTANCES(T)                                                                                                     \
  template void gelu<T>(int64_t, const T *, T *);                                                                        \
  template void gelu_back<T>(int64_t, const T *, const T *, T *);                                                        \
  template void pool<T>(const Pool &, const T *, T *);                                                                   \
  template void pool_back<T>(const Pool &, const T *, T *);                                                              \
  template void weave<T>(int64_t, const T *, const T *, T, T *);                                                         \
  template T unweave<T>(int64_t, const T *, T *, T *);
INSTANCES(float)
INSTANCES(double)

} // namespace kernels
