// Vectors of VB bytes, and functions compiled for each level of vector instructions: a loop is a template that is inlined
// into one function for each level, and entries() gives the one in use.
#pragma once
#include <cmath>
#include <stdint.h>
#include <string.h>
#include <type_traits>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#define INLINE inline __attribute__((always_inline))

#ifdef __x86_64__
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512vl,avx512dq,fma,prefer-vector-width=512")))
#define LEVELS(X) X(float1, float, 16, ) X(double1, double, 16, ) X(float3, float, 32, AVX2) X(double3, double, 32, AVX2) \
  X(float4, float, 64, AVX512) X(double4, double, 64, AVX512)
#else
#define LEVELS(X) X(float1, float, 16, ) X(double1, double, 16, )
#endif

namespace kernels {

// The vector instructions in use: 1 for those that every processor of its kind has, 3 for AVX2, 4 for AVX-512.
int level();

// Keeps a vector in a register: compilers load it again for each of its uses otherwise, and spill sums for it.
#ifdef __x86_64__
#define KEEP(v) asm volatile("" : "+v"(v))
#else
#define KEEP(v) asm volatile("" : "+w"(v))
#endif

template <typename T, int VB> struct Vec {
  typedef T V __attribute__((vector_size(VB), aligned(alignof(T)), may_alias));
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Int; // of a value's size
  typedef Int I __attribute__((vector_size(VB), aligned(alignof(T)), may_alias));
  static constexpr int n = VB / sizeof(T);
};

// sum += a·b, in the one form of the instruction that changes the sum alone: left to choose, compilers take others and
// have too few registers then.
template <typename T, int VB, typename V> INLINE void add_product(V &sum, const V &a, const V &b) {
#ifdef __x86_64__
  if constexpr (VB > 16) {
    if constexpr (sizeof(T) == 4)
      asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    else
      asm("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return;
  }
#endif
  sum += a * b;
}

// The sum of a vector's values.
template <typename T, int VB> INLINE T total(typename Vec<T, VB>::V v) {
  typedef typename Vec<T, 16>::V Q;
  Q q[VB / 16], s;
  memcpy(q, &v, VB);
  s = q[0];
#pragma GCC unroll 4
  for (int i = 1; i < VB / 16; i++) s += q[i];
  if constexpr (sizeof(T) == 4) return (s[0] + s[1]) + (s[2] + s[3]);
  else return s[0] + s[1];
}

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, typename Vec<T, VB>::I{__VA_ARGS__})
#endif

// Two vectors behind each other, of which the values alternate in a and b, and the other way.
template <typename T, int VB, typename V> INLINE void zip(V &a, V &b) {
  const V x = a, y = b;
  constexpr int n = Vec<T, VB>::n;
  if constexpr (n == 2) {
    a = SHUFFLE(x, y, 0, 2), b = SHUFFLE(x, y, 1, 3);
  } else if constexpr (n == 4) {
    a = SHUFFLE(x, y, 0, 4, 1, 5), b = SHUFFLE(x, y, 2, 6, 3, 7);
  } else if constexpr (n == 8) {
    a = SHUFFLE(x, y, 0, 8, 1, 9, 2, 10, 3, 11), b = SHUFFLE(x, y, 4, 12, 5, 13, 6, 14, 7, 15);
  } else {
    a = SHUFFLE(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    b = SHUFFLE(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }
}
template <typename T, int VB, typename V> INLINE void unzip(V &a, V &b) {
  const V x = a, y = b;
  constexpr int n = Vec<T, VB>::n;
  if constexpr (n == 2) {
    a = SHUFFLE(x, y, 0, 2), b = SHUFFLE(x, y, 1, 3);
  } else if constexpr (n == 4) {
    a = SHUFFLE(x, y, 0, 2, 4, 6), b = SHUFFLE(x, y, 1, 3, 5, 7);
  } else if constexpr (n == 8) {
    a = SHUFFLE(x, y, 0, 2, 4, 6, 8, 10, 12, 14), b = SHUFFLE(x, y, 1, 3, 5, 7, 9, 11, 13, 15);
  } else {
    a = SHUFFLE(x, y, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    b = SHUFFLE(x, y, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  }
}

template <typename T, int VB, typename V> INLINE V root(V x) {
#ifdef __x86_64__
  if constexpr (VB > 16) {
    V y;
    if constexpr (sizeof(T) == 4) asm("vsqrtps %1, %0" : "=v"(y) : "v"(x));
    else asm("vsqrtpd %1, %0" : "=v"(y) : "v"(x));
    return y;
  }
#endif
  for (int i = 0; i < Vec<T, VB>::n; i++) x[i] = std::sqrt(x[i]);
  return x;
}

// 2^x for x ≤ 0, 0 below the smallest normal number; NaN stays. The polynomial is Taylor's on [-½, ½].
template <typename T, int VB> INLINE typename Vec<T, VB>::V exp2(typename Vec<T, VB>::V x) {
  typedef typename Vec<T, VB>::V V;
  typedef typename Vec<T, VB>::Int Int;
  typedef typename Vec<T, VB>::I I;
  constexpr bool single = sizeof(T) == 4;
  constexpr T least = single ? -126 : -1022, round = single ? 0x1.8p23 : 0x1.8p52;
  const I tiny = x < least;
  x = tiny ? V{} + least : x;
  const V shifted = x + round, whole = shifted - round, f = x - whole;
  constexpr int degree = single ? 7 : 13;
  constexpr double c[14] = {1,
                            0.69314718055994531,
                            0.24022650695910072,
                            0.055504108664821580,
                            0.0096181291076284772,
                            0.0013333558146428443,
                            0.00015403530393381610,
                            1.5252733804059841e-05,
                            1.3215486790144309e-06,
                            1.0178086009239699e-07,
                            7.0549116208011233e-09,
                            4.4455382718708114e-10,
                            2.5678435993488200e-11,
                            1.3691488853904128e-12};
  V y = V{} + T(c[degree]);
#pragma GCC unroll 13
  for (int i = degree - 1; i >= 0; i--) y = y * f + T(c[i]);
  const I exponent = ((I)shifted + (single ? Int(127) : Int(1023))) << (single ? 23 : 52);
  y *= (V)exponent;
  return tiny ? V{} : y;
}

// A file's functions for the level in use, from the tables that LEVELS made.
#ifdef __x86_64__
#define CHOOSE(T)                                                                                                        \
  template <> const Entries<T> &entries<T>() {                                                                           \
    return level() == 4 ? T##4 : level() == 3 ? T##3 : T##1;                                                             \
  }
#else
#define CHOOSE(T)                                                                                                        \
  template <> const Entries<T> &entries<T>() { return T##1; }
#endif

} // namespace kernels
