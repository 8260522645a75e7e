// Steps of optimisers and what else a training step does to all parameters, each in one pass over its values.
#include "kernels.h"
#include "simd.h"

#include <algorithm>

namespace kernels {
namespace {

// Calls f for vectors and then for single values.
template <typename T, int VB, typename F> INLINE void each(int64_t n, F &&f) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  int64_t i = 0;
  for (; i + L <= n; i += L) f(V{}, i);
  typedef typename Vec<T, sizeof(T)>::V One;
  for (; i < n; i++) f(One{}, i);
}

template <typename T, int VB> INLINE void adamw_of(const AdamW<T> &k, int64_t n, T *p, const T *g, T *m, T *v) {
  each<T, VB>(n, [&](auto zero, int64_t i) __attribute__((always_inline)) {
    typedef decltype(zero) V;
    const V gi = *(const V *)(g + i), mi = *(const V *)(m + i) * k.beta1 + gi * k.rate1, vi = *(const V *)(v + i) * k.beta2 + gi * gi * k.rate2;
    *(V *)(m + i) = mi;
    *(V *)(v + i) = vi;
    *(V *)(p + i) = *(const V *)(p + i) * k.keep - k.step * mi / (root<T, sizeof(V)>(vi) / k.root + k.eps);
  });
}

template <typename T, int VB> INLINE void sgd_of(const SGD<T> &k, int64_t n, T *p, const T *g, T *buffer) {
  each<T, VB>(n, [&](auto zero, int64_t i) __attribute__((always_inline)) {
    typedef decltype(zero) V;
    V d = *(const V *)(g + i) + *(const V *)(p + i) * k.decay;
    if (k.momentum != 0) {
      const V b = *(const V *)(buffer + i) * k.momentum + d;
      *(V *)(buffer + i) = b;
      d = k.nesterov ? d + b * k.momentum : b;
    }
    *(V *)(p + i) = *(const V *)(p + i) - d * k.step;
  });
}

template <typename T, int VB> INLINE void add_of(int64_t n, T *y, const T *x) {
  each<T, VB>(n, [&](auto zero, int64_t i) __attribute__((always_inline)) {
    typedef decltype(zero) V;
    *(V *)(y + i) = *(const V *)(y + i) + *(const V *)(x + i);
  });
}

template <typename T, int VB> INLINE void scale_of(int64_t n, T *y, T factor) {
  each<T, VB>(n, [&](auto zero, int64_t i) __attribute__((always_inline)) {
    typedef decltype(zero) V;
    *(V *)(y + i) = *(const V *)(y + i) * factor;
  });
}

template <typename T, int VB> INLINE void lerp_of(int64_t n, T *y, const T *x, T weight) {
  each<T, VB>(n, [&](auto zero, int64_t i) __attribute__((always_inline)) {
    typedef decltype(zero) V;
    const V a = *(const V *)(y + i), b = *(const V *)(x + i);
    *(V *)(y + i) = weight < T(0.5) ? a + weight * (b - a) : b - (b - a) * (1 - weight);
  });
}

template <typename T, int VB> INLINE double squares_of(int64_t n, const T *x) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  constexpr int64_t some = 2048; // values that are added up in T
  double sum = 0;
  for (int64_t from = 0; from < n; from += some) {
    const int64_t end = std::min(from + some, n);
    V a{};
    T b = 0;
    int64_t i = from;
    for (; i + L <= end; i += L) a += *(const V *)(x + i) * *(const V *)(x + i);
    for (; i < end; i++) b += x[i] * x[i];
    sum += double(total<T, VB>(a)) + b;
  }
  return sum;
}

template <typename T> struct Entries {
  void (*adamw)(const AdamW<T> &, int64_t, T *, const T *, T *, T *);
  void (*sgd)(const SGD<T> &, int64_t, T *, const T *, T *);
  void (*add)(int64_t, T *, const T *);
  void (*scale)(int64_t, T *, T);
  void (*lerp)(int64_t, T *, const T *, T);
  double (*squares)(int64_t, const T *);
};

#define LEVEL(name, T, VB, target)                                                                                       \
  target void adamw_##name(const AdamW<T> &k, int64_t n, T *p, const T *g, T *m, T *v) { adamw_of<T, VB>(k, n, p, g, m, v); } \
  target void sgd_##name(const SGD<T> &k, int64_t n, T *p, const T *g, T *b) { sgd_of<T, VB>(k, n, p, g, b); }           \
  target void add_##name(int64_t n, T *y, const T *x) { add_of<T, VB>(n, y, x); }                                        \
  target void scale_##name(int64_t n, T *y, T factor) { scale_of<T, VB>(n, y, factor); }                                 \
  target void lerp_##name(int64_t n, T *y, const T *x, T weight) { lerp_of<T, VB>(n, y, x, weight); }                    \
  target double squares_##name(int64_t n, const T *x) { return squares_of<T, VB>(n, x); }                                \
  const Entries<T> name{adamw_##name, sgd_##name, add_##name, scale_##name, lerp_##name, squares_##name};
LEVELS(LEVEL)

template <typename T> const Entries<T> &entries();
CHOOSE(float)
CHOOSE(double)

} // namespace

template <typename T> void adamw(const AdamW<T> &k, int64_t n, T *p, const T *g, T *m, T *v) { entries<T>().adamw(k, n, p, g, m, v); }
template <typename T> void sgd(const SGD<T> &k, int64_t n, T *p, const T *g, T *buffer) { entries<T>().sgd(k, n, p, g, buffer); }
template <typename T> void add(int64_t n, T *y, const T *x) { entries<T>().add(n, y, x); }
template <typename T> void scale(int64_t n, T *y, T factor) { entries<T>().scale(n, y, factor); }
template <typename T> void lerp(int64_t n, T *y, const T *x, T weight) { entries<T>().lerp(n, y, x, weight); }
template <typename T> double squares(int64_t n, const T *x) { return entries<T>().squares(n, x); }

#define INSTANCES(T)                                                                                                     \
  template void adamw<T>(const AdamW<T> &, int64_t, T *, const T *, T *, T *);                                           \
  template void sgd<T>(const SGD<T> &, int64_t, T *, const T *, T *);                                                    \
  template void add<T>(int64_t, T *, const T *);                                                                         \
  template void scale<T>(int64_t, T *, T);                                                                               \
  template void lerp<T>(int64_t, T *, const T *, T);                                                                     \
  template double squares<T>(int64_t, const T *);
INSTANCES(float)
INSTANCES(double)

} // namespace kernels
