// Kernels of our own on plain memory, for the CPU; shim.cpp decides where they are used. They know nothing of libtorch.
#pragma once
#include <stdint.h>

namespace kernels {

// A 3-D convolution of stride 1 whose padding keeps the size; the kernel is 1 or 3 along each axis.
struct Conv {
  int64_t B, C, O, D, H, W; // batch, channels in and out, size of a map
  int kd, kh, kw;
  int64_t map() const { return D * H * W; }
  int taps() const { return kd * kh * kw; }
};

// The maps (D,H,W) of a batch, one pointer for each sample and channel, so that several tensors may be read or written as
// if they were joined along the channels.
template <typename T> using Maps = T *const *;

// The weights (O,C,kd,kh,kw) of a convolution in the order that conv reads. With back the convolution is that of the
// gradient, from O channels to C, and w are (C,O,kd,kh,kw).
template <typename T> int64_t packed_size(const Conv &);
template <typename T> void pack(const Conv &, const T *w, bool back, T *packed);

// conv may be called for parts of its tasks, in any order and by several threads at a time.
template <typename T> int64_t conv_tasks(const Conv &);
// y = convolution of x with packed weights, plus bias (O) or null.
template <typename T>
void conv(const Conv &, Maps<const T> x, const T *packed, const T *bias, Maps<T> y, int64_t from, int64_t to);

// Sets in dw (O,C,kd,kh,kw) the gradient of the weights of input channels [from, to), where g are the maps of the incoming
// gradient. Other channels may be computed by other threads.
template <typename T> void conv_weights(const Conv &, Maps<const T> x, Maps<const T> g, T *dw, int64_t from, int64_t to);

// Instance norm of a map of n values with the activation behind it: z = act((y - mean)·rstd·gamma + beta), where act
// multiplies values below 0 by slope; a slope of 1 is none. z may be y.
template <typename T> struct Norm {
  int64_t n;
  T gamma, beta, slope, mean, rstd;
};
template <typename T> void norm(Norm<T> &, double eps, const T *y, T *z); // sets mean and rstd
// The gradient gy of y from that of z, and those of gamma and beta. saved is z, if inverse, from which y's values follow
// (Rota Bulò et al. 2018, "In-place activated batch norm"), else y. gy may be g.
template <typename T> void norm_back(const Norm<T> &, bool inverse, const T *saved, const T *g, T *gy, T *dgamma, T *dbeta);
// Whether norm_back can do with z: where beta is large beside gamma, or the activation is flat, rounding forbids it.
template <typename T> bool invertible(T gamma, T beta, T slope);

// GELU, x·Φ(x) with the normal distribution function Φ, and its gradient g·(Φ(x) + x·φ(x)), which may be written over g.
template <typename T> void gelu(int64_t n, const T *x, T *y);
template <typename T> void gelu_back(int64_t n, const T *x, const T *g, T *gx);

// Layer norm of rows of n values; gamma and beta may be null. Each row's mean and 1/σ are kept for the gradient.
template <typename T> struct RowNorm {
  int64_t n;
  const T *gamma, *beta;
  T *mean, *rstd;
};
template <typename T> void row_norm(const RowNorm<T> &, double eps, const T *x, T *y, int64_t from, int64_t to);
// Sets gx, which may be null, in rows [from, to), and adds to dgamma and dbeta.
template <typename T>
void row_norm_back(const RowNorm<T> &, const T *x, const T *g, T *gx, T *dgamma, T *dbeta, int64_t from, int64_t to);

// Means of a map (H,W) over h·w cells, which overlap where they do not divide it, and what their gradient g gives the map.
struct Pool {
  int64_t H, W, h, w;
};
template <typename T> void pool(const Pool &, const T *x, T *y);
template <typename T> void pool_back(const Pool &, const T *g, T *gx);

// Two rows of n values alternating in one of 2n, plus add, and the other way, which gives the sum.
template <typename T> void weave(int64_t n, const T *even, const T *odd, T add, T *y);
template <typename T> T unweave(int64_t n, const T *y, T *even, T *odd);

// Steps of optimisers for n values of a parameter p with gradient g: AdamW with moments m and v, SGD with its momentum's
// buffer. rates are what the moments take of the new values, root is √(1-β₂ᵗ).
template <typename T> struct AdamW {
  T keep, beta1, rate1, beta2, rate2, root, eps, step; // keep: of p before step·m/σ is taken away
};
template <typename T> void adamw(const AdamW<T> &, int64_t n, T *p, const T *g, T *m, T *v);
template <typename T> struct SGD {
  T step, momentum, decay;
  bool nesterov;
};
template <typename T> void sgd(const SGD<T> &, int64_t n, T *p, const T *g, T *buffer);

template <typename T> void add(int64_t n, T *y, const T *x);
template <typename T> void scale(int64_t n, T *y, T factor);
template <typename T> void lerp(int64_t n, T *y, const T *x, T weight); // y += weight·(x - y)
template <typename T> double squares(int64_t n, const T *x);            // their sum

} // namespace kernels
