// Instance norm with the activation behind it, and layer norm, forward and backward, a map or a row at a time: each reads its
// map from memory once, the second time from a cache.
#include "kernels.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kernels {
namespace {

constexpr int64_t some = 2048; // values that are added up in T; sums of these in double

template <typename T, int VB> INLINE void moments(const T *y, int64_t n, double &mean, double &square) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  mean = square = 0;
  for (int64_t i = 0; i < n; i += some) {
    const int64_t m = std::min(some, n - i), whole = m / (2 * L) * (2 * L);
    const T *p = y + i;
    V a{}, b{};
    for (int64_t j = 0; j < whole; j += 2 * L) a += *(const V *)(p + j), b += *(const V *)(p + j + L);
    T sum = total<T, VB>(a + b);
    for (int64_t j = whole; j < m; j++) sum += p[j];
    const T middle = sum / m;
    V u{}, v{};
    for (int64_t j = 0; j < whole; j += 2 * L) {
      const V d = *(const V *)(p + j) - middle, e = *(const V *)(p + j + L) - middle;
      u += d * d;
      v += e * e;
    }
    T squares = total<T, VB>(u + v);
    for (int64_t j = whole; j < m; j++) squares += (p[j] - middle) * (p[j] - middle);
    // Chan, Golub and LeVeque 1983: moments of two parts together.
    const double there = double(sum) / m, delta = there - mean, all = double(i + m);
    mean += delta * m / all;
    square += squares + delta * delta * double(i) * m / all;
  }
}

template <typename T, int VB> INLINE void norm_of(Norm<T> &k, double eps, const T *y, T *z) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  double mean, square;
  moments<T, VB>(y, k.n, mean, square);
  k.mean = T(mean);
  k.rstd = T(1 / std::sqrt(square / k.n + eps));
  const T middle = k.mean, scale = k.rstd * k.gamma, beta = k.beta, slope = k.slope;
  int64_t i = 0;
  for (; i + L <= k.n; i += L) {
    const V v = (*(const V *)(y + i) - middle) * scale + beta;
    *(V *)(z + i) = v > 0 ? v : v * slope;
  }
  for (; i < k.n; i++) {
    const T v = (y[i] - middle) * scale + beta;
    z[i] = v > 0 ? v : v * slope;
  }
}

// What a value says of the normalised one, and the gradient behind the activation.
template <typename T, bool inverse> struct Back {
  T a, b, slope, up, gamma, beta;
  explicit Back(const Norm<T> &k)
      : a(inverse ? 1 / k.gamma : k.rstd), b(inverse ? k.beta : k.mean), slope(k.slope), up(1 / k.slope), gamma(k.gamma), beta(k.beta) {}
  template <typename V> INLINE void operator()(const V &s, const V &g, V &normal, V &incoming) const {
    if constexpr (inverse) {
      normal = ((s > 0 ? s : s * up) - b) * a;
      incoming = s > 0 ? g : g * slope;
    } else {
      normal = (s - b) * a;
      incoming = normal * gamma + beta > 0 ? g : g * slope;
    }
  }
};

template <typename T, int VB, bool inverse>
INLINE void norm_back_of(const Norm<T> &k, const T *saved, const T *g, T *gy, T *dgamma, T *dbeta) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  const Back<T, inverse> back(k);
  double sum = 0, product = 0;
  for (int64_t i = 0; i < k.n; i += some) {
    const int64_t end = std::min(i + some, k.n);
    V a{}, b{};
    int64_t j = i;
    for (; j + L <= end; j += L) {
      V x, d;
      back(*(const V *)(saved + j), *(const V *)(g + j), x, d);
      a += d;
      b += d * x;
    }
    T c = total<T, VB>(a), e = total<T, VB>(b);
    for (; j < end; j++) {
      T x, d;
      back(saved[j], g[j], x, d);
      c += d;
      e += d * x;
    }
    sum += c;
    product += e;
  }
  *dbeta = T(sum);
  *dgamma = T(product);
  const T first = T(sum / k.n), second = T(product / k.n), scale = k.gamma * k.rstd;
  int64_t j = 0;
  for (; j + L <= k.n; j += L) {
    V x, d;
    back(*(const V *)(saved + j), *(const V *)(g + j), x, d);
    *(V *)(gy + j) = (d - first - x * second) * scale;
  }
  for (; j < k.n; j++) {
    T x, d;
    back(saved[j], g[j], x, d);
    gy[j] = (d - first - x * second) * scale;
  }
}

template <typename T, int VB> INLINE void row_norm_of(const RowNorm<T> &k, double eps, const T *x, T *y, int64_t from, int64_t to) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  for (int64_t r = from; r < to; r++) {
    const T *p = x + r * k.n;
    T *q = y + r * k.n;
    V a{}, b{};
    int64_t i = 0;
    for (; i + L <= k.n; i += L) a += *(const V *)(p + i);
    T sum = total<T, VB>(a), squares = 0;
    for (; i < k.n; i++) sum += p[i];
    const T mean = sum / k.n;
    for (i = 0; i + L <= k.n; i += L) {
      const V d = *(const V *)(p + i) - mean;
      b += d * d;
    }
    squares = total<T, VB>(b);
    for (; i < k.n; i++) squares += (p[i] - mean) * (p[i] - mean);
    const T rstd = T(1 / std::sqrt(double(squares) / k.n + eps));
    k.mean[r] = mean, k.rstd[r] = rstd;
    for (i = 0; i + L <= k.n; i += L) {
      V d = (*(const V *)(p + i) - mean) * rstd;
      if (k.gamma) d *= *(const V *)(k.gamma + i);
      if (k.beta) d += *(const V *)(k.beta + i);
      *(V *)(q + i) = d;
    }
    for (; i < k.n; i++) q[i] = (p[i] - mean) * rstd * (k.gamma ? k.gamma[i] : 1) + (k.beta ? k.beta[i] : 0);
  }
}

