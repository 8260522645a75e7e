// The inner loops of conv.cpp, for vectors of VB bytes. Each is inlined into a function that is compiled for one level of
// vector instructions.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace kernels {

// A slab holds some rows of some planes of some channels, with zeros around them, so that a tap of the kernel is one offset
// for all positions: rows follow each other at pitch W+1 where kernels are wider than 1, and the one zero between them is
// the margin of both.
struct Slab {
  int64_t pitch, lead, part, plane, channel; // elements from row to row, before the first, from part to part of a plane, …
};

// A sum over channels and taps: out[o][q] = Σ_c Σ_r Σ_k w[c,r,k,o] · x[c·channel + rows[r] + k + q], for OCB outputs and NV
// vectors of positions.
template <typename T, int VB, int OCB, int NV, int KW>
INLINE void block(const T *x, int64_t channel, int64_t C, const int64_t *rows, int nrows, const T *w, int64_t wstep, T *out,
                  int64_t ostep) {
  typedef typename Vec<T, VB>::V V;
  constexpr int n = Vec<T, VB>::n;
  V acc[OCB][NV];
#pragma GCC unroll 8
  for (int o = 0; o < OCB; o++)
#pragma GCC unroll 8
    for (int v = 0; v < NV; v++) acc[o][v] = V{};
  for (int64_t c = 0; c < C; c++, x += channel, w += wstep) {
    const T *wr = w;
    for (int r = 0; r < nrows; r++, wr += KW * OCB) {
      const T *p = x + rows[r];
#pragma GCC unroll 3
      for (int k = 0; k < KW; k++) {
        V in[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) {
          in[v] = *(const V *)(p + k + v * n);
          KEEP(in[v]);
        }
#pragma GCC unroll 8
        for (int o = 0; o < OCB; o++) {
          V b = wr[k * OCB + o] - V{};
          KEEP(b);
#pragma GCC unroll 8
          for (int v = 0; v < NV; v++) add_product<T, VB>(acc[o][v], in[v], b);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < OCB; o++)
#pragma GCC unroll 8
    for (int v = 0; v < NV; v++) *(V *)(out + o * ostep + v * n) = acc[o][v];
}

template <typename T> struct Positions {
  const T *x;
  int64_t channel, C;
  const int64_t *rows;
  int nrows;
  const T *w;
  int64_t wstep;
  T *out; // [OCB][ostep]
  int64_t ostep, count;
};

template <typename T, int VB, int OCB, int KW> INLINE void positions(const Positions<T> &a) {
  constexpr int n = Vec<T, VB>::n;
  int64_t q = 0;
  for (; a.count - q > 2 * n; q += 3 * n)
    block<T, VB, OCB, 3, KW>(a.x + q, a.channel, a.C, a.rows, a.nrows, a.w, a.wstep, a.out + q, a.ostep);
  if (a.count - q > n)
    block<T, VB, OCB, 2, KW>(a.x + q, a.channel, a.C, a.rows, a.nrows, a.w, a.wstep, a.out + q, a.ostep);
  else if (a.count - q > 0)
    block<T, VB, OCB, 1, KW>(a.x + q, a.channel, a.C, a.rows, a.nrows, a.w, a.wstep, a.out + q, a.ostep);
}

// Products of OCB maps of g with x at KW shifts, added up over positions: dw[o·ostep + k] += Σ_s Σ_q g[o][s,q]·x[s,q+k],
// where s runs over planes.
template <typename T> struct Products {
  const T *x, *g;
  int64_t xplane, gplane, gchannel, planes, count;
  T *dw;
  int64_t ostep;
};

template <typename T, int VB, int OCB, int KW> INLINE void products(const Products<T> &a) {
  typedef typename Vec<T, VB>::V V;
  constexpr int n = Vec<T, VB>::n;
  V acc[OCB][KW];
#pragma GCC unroll 8
  for (int o = 0; o < OCB; o++)
#pragma GCC unroll 3
    for (int k = 0; k < KW; k++) acc[o][k] = V{};
  const T *xs = a.x, *gs = a.g;
  for (int64_t s = 0; s < a.planes; s++, xs += a.xplane, gs += a.gplane)
    for (int64_t q = 0; q < a.count; q += n) {
      V in[KW];
#pragma GCC unroll 3
      for (int k = 0; k < KW; k++) {
        in[k] = *(const V *)(xs + q + k);
        KEEP(in[k]);
      }
#pragma GCC unroll 8
      for (int o = 0; o < OCB; o++) {
        V g = *(const V *)(gs + o * a.gchannel + q);
        KEEP(g);
#pragma GCC unroll 3
        for (int k = 0; k < KW; k++) add_product<T, VB>(acc[o][k], g, in[k]);
      }
    }
#pragma GCC unroll 8
  for (int o = 0; o < OCB; o++)
#pragma GCC unroll 3
    for (int k = 0; k < KW; k++) a.dw[o * a.ostep + k] += total<T, VB>(acc[o][k]);
}

// y = x + add, for n values.
template <typename T, int VB> INLINE void put_row(const T *x, T *y, int64_t n, T add) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  int64_t i = 0;
  for (; i + L <= n; i += L) *(V *)(y + i) = *(const V *)(x + i) + add;
  for (; i < n; i++) y[i] = x[i] + add;
}

// Winograd's minimal filtering F(4,3) along the rows (Lavin and Gray 2016, "Fast algorithms for convolutional neural
// networks"): four rows of output take six products with the rows' and the kernel's transforms in place of twelve.

// Six rows of input to six transformed ones, which lie step apart.
template <typename T, int VB> INLINE void lift_input(const T *const *d, T *out, int64_t step, int64_t n) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    const V a = *(const V *)(d[0] + i), b = *(const V *)(d[1] + i), c = *(const V *)(d[2] + i), e = *(const V *)(d[3] + i),
            f = *(const V *)(d[4] + i), g = *(const V *)(d[5] + i);
    *(V *)(out + i) = 4 * a - 5 * c + f;
    *(V *)(out + step + i) = (f - 4 * c) + (e - 4 * b);
    *(V *)(out + 2 * step + i) = (f - 4 * c) - (e - 4 * b);
    *(V *)(out + 3 * step + i) = (f - c) + 2 * (e - b);
    *(V *)(out + 4 * step + i) = (f - c) - 2 * (e - b);
    *(V *)(out + 5 * step + i) = 4 * b - 5 * e + g;
  }
  for (; i < n; i++) {
    const T a = d[0][i], b = d[1][i], c = d[2][i], e = d[3][i], f = d[4][i], g = d[5][i];
    out[i] = 4 * a - 5 * c + f;
    out[step + i] = (f - 4 * c) + (e - 4 * b);
    out[2 * step + i] = (f - 4 * c) - (e - 4 * b);
    out[3 * step + i] = (f - c) + 2 * (e - b);
    out[4 * step + i] = (f - c) - 2 * (e - b);
    out[5 * step + i] = 4 * b - 5 * e + g;
  }
}

