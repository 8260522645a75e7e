// Convolutions by Winograd's F(4×4, 3×3), for conv.cpp.
#pragma once
#include "kernels.h"

namespace kernels {

constexpr int group = 4, parts = 6; // rows, or columns, of output, and what they are transformed to

// The transform of a kernel's column, or row.
template <typename T>
constexpr T lifted[parts][3] = {{T(1) / 4, 0, 0},
                                {T(-1) / 6, T(-1) / 6, T(-1) / 6},
                                {T(-1) / 6, T(1) / 6, T(-1) / 6},
                                {T(1) / 24, T(1) / 12, T(1) / 6},
                                {T(1) / 24, T(-1) / 12, T(1) / 6},
                                {0, 0, 1}};

namespace winograd {

// Whether it is faster than a transform of rows alone: tiles must fill vectors.
bool pays(const Conv &);
// As the functions of these names in kernels.h.
int64_t packed_size(const Conv &);
template <typename T> void pack(const Conv &, const T *w, bool back, T *packed);
template <typename T> int64_t conv_tasks(const Conv &);
template <typename T>
void conv(const Conv &, Maps<const T> x, const T *packed, const T *bias, Maps<T> y, int64_t from, int64_t to);

} // namespace winograd
} // namespace kernels