template <typename T, int VB>
INLINE void row_norm_back_of(const RowNorm<T> &k, const T *x, const T *g, T *gx, T *dgamma, T *dbeta, int64_t from, int64_t to) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  for (int64_t r = from; r < to; r++) {
    const T *p = x + r * k.n, *q = g + r * k.n, mean = k.mean[r], rstd = k.rstd[r];
    V a{}, b{};
    int64_t i = 0;
    for (; i + L <= k.n; i += L) {
      const V d = *(const V *)(q + i), s = (*(const V *)(p + i) - mean) * rstd;
      *(V *)(dgamma + i) = *(const V *)(dgamma + i) + d * s;
      *(V *)(dbeta + i) = *(const V *)(dbeta + i) + d;
      const V e = k.gamma ? d * *(const V *)(k.gamma + i) : d;
      a += e;
      b += e * s;
    }
    T sum = total<T, VB>(a), product = total<T, VB>(b);
    for (; i < k.n; i++) {
      const T s = (p[i] - mean) * rstd, e = k.gamma ? q[i] * k.gamma[i] : q[i];
      dgamma[i] += q[i] * s;
      dbeta[i] += q[i];
      sum += e;
      product += e * s;
    }
    if (!gx) continue;
    const T first = sum / k.n, second = product / k.n;
    T *to_row = gx + r * k.n;
    for (i = 0; i + L <= k.n; i += L) {
      const V s = (*(const V *)(p + i) - mean) * rstd;
      V e = *(const V *)(q + i);
      if (k.gamma) e *= *(const V *)(k.gamma + i);
      *(V *)(to_row + i) = (e - first - s * second) * rstd;
    }
    for (; i < k.n; i++) to_row[i] = ((k.gamma ? q[i] * k.gamma[i] : q[i]) - first - (p[i] - mean) * rstd * second) * rstd;
  }
}

template <typename T> struct Entries {
  void (*norm)(Norm<T> &, double, const T *, T *);
  void (*back[2])(const Norm<T> &, const T *, const T *, T *, T *, T *);
  void (*rows)(const RowNorm<T> &, double, const T *, T *, int64_t, int64_t);
  void (*rows_back)(const RowNorm<T> &, const T *, const T *, T *, T *, T *, int64_t, int64_t);
};

#define LEVEL(name, T, VB, target)                                                                                       \
  target void norm_##name(Norm<T> &k, double eps, const T *y, T *z) { norm_of<T, VB>(k, eps, y, z); }                    \
  target void back0_##name(const Norm<T> &k, const T *s, const T *g, T *gy, T *dgamma, T *dbeta) {                       \
    norm_back_of<T, VB, false>(k, s, g, gy, dgamma, dbeta);                                                              \
  }                                                                                                                      \
  target void back1_##name(const Norm<T> &k, const T *s, const T *g, T *gy, T *dgamma, T *dbeta) {                       \
    norm_back_of<T, VB, true>(k, s, g, gy, dgamma, dbeta);                                                               \
  }                                                                                                                      \
  target void rows_##name(const RowNorm<T> &k, double eps, const T *x, T *y, int64_t from, int64_t to) {                 \
    row_norm_of<T, VB>(k, eps, x, y, from, to);                                                                          \
  }                                                                                                                      \
  target void rows_back_##name(const RowNorm<T> &k, const T *x, const T *g, T *gx, T *dgamma, T *dbeta, int64_t from, int64_t to) { \
    row_norm_back_of<T, VB>(k, x, g, gx, dgamma, dbeta, from, to);                                                       \
  }                                                                                                                      \
  const Entries<T> name{norm_##name, {back0_##name, back1_##name}, rows_##name, rows_back_##name};
LEVELS(LEVEL)

template <typename T> const Entries<T> &entries();
CHOOSE(float)
CHOOSE(double)

} // namespace

template <typename T> void norm(Norm<T> &k, double eps, const T *y, T *z) { entries<T>().norm(k, eps, y, z); }

template <typename T> void norm_back(const Norm<T> &k, bool inverse, const T *saved, const T *g, T *gy, T *dgamma, T *dbeta) {
  entries<T>().back[inverse](k, saved, g, gy, dgamma, dbeta);
}

template <typename T> void row_norm(const RowNorm<T> &k, double eps, const T *x, T *y, int64_t from, int64_t to) {
  entries<T>().rows(k, eps, x, y, from, to);
}

template <typename T>
void row_norm_back(const RowNorm<T> &k, const T *x, const T *g, T *gx, T *dgamma, T *dbeta, int64_t from, int64_t to) {
  entries<T>().rows_back(k, x, g, gx, dgamma, dbeta, from, to);
}

template <typename T> bool invertible(T gamma, T beta, T slope) {
  constexpr T least = std::numeric_limits<T>::min() / std::numeric_limits<T>::epsilon(); // below, values of the result lack digits
  return slope > 0 && std::abs(gamma) >= least && std::abs(gamma) >= std::abs(beta) / 64;
}

#define INSTANCES(T)                                                                                                     \
  template void norm<T>(Norm<T> &, double, const T *, T *);                                                              \
  template void norm_back<T>(const Norm<T> &, bool, const T *, const T *, T *, T *, T *);                                \
  template void row_norm<T>(const RowNorm<T> &, double, const T *, T *, int64_t, int64_t);                               \
  template void row_norm_back<T>(const RowNorm<T> &, const T *, const T *, T *, T *, T *, int64_t, int64_t);             \
  template bool invertible<T>(T, T, T);
INSTANCES(float)
INSTANCES(double)

} // namespace kernels