// Four rows of a gradient likewise.
template <typename T, int VB> INLINE void lift_gradient(const T *const *y, T *out, int64_t step, int64_t n) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    const V a = *(const V *)(y[0] + i), b = *(const V *)(y[1] + i), c = *(const V *)(y[2] + i), d = *(const V *)(y[3] + i);
    *(V *)(out + i) = a;
    *(V *)(out + step + i) = (a + c) + (b + d);
    *(V *)(out + 2 * step + i) = (a + c) - (b + d);
    *(V *)(out + 3 * step + i) = (a + 4 * c) + (2 * b + 8 * d);
    *(V *)(out + 4 * step + i) = (a + 4 * c) - (2 * b + 8 * d);
    *(V *)(out + 5 * step + i) = d;
  }
  for (; i < n; i++) {
    const T a = y[0][i], b = y[1][i], c = y[2][i], d = y[3][i];
    out[i] = a;
    out[step + i] = (a + c) + (b + d);
    out[2 * step + i] = (a + c) - (b + d);
    out[3 * step + i] = (a + 4 * c) + (2 * b + 8 * d);
    out[4 * step + i] = (a + 4 * c) - (2 * b + 8 * d);
    out[5 * step + i] = d;
  }
}

// Six rows of products back to four of output, plus add.
template <typename T, int VB> INLINE void lower(const T *m, int64_t step, T *const *y, int64_t n, T add) {
  typedef typename Vec<T, VB>::V V;
  constexpr int L = Vec<T, VB>::n;
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    const V b = *(const V *)(m + step + i), c = *(const V *)(m + 2 * step + i), d = *(const V *)(m + 3 * step + i),
            e = *(const V *)(m + 4 * step + i), sum = b + c, more = d + e, less = b - c, rest = d - e;
    *(V *)(y[0] + i) = *(const V *)(m + i) + sum + more + add;
    *(V *)(y[1] + i) = less + 2 * rest + add;
    *(V *)(y[2] + i) = sum + 4 * more + add;
    *(V *)(y[3] + i) = less + 8 * rest + *(const V *)(m + 5 * step + i) + add;
  }
  for (; i < n; i++) {
    const T b = m[step + i], c = m[2 * step + i], d = m[3 * step + i], e = m[4 * step + i];
    y[0][i] = m[i] + (b + c) + (d + e) + add;
    y[1][i] = (b - c) + 2 * (d - e) + add;
    y[2][i] = (b + c) + 4 * (d + e) + add;
    y[3][i] = (b - c) + 8 * (d - e) + m[5 * step + i] + add;
  }
}

} // namespace kernels
