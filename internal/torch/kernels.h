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

// What conv computes from: a value x of channel c of sample b stands for act(x·scale[b,c] + shift[b,c]), where act
// multiplies values below 0 by slope. scale may be null: then x stands for itself.
template <typename T> struct Source {
  Maps<const T> maps;
  const T *scale, *shift;
  T slope;
};

// The weights (O,C,kd,kh,kw) of a convolution in the order that conv reads; back turns them into those of the convolution
// that gives the gradient of the input, with C and O exchanged.
template <typename T> int64_t packed_size(const Conv &);
template <typename T> void pack(const Conv &, const T *w, bool back, T *packed);

// conv may be called for parts of its tasks, in any order and by several threads at a time.
template <typename T> int64_t conv_tasks(const Conv &);
// y = convolution of x with packed weights, plus bias (O) or null.
template <typename T>
void conv(const Conv &, const Source<T> &x, const T *packed, const T *bias, Maps<T> y, int64_t from, int64_t to);

// Adds to dw (O,C,kd,kh,kw) the gradient of the weights of input channels [from, to), where g are the maps of the incoming
// gradient. Other channels may be computed by other threads.
template <typename T> void conv_weights(const Conv &, const Source<T> &x, Maps<const T> g, T *dw, int64_t from, int64_t to);

// The vector instructions in use: 1 for those that every processor of its kind has, 3 for AVX2, 4 for AVX-512.
int level();

} // namespace kernels
