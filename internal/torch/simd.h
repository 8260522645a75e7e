// Vectors of VB bytes, and functions compiled for each level of vector instructions: a loop is a template that is inlined
// into one function for each level, and entries() gives the one in use.
#pragma once
#include <stdint.h>
#include <string.h>

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
