// Softmax attention on plain memory, for the CPU; shim.cpp decides where it is used.
#pragma once
#include <stdint.h>

namespace kernels {

// A tensor (B,H,n,d) in memory: elements from sample to sample, from head to head, from row to row. The last axis is dense.
template <typename T> struct Rows {
  T *p = nullptr;
  int64_t sample = 0, head = 0, row = 0;
  T *at(int64_t b, int64_t h) const { return p + b * sample + h * head; }
  explicit operator bool() const { return p; }
};

// y = softmax(scale·q·kᵀ + bias)·v for q (B,H,N,d), k (B,H,M,d), v (B,H,M,e) and y (B,H,N,e). The bias of query i and key j
// is rel_h[i, j / columns] + rel_w[i, j % columns], for rel_h (B,H,N,M/columns) and rel_w (B,H,N,columns), or 0 without
// them.
template <typename T> struct Attention {
  int64_t B, H, N, M, d, e, columns;
  T scale;
  int64_t queries, keys; // of a tile; 0: as it pays
  Rows<const T> q, k, v, rel_h, rel_w;
  Rows<T> y;
  T *lse; // (B,H,N): the logarithm to base 2 of the sum of a query's exponentials
};

// forward may be called for parts of its tasks, in any order and by several threads at a time.
template <typename T> int64_t forward_tasks(const Attention<T> &);
template <typename T> void forward(const Attention<T> &, int64_t from, int64_t to);

// The gradients of what Attention has inputs, for the incoming gradient g (B,H,N,e). Those without memory are left out.
template <typename T> struct Gradients {
  Rows<const T> g;
  Rows<T> q, k, v, rel_h, rel_w;
};

// Heads [from, to) of B·H; others may be computed by other threads.
template <typename T> void backward(const Attention<T> &, const Gradients<T> &, int64_t from, int64_t to);

} // namespace kernels
