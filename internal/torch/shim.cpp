// The binding to libtorch, in one file: a table of libtorch operations behind the C
// interface of shim.h. No exception leaves it. It keeps to at:: functions that
// libtorch 1.13 and 2.x share; what differs sits behind TORCH_VERSION guards.
#include "kernels.h"
#include "shim.h"
#include "attention.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>
#include <dlfcn.h>
#ifdef __GLIBC__
#include <malloc.h>
#include <unistd.h>
#endif
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <future>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define TORCH_AT_LEAST(major, minor)                                           \
  (TORCH_VERSION_MAJOR > (major) ||                                            \
   (TORCH_VERSION_MAJOR == (major) && TORCH_VERSION_MINOR >= (minor)))

#if TORCH_AT_LEAST(2, 9)
#include <c10/core/CachingDeviceAllocator.h>
#endif

// Groups of processes: libtorch has Gloo in it but its packages lack Gloo's headers, and NCCL's class needs those of CUDA
// (build/libtorch.mk looks for them).
#if __has_include(<torch/csrc/distributed/c10d/TCPStore.hpp>) && __has_include(<gloo/rendezvous/store.h>)
#define USE_C10D_GLOO
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif
#endif

using at::IntArrayRef;
using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using MaybeTensor = c10::optional<Tensor>;

namespace {

// ---- handles -----------------------------------------------------------------

using Impl = c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

Tensor borrow(handle h) {
  if (!h) return {};
  return Tensor(Impl::reclaim_copy(reinterpret_cast<c10::TensorImpl *>(h)));
}

handle give(Tensor t) {
  return t.defined() ? reinterpret_cast<handle>(t.unsafeReleaseTensorImpl()) : 0;
}

// The order of Go's DType.
const at::ScalarType dtypes[] = {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf,
                                 at::kLong,  at::kByte,   at::kBool};

int dtype_code(at::ScalarType t) {
  for (int i = 0; i < int(std::size(dtypes)); i++)
    if (dtypes[i] == t) return i;
  return -1;
}

bool is_half(const Tensor &x) { return x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf; }

#ifdef MASKSAM_TEST_DEVICE // of testdevice.cpp, in the place of CUDA
constexpr auto accelerator = at::kPrivateUse1;
#else
constexpr auto accelerator = at::kCUDA;
#endif

at::Device device_of(int64_t code) {
  return code < 0 ? at::Device(at::kCPU) : at::Device(accelerator, c10::DeviceIndex(code));
}

// ---- thread-local state --------------------------------------------------------

std::atomic<int> wanted_threads{0};
thread_local int own_threads = 0; // of this OS thread, in place of wanted_threads; 0: none

// OpenMP keeps the thread count per OS thread, and Go moves between them. at::set_num_threads is not used where OpenMP's
// own function is there: it changes other threads' counts as well and begins a pool of threads that nothing here uses.
extern "C" void omp_set_num_threads(int) __attribute__((weak));
void settle_threads() {
  thread_local int settled = 0, first = 0; // first: what the thread began with
  int n = own_threads > 0 ? own_threads : wanted_threads.load(std::memory_order_relaxed);
  if (n == 0) n = first;
  if (n > 0 && settled != n) {
    const int before = at::get_num_threads(); // also since libtorch else sets the thread's count later
    if (!first) first = before;
    if (omp_set_num_threads) omp_set_num_threads(n);
    if (at::get_num_threads() != n) at::set_num_threads(n);
    settled = n;
  }
}

void autocast_to(bool on, at::ScalarType dtype) {
#if TORCH_AT_LEAST(2, 4)
  for (auto device : {at::kCPU, at::kCUDA}) {
    at::autocast::set_autocast_enabled(device, on);
    if (on) at::autocast::set_autocast_dtype(device, dtype);
  }
#else
  at::autocast::set_cpu_enabled(on);
  at::autocast::set_enabled(on);
  if (on) {
    at::autocast::set_autocast_cpu_dtype(dtype);
    at::autocast::set_autocast_gpu_dtype(dtype);
  }
#endif
}

// Whether operations that have a faster way of their own here take it: 0 never, 1 where
// it pays, 2 at any size; 0 and 2 are for comparison and tests.
std::atomic<int> own_kernels{1};

// Memory of large tensors goes back to one heap, not to the system: with glibc's
// defaults each tensor beyond 32 MB costs a page fault per 4 KB every time it is
// made, more than half the time of elementwise operations.
void keep_memory(bool keep) {
#ifdef __GLIBC__
  // glibc's thresholds move by default, up to these after the first large tensors.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_MMAP_MAX, keep ? 0 : 65536);
  mallopt(M_TRIM_THRESHOLD, keep ? 1 << 30 : 64 << 20);
#endif
}
#ifdef __GLIBC__
const int kept_memory = (keep_memory(true), mallopt(M_ARENA_MAX, 1));
#endif

// Settings that libraries read from the environment while they are loaded, so the program begins anew with them,
// unless the environment has its own:
//  - OpenMP's threads spin by default where they wait for each other; where other programs use the cores as well, the
//    spinning thread takes the time that the one it waits for needs.
//  - libtorch 1.13 takes its AVX2 kernels on every processor. Those for bfloat16 add up in bfloat16 itself; the ones for
//    AVX-512 do not, and where the processor multiplies bfloat16 a training step takes half the time with them.
//  - OpenBLAS takes its kernels by the processor's model and those of SSE3, a third as fast, for a model that is newer
//    than itself.
// This runs before any library's initialisation, which takes libtorch half a second; where the system does not let it,
// nothing changes.
#ifdef __linux__
bool names(const char* variable, const char* name) {
  const size_t n = strlen(name);
  return !strncmp(variable, name, n) && variable[n] == '=';
}

bool has(char** env, std::initializer_list<const char*> any) {
  for (; *env; env++)
    for (const char* name : any)
      if (names(*env, name)) return true;
  return false;
}

bool multiplies_bf16() {
#ifdef __x86_64__
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

const char* blas_kernels() {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return "OPENBLAS_CORETYPE=SkylakeX";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "OPENBLAS_CORETYPE=Haswell";
#endif
  return nullptr;
}

void begin_anew(int, char** argv, char** env) {
  size_t n = 0;
  while (env[n]) n++;
  auto more = static_cast<char**>(alloca((n + 4) * sizeof(char*)));
  memcpy(more, env, n * sizeof(char*));
  const size_t before = n;
  if (!has(env, {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"})) more[n++] = const_cast<char*>("OMP_WAIT_POLICY=passive");
  if (multiplies_bf16() && !has(env, {"ATEN_CPU_CAPABILITY"})) more[n++] = const_cast<char*>("ATEN_CPU_CAPABILITY=avx512");
  if (blas_kernels() && !has(env, {"OPENBLAS_CORETYPE"})) more[n++] = const_cast<char*>(blas_kernels());
  if (n == before) return;
  more[n] = nullptr;
  char path[4096]; // by which ps and pkill call it, unless it cannot be begun so
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length > 0) {
    path[length] = 0;
    execve(path, argv, more);
  }
  execve("/proc/self/exe", argv, more);
}
__attribute__((section(".preinit_array"), used)) void (*const before_libraries)(int, char**, char**) = begin_anew;
#endif

// State sets this thread's gradient mode and autocast for one call. The cache of
// cast weights stays off: it outlives an optimiser step and mixes casts made with
// and without gradients.
struct State {
  c10::AutoGradMode grad;
  bool cast;
  State(bool grad, int autocast) : grad(grad), cast(autocast != 0) {
    settle_threads();
    if (!cast) return;
    at::autocast::set_autocast_cache_enabled(false);
    autocast_to(true, dtypes[autocast]);
  }
  ~State() {
    if (cast) autocast_to(false, at::kFloat);
  }
};

// ---- errors ----------------------------------------------------------------------

shim_error *failure(const std::string &msg, bool oom) {
  auto *e = static_cast<shim_error *>(malloc(sizeof(shim_error) + msg.size() + 1));
  e->oom = oom;
  e->device = -1;
  e->bytes = 0;
  memcpy(e->msg, msg.c_str(), msg.size() + 1);
  if (!oom) return e;
  // "… tried to allocate 64 bytes." on the CPU; "Tried to allocate 1.50 GiB (GPU 0; …"
  // or "… GPU 0 has a total capacity …" with CUDA.
  auto at = msg.find("ried to allocate ");
  double size = 0;
  char unit[8] = "";
  if (at != std::string::npos && sscanf(msg.c_str() + at + 17, "%lf %7[a-zA-Z]", &size, unit) == 2) {
    const double scale = unit[0] == 'K' ? 1024. : unit[0] == 'M' ? 1048576. : unit[0] == 'G' ? 1073741824. : 1.;
    e->bytes = int64_t(size * scale);
  }
  auto gpu = msg.find("GPU ");
  if (gpu != std::string::npos) e->device = atoi(msg.c_str() + gpu + 4);
  return e;
}

template <typename F> shim_error *guard(F &&f) {
  try {
    f();
    return nullptr;
  } catch (const c10::OutOfMemoryError &e) {
    return failure(e.what_without_backtrace(), true);
  } catch (const c10::Error &e) {
    std::string msg = e.what_without_backtrace();
    const bool oom = msg.find("DefaultCPUAllocator: ") != std::string::npos &&
                     msg.find("tried to allocate") != std::string::npos;
    const bool gpu = msg.find("CUDA error: out of memory") != std::string::npos ||
                     msg.find("_STATUS_ALLOC_FAILED") != std::string::npos;
    return failure(msg, oom || gpu);
  } catch (const std::bad_alloc &e) {
    return failure(e.what(), true);
  } catch (const std::exception &e) {
    return failure(e.what(), false);
  } catch (...) {
    return failure("unknown C++ exception", false);
  }
}

// ---- one call ----------------------------------------------------------------------

struct Call {
  const handle *in;
  int nin;
  const int64_t *ints;
  int nints;
  const double *nums;
  int nnums;
  handle *out;
  int nout, done;
  int autocast; // dtype, 0 = off

  Tensor operator[](int i) const { return i < nin ? borrow(in[i]) : Tensor(); }
  MaybeTensor maybe(int i) const {
    Tensor t = (*this)[i];
    return t.defined() ? MaybeTensor(t) : MaybeTensor();
  }
  std::vector<Tensor> all(int from = 0) const {
    std::vector<Tensor> v;
    v.reserve(nin - from);
    for (int i = from; i < nin; i++) v.push_back(borrow(in[i]));
    return v;
  }
  IntArrayRef rest(int from = 0) const { return {ints + from, size_t(nints - from)}; }
  IntArrayRef part(int from, int n) const { return {ints + from, size_t(n)}; }
  // The ith number as a scalar that does not turn whole-number tensors into floats.
  at::Scalar scalar(const Tensor &x, int i = 0) const {
    const double v = nums[i];
    if (at::isIntegralType(x.scalar_type(), true) && v == std::trunc(v)) return int64_t(v);
    return v;
  }
  // The ith tensor in autocast's dtype, if that is on.
  Tensor narrowed(int i) const {
    Tensor x = (*this)[i];
    return autocast && x.defined() && x.is_floating_point() ? x.to(dtypes[autocast]) : x;
  }
  // The ith tensor, in float32 if autocast made it narrower: for what CUDA's autocast
  // computes in float32 and the CPU's leaves as it is, or knows in one dtype only.
  Tensor wide(int i) const {
    Tensor x = (*this)[i];
    return autocast && is_half(x) ? x.to(at::kFloat) : x;
  }
  // The dtype to sum the ith tensor in, likewise.
  c10::optional<at::ScalarType> sum_type(int i) const {
    if (autocast && is_half((*this)[i])) return at::kFloat;
    return c10::nullopt;
  }
  // Options from ints[0] = device, ints[1] = dtype.
  at::TensorOptions options() const { return at::device(device_of(ints[0])).dtype(dtypes[ints[1]]); }
  void ret(Tensor t) {
    TORCH_CHECK(done < nout, "more results than asked for");
    out[done++] = give(std::move(t));
  }
};

#define OP(name) void run_##name(Call &c)
#define UNARY(name, f)                                                         \
  OP(name) { c.ret(f(c[0])); }
#define BINARY(name, f)                                                        \
  OP(name) { c.ret(f(c[0], c[1])); }
#define WITH_SCALAR(name, f)                                                   \
  OP(name) {                                                                   \
    auto x = c[0];                                                             \
    c.ret(f(x, c.scalar(x)));                                                  \
  }

// ---- creation ------------------------------------------------------------------------

OP(Empty) { c.ret(at::empty(c.rest(2), c.options())); }
UNARY(ZerosLike, at::zeros_like)
OP(Rand) { c.ret(at::rand(c.rest(3), *reinterpret_cast<at::Generator *>(c.ints[2]), c.options())); }

// ---- elementwise -----------------------------------------------------------------------

BINARY(Add, at::add)
BINARY(Sub, at::sub)
BINARY(Mul, at::mul)
BINARY(Div, at::div)
BINARY(Maximum, at::maximum)
BINARY(Minimum, at::minimum)
BINARY(Eq, at::eq)
WITH_SCALAR(AddScalar, at::add)
WITH_SCALAR(MulScalar, at::mul)
WITH_SCALAR(GtScalar, at::gt)
UNARY(Neg, at::neg)
UNARY(Abs, at::abs)
UNARY(Sin, at::sin)
UNARY(Cos, at::cos)
UNARY(Floor, at::floor)
UNARY(Sqrt, at::sqrt)
UNARY(Sigmoid, at::sigmoid)
UNARY(ReLU, at::relu)
UNARY(Softplus, at::softplus)

OP(LeakyReLU) { c.ret(at::leaky_relu(c[0], c.nums[0])); }
OP(LeakyReLUInPlace) {
  auto x = c[0];
  c.ret(at::leaky_relu_(x, c.nums[0]));
}
OP(Clamp) {
  auto x = c[0];
  c.ret(at::clamp(x, c.scalar(x, 0), c.scalar(x, 1)));
}

// Whether a tensor is of the kind that kernels of our own read.
bool plain_numbers(const Tensor &x) {
  return own_kernels && x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble) && x.numel() > 0;
}

// Exact GELU x·Φ(x) with its own gradient g·(Φ(x) + x·φ(x)). libtorch 1.13.1's
// node hands oneDNN an incoming gradient whose memory layout differs from the
// input's and gets values of 1e12 or NaN back; this one brings both to the same
// layout first.
struct Gelu : torch::autograd::Function<Gelu> {
  static Tensor forward(AutogradContext *ctx, const Tensor &input) {
    const auto x = input.unsafeGetTensorImpl()->is_non_overlapping_and_dense() ? input : input.contiguous();
    ctx->save_for_backward({x});
    if (!plain_numbers(x)) return at::gelu(x);
    auto y = at::empty_like(x);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "gelu", [&] {
      const auto *xp = x.data_ptr<scalar_t>();
      auto *yp = y.data_ptr<scalar_t>();
      at::parallel_for(0, x.numel(), at::internal::GRAIN_SIZE, [&](int64_t from, int64_t to) { kernels::gelu(to - from, xp + from, yp + from); });
    });
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto x = ctx->get_saved_variables()[0];
    auto g = grads[0].to(x.scalar_type());
    if (!plain_numbers(x)) return {at::gelu_backward(g.contiguous(), x.contiguous())};
    if (g.strides() != x.strides()) g = at::empty_like(x).copy_(g);
    auto gx = at::empty_like(x);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "gelu", [&] {
      const auto *xp = x.data_ptr<scalar_t>(), *gp = g.data_ptr<scalar_t>();
      auto *to_x = gx.data_ptr<scalar_t>();
      at::parallel_for(0, x.numel(), at::internal::GRAIN_SIZE,
                       [&](int64_t from, int64_t to) { kernels::gelu_back(to - from, xp + from, gp + from, to_x + from); });
    });
    return {gx};
  }
};
OP(GELU) { c.ret(Gelu::apply(c[0])); }

// ---- reductions -------------------------------------------------------------------------

OP(Sum) { c.ret(at::sum(c[0], c.sum_type(0))); }
OP(Mean) { c.ret(at::mean(c[0], c.sum_type(0))); }
OP(SumDim) { c.ret(at::sum(c[0], c.rest(1), c.ints[0] != 0, c.sum_type(0))); }
OP(MeanDim) { c.ret(at::mean(c[0], c.rest(1), c.ints[0] != 0, c.sum_type(0))); }
OP(AmaxDim) { c.ret(at::amax(c[0], c.rest(1), c.ints[0] != 0)); }
OP(ArgMax) { c.ret(at::argmax(c[0], c.ints[0])); }
OP(TopK) {
  auto r = at::topk(c[0], c.ints[0], c.ints[1], c.ints[2] != 0, c.ints[3] != 0);
  c.ret(std::get<0>(r));
  c.ret(std::get<1>(r));
}

// ---- shape ---------------------------------------------------------------------------------

OP(Reshape) { c.ret(at::reshape(c[0], c.rest())); }
OP(Permute) { c.ret(at::permute(c[0], c.rest())); }
OP(Transpose) { c.ret(at::transpose(c[0], c.ints[0], c.ints[1])); }
OP(Expand) { c.ret(c[0].expand(c.rest())); }
OP(Squeeze) { c.ret(at::squeeze(c[0], c.ints[0])); }
OP(Unsqueeze) { c.ret(at::unsqueeze(c[0], c.ints[0])); }
OP(Cat) { c.ret(at::cat(c.all(), c.ints[0])); }
OP(Stack) { c.ret(at::stack(c.all(), c.ints[0])); }
OP(Slice) { c.ret(at::slice(c[0], c.ints[0], c.ints[1], c.ints[2], c.ints[3])); }
OP(Select) { c.ret(at::select(c[0], c.ints[0], c.ints[1])); }
OP(Unfold) { c.ret(c[0].unfold(c.ints[0], c.ints[1], 1)); }
OP(Unbind3) {
  const auto parts = at::unbind(c[0], c.ints[0]);
  TORCH_CHECK(parts.size() == 3, "want three slices, not ", parts.size());
  for (const auto &x : parts) c.ret(x);
}
OP(IndexSelect) { c.ret(at::index_select(c[0], c.ints[0], c[1])); }
OP(Gather) { c.ret(at::gather(c[0], c.ints[0], c[1])); }
OP(Flip) { c.ret(at::flip(c[0], c.rest())); }
OP(Pad) {
  auto x = c[0];
  c.ret(at::constant_pad_nd(x, c.rest(), c.scalar(x)));
}
OP(To) { c.ret(c[0].to(dtypes[c.ints[0]])); }
OP(Detach) { c.ret(c[0].detach()); }
OP(Clone) { c.ret(c[0].clone()); }

// ---- linear algebra -----------------------------------------------------------------------

BINARY(MatMul, at::matmul)

// Whether v, if given, is a vector of n on the CPU, as the ways below read it unchecked.
bool per_channel(const Tensor &v, int64_t n) { return !v.defined() || (v.is_cpu() && v.dim() == 1 && v.numel() == n); }
bool of_type(const Tensor &v, at::ScalarType t) { return !v.defined() || v.scalar_type() == t; }

// Whether the third argument of a layer, its bias, is there and needs a gradient.
bool wants_bias(AutogradContext *ctx) { return ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2); }

// x·wᵀ + b over the last axis in one node of the graph, where libtorch's takes five.
struct Linear : torch::autograd::Function<Linear> {
  static bool fits(const Tensor &x, const Tensor &w, const Tensor &b) {
    const auto t = x.scalar_type();
    return plain_numbers(x) && plain_numbers(w) && x.dim() >= 2 && w.dim() == 2 && x.size(-1) == w.size(1) && of_type(w, t) &&
           per_channel(b, w.size(0)) && of_type(b, t);
  }
  static Tensor with_last(const Tensor &rows, IntArrayRef like) {
    auto shape = like.vec();
    shape.back() = rows.size(1);
    return rows.view(shape);
  }
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &w, const MaybeTensor &b) {
    const auto rows = x.reshape({-1, x.size(-1)});
    ctx->save_for_backward({w.requires_grad() ? rows : Tensor(), w});
    ctx->saved_data["shape"] = x.sizes();
    ctx->saved_data["bias"] = b.has_value();
    return with_last(b ? at::addmm(*b, rows, w.t()) : at::mm(rows, w.t()), x.sizes());
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &rows = saved[0], &w = saved[1];
    const auto g = grads[0].reshape({-1, w.size(0)});
    return {ctx->needs_input_grad(0) ? at::mm(g, w).view(ctx->saved_data["shape"].toIntVector()) : Tensor(),
            ctx->needs_input_grad(1) ? at::mm(g.t(), rows) : Tensor(), wants_bias(ctx) ? g.sum(0) : Tensor()};
  }
};
OP(Linear) {
  auto x = c[0], w = c[1];
  if (!c.autocast && Linear::fits(x, w, c[2])) return c.ret(Linear::apply(x, w, c.maybe(2)));
  c.ret(at::linear(x, w, c.maybe(2)));
}

// Softmax attention of heads (B,H,N,d) by attention.cpp's tiles. What it saves is linear in the tokens.
struct TiledAttention : torch::autograd::Function<TiledAttention> {
  template <typename T> static kernels::Rows<const T> rows(const Tensor &x) {
    if (!x.defined()) return {};
    return {x.data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
  }
  template <typename T> static kernels::Rows<T> written(const Tensor &x) {
    if (!x.defined()) return {};
    return {x.data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
  }
  // In the type of the computation, rows dense.
  static Tensor dense(const Tensor &x, at::ScalarType t) {
    if (!x.defined()) return x;
    const auto y = x.to(t);
    return y.stride(-1) == 1 || y.size(-1) == 1 ? y : y.contiguous();
  }
  // An empty tensor of x's shape in which the heads of a token lie side by side, as linear layers read and write them.
  static Tensor beside(IntArrayRef shape, at::TensorOptions o) {
    return at::empty({shape[0], shape[2], shape[1], shape[3]}, o).transpose(1, 2);
  }
  template <typename T>
  static kernels::Attention<T> problem(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &rel_h, const Tensor &rel_w, const Tensor &y, const Tensor &lse, double scale) {
    const bool tiny = own_kernels == 2;
    return {q.size(0), q.size(1), q.size(2), k.size(2), q.size(3), v.size(3), rel_w.defined() ? rel_w.size(3) : 0, T(scale), tiny ? 1 : 0, tiny ? 5 : 0,
            rows<T>(q), rows<T>(k), rows<T>(v), rows<T>(rel_h), rows<T>(rel_w), written<T>(y), lse.data_ptr<T>()};
  }

  static Tensor forward(AutogradContext *ctx, const Tensor &q, const Tensor &k, const Tensor &v, const MaybeTensor &rel_h, const MaybeTensor &rel_w, double scale) {
    const auto t = is_half(q) ? at::kFloat : q.scalar_type();
    const auto qd = dense(q, t), kd = dense(k, t), vd = dense(v, t), h = dense(rel_h ? *rel_h : Tensor(), t), w = dense(rel_w ? *rel_w : Tensor(), t);
    const auto y = beside({q.size(0), q.size(1), q.size(2), v.size(3)}, qd.options());
    const auto lse = at::empty({q.size(0), q.size(1), q.size(2)}, qd.options());
    AT_DISPATCH_FLOATING_TYPES(t, "attention", [&] {
      const auto a = problem<scalar_t>(qd, kd, vd, h, w, y, lse, scale);
      const int64_t tasks = kernels::forward_tasks(a), work = q.size(0) * q.size(1) * a.N * a.M * (a.d + a.e) / tasks;
      at::parallel_for(0, tasks, at::internal::GRAIN_SIZE / (work + 1) + 1, [&](int64_t from, int64_t to) { kernels::forward(a, from, to); });
    });
    const auto out = y.to(q.scalar_type());
    ctx->save_for_backward({q, k, v, rel_h ? *rel_h : Tensor(), rel_w ? *rel_w : Tensor(), out, lse});
    ctx->saved_data["scale"] = scale;
    return out;
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &lse = saved[6];
    const auto t = lse.scalar_type();
    Tensor x[6], dx[5];
    for (int i = 0; i < 6; i++) x[i] = dense(saved[i], t);
    const auto g = dense(grads[0], t);
    for (int i = 0; i < 5; i++)
      if (x[i].defined() && ctx->needs_input_grad(i)) dx[i] = beside(x[i].sizes(), x[i].options());
    if (dx[3].defined() != dx[4].defined()) // their gradients come together
      for (int i : {3, 4})
        if (!dx[i].defined()) dx[i] = beside(x[i].sizes(), x[i].options());
    const double scale = ctx->saved_data["scale"].toDouble();
    AT_DISPATCH_FLOATING_TYPES(t, "attention", [&] {
      const auto a = problem<scalar_t>(x[0], x[1], x[2], x[3], x[4], x[5], lse, scale);
      const kernels::Gradients<scalar_t> to{rows<scalar_t>(g), written<scalar_t>(dx[0]), written<scalar_t>(dx[1]), written<scalar_t>(dx[2]), written<scalar_t>(dx[3]), written<scalar_t>(dx[4])};
      const int64_t work = a.N * a.M * 3 * (a.d + a.e);
      at::parallel_for(0, a.B * a.H, at::internal::GRAIN_SIZE / (work + 1) + 1, [&](int64_t from, int64_t last) { kernels::backward(a, to, from, last); });
    });
    for (int i = 0; i < 5; i++)
      if (dx[i].defined()) dx[i] = dx[i].to(saved[i].scalar_type());
    return {dx[0], dx[1], dx[2], dx[3], dx[4], Tensor()};
  }
};

// Where libtorch has a fused kernel, relative positions go through it as part of the product: q' = [scale·q, rel_h, rel_w]
// with k' = [k, onehot(row), onehot(column)]. A bias would be N·M numbers for each head, and as many for its gradient; this
// is linear in the tokens. The fused kernels want widths that are multiples of 8 in types of two bytes, so zeros fill up.
Tensor attention_by_products(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &rel_h, const Tensor &rel_w, double scale, bool fused) {
  std::vector<Tensor> qs{at::mul(q, scale)}, ks{k};
  if (rel_h.defined()) {
    const int64_t rows = rel_h.size(-1), columns = rel_w.size(-1), fill = fused ? (8 - (q.size(-1) + rows + columns) % 8) % 8 : 0;
    auto shape = k.sizes().vec();
    const auto add = [&](const Tensor &of_token) {
      shape.back() = of_token.size(-1);
      ks.push_back(of_token.reshape({shape[shape.size() - 2], -1}).expand(shape));
    };
    add(at::eye(rows, k.options()).unsqueeze(1).expand({rows, columns, rows}));
    add(at::eye(columns, k.options()).expand({rows, columns, columns}));
    qs.push_back(rel_h.to(q.scalar_type()));
    qs.push_back(rel_w.to(q.scalar_type()));
    if (fill) {
      add(at::zeros({1, 1, 1}, k.options()).expand({rows, columns, fill}));
      auto wide = q.sizes().vec();
      wide.back() = fill;
      qs.push_back(at::zeros(wide, q.options()));
    }
  }
  const auto qq = qs.size() > 1 ? at::cat(qs, -1) : qs[0], kk = ks.size() > 1 ? at::cat(ks, -1) : k;
#if TORCH_AT_LEAST(2, 1)
  if (fused && q.is_cuda()) return at::scaled_dot_product_attention(qq, kk, v, {}, 0.0, false, 1.0);
#endif
  return at::matmul(at::softmax(at::matmul(qq, kk.transpose(-2, -1)), -1), v);
}

// in: q, k, v, rel_h, rel_w, the last two or none.
OP(Attention) {
  auto q = c.narrowed(0), k = c.narrowed(1), v = c.narrowed(2), rel_h = c.narrowed(3), rel_w = c.narrowed(4);
  const double scale = c.nums[0];
  const int64_t r = q.dim();
  TORCH_CHECK(rel_h.defined() == rel_w.defined() && (!rel_h.defined() || rel_h.size(-1) * rel_w.size(-1) == k.size(-2)), "relative positions for ",
              rel_h.defined() ? rel_h.size(-1) : 0, " rows and ", rel_w.defined() ? rel_w.size(-1) : 0, " columns do not fit ", k.size(-2), " keys");
  if (q.is_cuda() || own_kernels == 3) return c.ret(attention_by_products(q, k, v, rel_h, rel_w, scale, true));
  const auto leads = [&](const Tensor &x) { return x.dim() == r && x.is_cpu() && x.scalar_type() == q.scalar_type() && x.sizes().slice(0, r - 2) == q.sizes().slice(0, r - 2); };
  const bool own = own_kernels && r >= 2 && leads(q) && leads(k) && leads(v) && k.size(-1) == q.size(-1) && v.size(-2) == k.size(-2) &&
                   (!rel_h.defined() || (leads(rel_h) && leads(rel_w) && rel_h.size(-2) == q.size(-2) && rel_w.size(-2) == q.size(-2))) &&
                   at::isFloatingType(q.scalar_type()) && q.numel() > 0 && k.numel() > 0 && v.numel() > 0;
  if (own) {
    // Samples, heads: leading axes beyond the two are joined, missing ones added.
    const auto four = [&](const Tensor &x) {
      if (!x.defined() || r == 4) return x;
      return r > 4 ? x.flatten(0, r - 4) : r == 3 ? x.unsqueeze(0) : x.unsqueeze(0).unsqueeze(0);
    };
    const auto maybe = [](const Tensor &x) { return x.defined() ? MaybeTensor(x) : MaybeTensor(); };
    auto y = TiledAttention::apply(four(q), four(k), four(v), maybe(four(rel_h)), maybe(four(rel_w)), scale);
    if (r == 4) return c.ret(y);
    auto shape = q.sizes().vec();
    shape.back() = v.size(-1);
    return c.ret(y.reshape(shape));
  }
  if (!rel_h.defined()) return c.ret(attention_by_products(q, k, v, rel_h, rel_w, scale, false));
  auto logits = at::matmul(at::mul(q, scale), k.transpose(-2, -1));
  auto shape = logits.sizes().vec();
  shape.back() = rel_h.size(-1);
  shape.push_back(rel_w.size(-1));
  const auto bias = (rel_h.unsqueeze(-1) + rel_w.unsqueeze(-2)).expand(shape);
  c.ret(at::matmul(at::softmax(logits + bias.reshape(logits.sizes()), -1), v));
}

// ---- convolution ----------------------------------------------------------------------------------

// What libtorch does slowly on the CPU goes other ways here; each is measured
// against libtorch's own in bench_test.go.

bool all_are(IntArrayRef v, int64_t want) {
  return std::all_of(v.begin(), v.end(), [=](int64_t x) { return x == want; });
}

// w (R,C) times every position of x (B,C,…), plus b (R) if defined: (B,R,…).
Tensor channel_product(const Tensor &x, const Tensor &w, const Tensor &b) {
  const int64_t rows = w.size(0);
  const auto flat = x.flatten(2), wide = w.unsqueeze(0).expand({x.size(0), rows, w.size(1)});
  auto shape = x.sizes().vec();
  shape[1] = rows;
  return (b.defined() ? at::baddbmm(b.view({1, rows, 1}), wide, flat) : at::bmm(wide, flat)).view(shape);
}

// The transposed convolution whose stride is its kernel: windows do not overlap, so
// it is one matrix product and a shuffle of the D·k results of a position to its window.
Tensor upsampling_convolution(const Tensor &x, const Tensor &w, const Tensor &b) {
  const auto kernel = w.sizes().slice(2);
  const int64_t n = kernel.size(), d = w.size(1), window = c10::multiply_integers(kernel);
  auto y = channel_product(x, w.flatten(1).t(), b.defined() ? b.repeat_interleave(window) : b);
  std::vector<int64_t> split{x.size(0), d}, order{0, 1}, shape{x.size(0), d};
  split.insert(split.end(), kernel.begin(), kernel.end());
  for (int64_t i = 0; i < n; i++) {
    split.push_back(x.size(2 + i));
    order.insert(order.end(), {2 + n + i, 2 + i});
    shape.push_back(x.size(2 + i) * kernel[i]);
  }
  return y.view(split).permute(order).reshape(shape);
}

// The same for windows of two rows and two columns, a chunk of positions at a time, whose results stay in a core's cache until
// they are in their windows; of float or double on the CPU.
struct Upsampling : torch::autograd::Function<Upsampling> {
  static bool fits(const Tensor &x, const Tensor &w, const Tensor &b) {
    const auto kernel = w.sizes().slice(2);
    return plain_numbers(x) && plain_numbers(w) && of_type(w, x.scalar_type()) && kernel.size() >= 2 && all_are(kernel.slice(kernel.size() - 2), 2) &&
           all_are(kernel.slice(0, kernel.size() - 2), 1) && per_channel(b, w.size(1)) && of_type(b, x.scalar_type());
  }

  // How positions, rows of W, are cut into chunks.
  struct Chunks {
    int64_t B, D, rows, W, each, per_sample;
    Chunks(const Tensor &x, int64_t D) : B(x.size(0)), D(D), rows(c10::multiply_integers(x.sizes().slice(2, x.dim() - 3))), W(x.size(-1)) {
      constexpr int64_t cache = 512 << 10; // of a core
      each = std::clamp<int64_t>(cache / ((4 * D + x.size(1)) * W * int64_t(x.element_size())), 1, rows);
      per_sample = (rows + each - 1) / each;
    }
    // f gets sample, first row and number of rows.
    template <typename F> void operator()(int64_t from, int64_t to, F &&f) const {
      for (; from < to; from++) f(from / per_sample, from % per_sample * each, std::min(each, rows - from % per_sample * each));
    }
    int64_t tasks() const { return B * per_sample; }
  };

  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &w, const MaybeTensor &bias) {
    const auto flat = x.flatten(2), taps = w.contiguous().view({w.size(0), -1}); // (B,C,N), (C,4D)
    const Chunks cut(x, w.size(1));
    ctx->save_for_backward({w.requires_grad() ? flat : Tensor(), taps});
    ctx->saved_data["shape"] = x.sizes();
    ctx->saved_data["bias"] = bias.has_value();
    auto shape = x.sizes().vec();
    shape[1] = cut.D;
    for (size_t i : {1, 2}) shape[shape.size() - i] *= 2;
    auto y = at::empty(shape, x.options());
    const auto b = bias ? bias->contiguous() : Tensor();
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "upsampling", [&] {
      const auto *bp = b.defined() ? b.data_ptr<scalar_t>() : nullptr;
      auto *yp = y.data_ptr<scalar_t>();
      at::parallel_for(0, cut.tasks(), 1, [&](int64_t from, int64_t to) {
        at::AutoDispatchBelowADInplaceOrView below;
        const auto room = at::empty({4 * cut.D * cut.each * cut.W}, x.options());
        cut(from, to, [&](int64_t i, int64_t row, int64_t rows) {
          const int64_t n = rows * cut.W;
          auto part = room.narrow(0, 0, 4 * cut.D * n).view({4 * cut.D, n});
          at::mm_out(part, taps.t(), flat.select(0, i).narrow(1, row * cut.W, n));
          const auto *p = part.template data_ptr<scalar_t>();
          for (int64_t d = 0; d < cut.D; d++)
            for (int64_t r = 0; r < rows; r++)
              for (int64_t j = 0; j < 2; j++) {
                const auto *even = p + (4 * d + 2 * j) * n + r * cut.W;
                kernels::weave(cut.W, even, even + n, bp ? bp[d] : scalar_t(0), yp + (((i * cut.D + d) * cut.rows + row + r) * 2 + j) * 2 * cut.W);
              }
        });
      });
    });
    return y;
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const bool wanted = ctx->needs_input_grad(0), trained = ctx->needs_input_grad(1);
    const auto flat = trained ? saved[0].detach() : Tensor(), taps = saved[1].detach(), g = grads[0].contiguous();
    const auto shape = ctx->saved_data["shape"].toIntVector();
    const Chunks cut(taps.new_empty({1}).expand(shape), taps.size(1) / 4); // sizes alone
    const auto dx = wanted ? at::empty(shape, taps.options()) : Tensor();
    const int64_t parts = at::get_num_threads(), share = (cut.tasks() + parts - 1) / parts;
    auto dw = at::zeros({parts, taps.size(0), taps.size(1)}, taps.options()), db = at::zeros({parts, cut.D}, taps.options());
    AT_DISPATCH_FLOATING_TYPES(taps.scalar_type(), "upsampling", [&] {
      const auto *gp = g.data_ptr<scalar_t>();
      at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
        at::AutoDispatchBelowADInplaceOrView below;
        const auto room = at::empty({4 * cut.D * cut.each * cut.W}, taps.options());
        for (; first < last; first++) {
          auto of_weights = dw.select(0, first);
          auto *of_bias = db.select(0, first).template data_ptr<scalar_t>();
          cut(std::min(first * share, cut.tasks()), std::min((first + 1) * share, cut.tasks()), [&](int64_t i, int64_t row, int64_t rows) {
            const int64_t n = rows * cut.W;
            const auto part = room.narrow(0, 0, 4 * cut.D * n).view({4 * cut.D, n});
            auto *p = part.template data_ptr<scalar_t>();
            for (int64_t d = 0; d < cut.D; d++)
              for (int64_t r = 0; r < rows; r++)
                for (int64_t j = 0; j < 2; j++) {
                  auto *even = p + (4 * d + 2 * j) * n + r * cut.W;
                  of_bias[d] += kernels::unweave(cut.W, gp + (((i * cut.D + d) * cut.rows + row + r) * 2 + j) * 2 * cut.W, even, even + n);
                }
            if (wanted) {
              auto to = dx.flatten(2).select(0, i).narrow(1, row * cut.W, n);
              at::mm_out(to, taps, part);
            }
            if (trained) of_weights.addmm_(flat.select(0, i).narrow(1, row * cut.W, n), part.t());
          });
        }
      });
    });
    auto kernel = std::vector<int64_t>(shape.size(), 1);
    kernel[0] = taps.size(0), kernel[1] = cut.D, kernel[kernel.size() - 1] = kernel[kernel.size() - 2] = 2;
    return {dx, trained ? dw.sum(0).view(kernel) : Tensor(), wants_bias(ctx) ? db.sum(0) : Tensor()};
  }
};

// Compiled for each level of the processor's vector instructions, chosen at start.
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MULTIVERSION
#endif

// 64 bytes of T at any address.
template <typename T> struct Simd {
  typedef T V __attribute__((vector_size(64), aligned(alignof(T)), may_alias));
  static constexpr int64_t n = 64 / sizeof(T);
};

// A map (B,T,H,W,C) in memory; a row is its W·C elements at one b, t, h.
struct Map {
  int64_t B, T, H, W, C;
  explicit Map(const Tensor &x) : B(x.size(0)), T(x.size(2)), H(x.size(3)), W(x.size(4)), C(x.size(1)) {}
  int64_t rows() const { return B * T * H; }
};

// Rows [from, to) of the depthwise 3×3×3 convolution with padding 1, for weights
// (27,C) and bias (C) or null.
template <typename T>
MULTIVERSION void depthwise_rows(const T *x, const T *w, const T *bias, T *y, const Map m, int64_t from, int64_t to) {
  typedef typename Simd<T>::V V;
  constexpr int64_t L = Simd<T>::n;
  const int64_t C = m.C, row = m.W * C;
  for (int64_t r = from; r < to; r++) {
    const int64_t h = r % m.H, t = r / m.H % m.T;
    const int64_t t0 = t == 0, t1 = t == m.T - 1 ? 2 : 3, h0 = h == 0, h1 = h == m.H - 1 ? 2 : 3;
    for (int64_t j = 0; j < m.W; j++) {
      const int64_t w0 = j == 0, w1 = j == m.W - 1 ? 2 : 3;
      const T *in = x + r * row + j * C;
      T *out = y + r * row + j * C;
      int64_t c = 0;
      for (; c + 2 * L <= C; c += 2 * L) {
        V a{}, b{};
        if (bias) {
          a = *(const V *)(bias + c);
          b = *(const V *)(bias + c + L);
        }
        for (int64_t kt = t0; kt < t1; kt++)
          for (int64_t kh = h0; kh < h1; kh++) {
            const T *p = in + ((kt - 1) * m.H + kh - 1) * row - C + c, *q = w + (kt * 9 + kh * 3) * C + c;
            for (int64_t kw = w0; kw < w1; kw++) {
              a += *(const V *)(p + kw * C) * *(const V *)(q + kw * C);
              b += *(const V *)(p + kw * C + L) * *(const V *)(q + kw * C + L);
            }
          }
        *(V *)(out + c) = a;
        *(V *)(out + c + L) = b;
      }
      for (; c < C; c++) {
        T a = bias ? bias[c] : T(0);
        for (int64_t kt = t0; kt < t1; kt++)
          for (int64_t kh = h0; kh < h1; kh++)
            for (int64_t kw = w0; kw < w1; kw++)
              a += in[((kt - 1) * m.H + kh - 1) * row + (kw - 1) * C + c] * w[(kt * 9 + kh * 3 + kw) * C + c];
        out[c] = a;
      }
    }
  }
}

// Adds to the weights' gradient dw (27,C) the share of rows [from, to) of the incoming one.
template <typename T>
MULTIVERSION void depthwise_weights(const T *x, const T *g, T *dw, const Map m, int64_t from, int64_t to) {
  typedef typename Simd<T>::V V;
  constexpr int64_t L = Simd<T>::n;
  const int64_t C = m.C, row = m.W * C;
  for (int64_t r = from; r < to; r++) {
    const int64_t h = r % m.H, t = r / m.H % m.T;
    for (int64_t kt = t == 0; kt < (t == m.T - 1 ? 2 : 3); kt++)
      for (int64_t kh = h == 0; kh < (h == m.H - 1 ? 2 : 3); kh++) {
        const T *p = x + (r + (kt - 1) * m.H + kh - 1) * row, *q = g + r * row;
        T *d = dw + (kt * 9 + kh * 3) * C;
        int64_t c = 0;
        for (; c + L <= C; c += L) {
          V a{}, b{}, e{}, left{}, mid = *(const V *)(p + c); // x at j-1, j, j+1 against g at j
          for (int64_t j = 0; j < m.W; j++) {
            V right{};
            if (j + 1 < m.W) right = *(const V *)(p + (j + 1) * C + c);
            const V gj = *(const V *)(q + j * C + c);
            a += left * gj;
            b += mid * gj;
            e += right * gj;
            left = mid;
            mid = right;
          }
          *(V *)(d + c) += a;
          *(V *)(d + C + c) += b;
          *(V *)(d + 2 * C + c) += e;
        }
        for (; c < C; c++)
          for (int64_t kw = 0; kw < 3; kw++)
            for (int64_t j = kw == 0; j < m.W - (kw == 2); j++) d[kw * C + c] += p[(j + kw - 1) * C + c] * q[j * C + c];
      }
  }
}

// Depthwise 3×3×3 convolution, stride and padding 1, of float or double on the CPU,
// in channels-last memory.
struct Depthwise : torch::autograd::Function<Depthwise> {
  static constexpr auto last = at::MemoryFormat::ChannelsLast3d;

  static Tensor convolve(const Tensor &x, const Tensor &w, const Tensor &b) {
    auto y = at::empty(x.sizes(), x.options().memory_format(last));
    const Map m(x);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "depthwise", [&] {
      const auto *xp = x.data_ptr<scalar_t>(), *wp = w.data_ptr<scalar_t>(), *bp = b.defined() ? b.data_ptr<scalar_t>() : nullptr;
      auto *yp = y.data_ptr<scalar_t>();
      at::parallel_for(0, m.rows(), at::internal::GRAIN_SIZE / (m.W * m.C * 27) + 1,
                       [&](int64_t from, int64_t to) { depthwise_rows<scalar_t>(xp, wp, bp, yp, m, from, to); });
    });
    return y;
  }

  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &w, const MaybeTensor &b) {
    const auto xc = x.contiguous(last), taps = w.flatten(1).t().contiguous(); // (27,C)
    ctx->save_for_backward({xc, taps});
    ctx->saved_data["bias"] = b.has_value();
    return convolve(xc, taps, b ? b->contiguous() : Tensor());
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &taps = saved[1];
    const auto g = grads[0].contiguous(last);
    const Map m(x);
    const int64_t parts = at::get_num_threads(), rows = (m.rows() + parts - 1) / parts;
    auto sums = at::zeros({parts, 27, m.C}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "depthwise", [&] {
      const auto *xp = x.data_ptr<scalar_t>(), *gp = g.data_ptr<scalar_t>();
      auto *sp = sums.data_ptr<scalar_t>();
      at::parallel_for(0, parts, 1, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; i++)
          depthwise_weights<scalar_t>(xp, gp, sp + i * 27 * m.C, m, std::min(i * rows, m.rows()), std::min((i + 1) * rows, m.rows()));
      });
    });
    auto dw = sums.sum(0).t().reshape({m.C, 1, 3, 3, 3});
    return {convolve(g, taps.flip({0}), Tensor()), dw, wants_bias(ctx) ? g.sum({0, 2, 3, 4}) : Tensor()};
  }
};

// Pointers to the maps of contiguous tensors (B,C,…) as if they were joined along the channels.
template <typename T> std::vector<T *> maps(const variable_list &list) {
  std::vector<T *> v;
  for (int64_t i = 0; i < list[0].size(0); i++)
    for (const auto &x : list)
      for (int64_t j = i * x.size(1); j < (i + 1) * x.size(1); j++)
        v.push_back(x.data_ptr<std::remove_const_t<T>>() + j * c10::multiply_integers(x.sizes().slice(2)));
  return v;
}

// Whether the map is smaller than the kernel.
bool smaller(const Tensor &x, const Tensor &w) {
  for (int64_t i = 2; i < std::min(x.dim(), w.dim()); i++)
    if (x.size(i) < w.size(i)) return true;
  return false;
}

// Convolution of x (B,C,D,H,W) with w (O,C,kd,kh,kw) and bias (O) or nothing, by our own kernels: stride 1, padding of
// half the kernel, which is 1 or 3 along each axis; float or double on the CPU.
struct DirectConvolution : torch::autograd::Function<DirectConvolution> {
  // Where ours are faster, as measured: libtorch's are for small maps, except of a batch of one, and those of bfloat16 for
  // many channels, except where they are computed in float32 after all (convolution3d).
  static bool pays(const Tensor &x, const Tensor &w, bool narrow) {
    const int64_t area = x.size(-1) * x.size(-2);
    if (own_kernels == 2) return true;
    if (narrow) return smaller(x, w) || (area >= 64 && w.size(0) * w.size(1) < 4096) || area >= 128 * 128;
    return area >= 64 || x.size(0) == 1;
  }

  static bool fits(const Tensor &x, const Tensor &w, const Tensor &b, IntArrayRef stride, IntArrayRef pad, int64_t groups) {
    const auto kernel = w.sizes().slice(2);
    for (size_t i = 0; i < kernel.size(); i++)
      if ((kernel[i] != 1 && kernel[i] != 3) || pad[i] != kernel[i] / 2) return false;
    const auto type = w.scalar_type();
    return groups == 1 && all_are(stride, 1) && x.is_cpu() && w.is_cpu() && x.size(1) == w.size(1) && x.numel() > 0 && w.numel() > 0 &&
           (type == at::kFloat || type == at::kDouble) && x.scalar_type() == type && per_channel(b, w.size(0)) &&
           (!b.defined() || b.scalar_type() == type);
  }

  static kernels::Conv shape(const Tensor &y, const Tensor &w) {
    return {y.size(0), w.size(1), w.size(0), y.size(2), y.size(3), y.size(4), int(w.size(2)), int(w.size(3)), int(w.size(4))};
  }

  // y = the convolution of x's, or with back the gradients y of its inputs from that of its output.
  static void convolve(const variable_list &x, const Tensor &w, const Tensor &b, bool back, const variable_list &y) {
    auto c = shape(x[0], w);
    if (back) std::swap(c.C, c.O);
    AT_DISPATCH_FLOATING_TYPES(w.scalar_type(), "convolution", [&] {
      const auto packed = at::empty({kernels::packed_size<scalar_t>(c)}, w.options());
      auto *pp = packed.data_ptr<scalar_t>();
      kernels::pack(c, w.data_ptr<scalar_t>(), back, pp);
      const auto in = maps<const scalar_t>(x);
      const auto out = maps<scalar_t>(y);
      const auto *bp = b.defined() ? b.data_ptr<scalar_t>() : nullptr;
      at::parallel_for(0, kernels::conv_tasks<scalar_t>(c), 1,
                       [&](int64_t from, int64_t to) { kernels::conv<scalar_t>(c, in.data(), pp, bp, out.data(), from, to); });
    });
  }

  static Tensor weights(const variable_list &x, const Tensor &g, const Tensor &w) {
    const auto dw = at::empty(w.sizes(), w.options());
    AT_DISPATCH_FLOATING_TYPES(w.scalar_type(), "convolution", [&] {
      const auto in = maps<const scalar_t>(x), out = maps<const scalar_t>({g});
      auto *dp = dw.data_ptr<scalar_t>();
      at::parallel_for(0, w.size(1), 1, [&](int64_t from, int64_t to) {
        kernels::conv_weights<scalar_t>(shape(g, w), in.data(), out.data(), dp, from, to);
      });
    });
    return dw;
  }

  static Tensor output(const Tensor &x, const Tensor &w) {
    return at::empty({x.size(0), w.size(0), x.size(2), x.size(3), x.size(4)}, x.options());
  }

  static Tensor forward(AutogradContext *ctx, const Tensor &input, const Tensor &weight, const MaybeTensor &b) {
    const auto x = input.contiguous(), w = weight.contiguous();
    ctx->save_for_backward({x, w});
    ctx->saved_data["bias"] = b.has_value();
    const auto y = output(x, w);
    convolve({x}, w, b ? b->contiguous() : Tensor(), false, {y});
    return y;
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &w = saved[1];
    const auto g = grads[0].contiguous();
    Tensor dx;
    if (ctx->needs_input_grad(0)) convolve({g}, w, {}, true, {dx = at::empty_like(x)});
    return {dx, ctx->needs_input_grad(1) ? weights({x}, g, w) : Tensor(), wants_bias(ctx) ? g.sum({0, 2, 3, 4}) : Tensor()};
  }
};

// ints: stride, pad (n each), groups.
OP(Conv2d) {
  auto x = c[0], w = c[1];
  const auto stride = c.part(0, 2), pad = c.part(2, 2);
  const int64_t groups = c.ints[4];
  if (own_kernels && x.is_cpu() && x.dim() == 4 && w.dim() == 4 && x.size(1) == w.size(1) && all_are(w.sizes().slice(2), 1) && all_are(stride, 1) && all_are(pad, 0) && groups == 1)
    return c.ret(channel_product(x, w.flatten(1), c[2]));
  if (own_kernels && !c.autocast && x.dim() == 4 && w.dim() == 4 && DirectConvolution::fits(x, w, c[2], stride, pad, groups) &&
      DirectConvolution::pays(x, w, false))
    return c.ret(DirectConvolution::apply(x.unsqueeze(2), w.unsqueeze(2), c.maybe(2)).squeeze(2));
  c.ret(at::conv2d(x, w, c.maybe(2), stride, pad, 1, groups));
}

Tensor convolution3d(const Call &c, const Tensor &x, const Tensor &w, const Tensor &b, IntArrayRef stride, IntArrayRef pad, int64_t groups) {
  const auto maybe = [](const Tensor &t) { return t.defined() ? MaybeTensor(t) : MaybeTensor(); };
  if (own_kernels && x.is_cpu() && x.dim() == 5 && w.dim() == 5 && x.size(1) == w.size(1) * groups && all_are(stride, 1)) {
    const auto kernel = w.sizes().slice(2);
    const auto wide = c.autocast && is_half(x) ? x.to(at::kFloat) : x;
    if (groups == 1 && all_are(kernel, 1) && all_are(pad, 0)) return channel_product(x, w.flatten(1), b);
    if (groups == w.size(0) && w.size(1) == 1 && all_are(kernel, 3) && all_are(pad, 1) && x.numel() > 0 && wide.scalar_type() == w.scalar_type() && !is_half(w) && w.is_cpu() && per_channel(b, w.size(0)))
      return Depthwise::apply(wide, w, maybe(b));
    if (DirectConvolution::fits(wide, w, b, stride, pad, groups) && DirectConvolution::pays(x, w, c.autocast)) return DirectConvolution::apply(wide, w, maybe(b));
  }
  // The oneDNN of libtorch 2.15 leaves parts of bf16 weight gradients unset where the
  // map is smaller than the kernel: those go in float32.
  if (c.autocast && x.is_cpu() && smaller(x, w)) {
    c10::impl::ExcludeDispatchKeyGuard off(c10::autocast_dispatch_keyset);
    return at::conv3d(x.to(at::kFloat), w.to(at::kFloat), b.defined() ? MaybeTensor(b.to(at::kFloat)) : MaybeTensor(), stride, pad, 1, groups);
  }
  return at::conv3d(x, w, maybe(b), stride, pad, 1, groups);
}
OP(Conv3d) { c.ret(convolution3d(c, c[0], c[1], c[2], c.part(0, 3), c.part(3, 3), c.ints[6])); }

template <typename F> void transposed(Call &c, int n, F &&libtorch) {
  auto x = c[0], w = c[1];
  const auto stride = c.part(0, n), pad = c.part(n, n);
  const int64_t groups = c.ints[2 * n];
  if (own_kernels && x.is_cpu() && x.dim() == n + 2 && w.dim() == n + 2 && x.size(1) == w.size(0) && groups == 1 && w.sizes().slice(2) == stride &&
      all_are(pad, 0)) {
    if (!c.autocast && Upsampling::fits(x, w, c[2])) return c.ret(Upsampling::apply(x, w, c.maybe(2)));
    return c.ret(upsampling_convolution(x, w, c[2]));
  }
  c.ret(libtorch(x, w, c.maybe(2), stride, pad, 0, groups));
}
OP(ConvTranspose2d) {
  transposed(c, 2, [](auto &&...a) { return at::conv_transpose2d(a...); });
}
OP(ConvTranspose3d) {
  transposed(c, 3, [](auto &&...a) { return at::conv_transpose3d(a...); });
}

// ---- normalisation, pooling, sampling, losses -------------------------------------------------------

OP(Softmax) { c.ret(at::softmax(c.wide(0), c.ints[0])); }

struct LayerNorm : torch::autograd::Function<LayerNorm> {
  template <typename T> static kernels::RowNorm<T> rows(const Tensor &w, const Tensor &b, const Tensor &moments, int64_t n) {
    const auto pointer = [](const Tensor &x) { return x.defined() ? x.data_ptr<T>() : nullptr; };
    auto *mean = moments.data_ptr<T>();
    return {n, pointer(w), pointer(b), mean, mean + moments.size(1)};
  }
  static Tensor forward(AutogradContext *ctx, const Tensor &input, const MaybeTensor &weight, const MaybeTensor &bias, double eps) {
    const auto x = input.contiguous(), w = weight ? weight->contiguous() : Tensor(), b = bias ? bias->contiguous() : Tensor();
    const int64_t n = x.size(-1), rows = x.numel() / n;
    const auto y = at::empty(x.sizes(), x.options()), moments = at::empty({2, rows}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "layer norm", [&] {
      const auto *xp = x.data_ptr<scalar_t>();
      auto *yp = y.data_ptr<scalar_t>();
      const auto k = LayerNorm::rows<scalar_t>(w, b, moments, n);
      at::parallel_for(0, rows, at::internal::GRAIN_SIZE / n + 1, [&](int64_t from, int64_t to) { kernels::row_norm(k, eps, xp, yp, from, to); });
    });
    ctx->save_for_backward({x, w, moments});
    ctx->saved_data["bias"] = b.defined();
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &w = saved[1], &moments = saved[2];
    const auto g = grads[0].contiguous();
    // Sums are of so many rows, and then of these, whatever the threads.
    const int64_t n = x.size(-1), rows = moments.size(1), each = at::internal::GRAIN_SIZE / n + 1, parts = (rows + each - 1) / each;
    const auto gx = ctx->needs_input_grad(0) ? at::empty(x.sizes(), x.options()) : Tensor();
    auto sums = at::zeros({parts, 2, n}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "layer norm", [&] {
      const auto *xp = x.data_ptr<scalar_t>(), *gp = g.data_ptr<scalar_t>();
      auto *to_x = gx.defined() ? gx.data_ptr<scalar_t>() : nullptr, *sp = sums.data_ptr<scalar_t>();
      const auto k = LayerNorm::rows<scalar_t>(w, {}, moments, n);
      at::parallel_for(0, parts, 1, [&](int64_t from, int64_t to) {
        for (; from < to; from++)
          kernels::row_norm_back(k, xp, gp, to_x, sp + 2 * from * n, sp + (2 * from + 1) * n, from * each, std::min((from + 1) * each, rows));
      });
    });
    sums = parts > 1 ? sums.sum(0) : sums.select(0, 0);
    return {gx, w.defined() ? sums.select(0, 0) : Tensor(), ctx->saved_data["bias"].toBool() ? sums.select(0, 1) : Tensor(), Tensor()};
  }
};

Tensor layer_norm(const Tensor &x, const MaybeTensor &w, const MaybeTensor &b, double eps) {
  const auto of = [&](const MaybeTensor &v) { return !v || (per_channel(*v, x.size(-1)) && of_type(*v, x.scalar_type())); };
  if (x.dim() > 0 && plain_numbers(x) && of(w) && of(b)) return LayerNorm::apply(x, w, b, eps);
  return at::layer_norm(x, {x.size(-1)}, w, b, eps);
}
OP(LayerNorm) { c.ret(layer_norm(c.wide(0), c.maybe(1), c.maybe(2), c.nums[0])); }

OP(ChannelNorm) {
  const auto x = c.wide(0), rows = x.movedim(1, -1);
  if (!own_kernels || !x.is_cpu() || x.dim() < 2 || rows.is_contiguous() || !per_channel(c[1], x.size(1)) || !per_channel(c[2], x.size(1)))
    return c.ret(layer_norm(rows, c.maybe(1), c.maybe(2), c.nums[0]).movedim(-1, 1));
  // layer_norm copies other layouts element by element, and forth and back.
  std::vector<int64_t> channel(x.dim(), 1);
  channel[1] = -1;
  auto y = x - x.mean(1, true);
  y = y * at::rsqrt(y.square().mean(1, true) + c.nums[0]);
  if (c[1].defined()) y = y * c[1].view(channel);
  c.ret(c[2].defined() ? y + c[2].view(channel) : y);
}

// Instance norm, with weight and bias (C) or nothing, and leaky ReLU behind it (a slope of 1 is none), by our own kernels.
// For the gradient it keeps the result, which what follows keeps as well, where its input follows from that.
struct InstanceNorm : torch::autograd::Function<InstanceNorm> {
  static bool fits(const Tensor &x, const Tensor &w, const Tensor &b) {
    const auto type = x.scalar_type();
    return x.is_cpu() && (type == at::kFloat || type == at::kDouble) && x.dim() > 2 && x.numel() > 0 && per_channel(w, x.size(1)) &&
           per_channel(b, x.size(1)) && (!w.defined() || w.scalar_type() == type) && (!b.defined() || b.scalar_type() == type);
  }

  // What a block of convolution and norm shares with this: the numbers of each channel, mean and 1/σ of each map.
  struct State {
    Tensor w, b, moments; // moments (2,B,C)
    double slope;
    bool inverse;

    template <typename T> kernels::Norm<T> of(int64_t map, int64_t channels, int64_t n) const {
      const int64_t c = map % channels, all = moments.numel() / 2;
      const auto *m = moments.data_ptr<T>();
      return {n, w.defined() ? w.data_ptr<T>()[c] : T(1), b.defined() ? b.data_ptr<T>()[c] : T(0), T(slope), m[map], m[all + map]};
    }
  };

  static State state(const Tensor &y, const Tensor &w, const Tensor &b, double slope) {
    State s{w.defined() ? w.contiguous() : w, b.defined() ? b.contiguous() : b, at::zeros({2, y.size(0), y.size(1)}, y.options()), slope, true};
    AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "norm", [&] {
      for (int64_t c = 0; c < y.size(1); c++) {
        const auto k = s.of<scalar_t>(c, y.size(1), 0);
        s.inverse = s.inverse && kernels::invertible(k.gamma, k.beta, k.slope);
      }
    });
    return s;
  }

  static void norm(const State &s, const Tensor &y, const Tensor &z, double eps) {
    const int64_t all = y.size(0) * y.size(1), n = y.numel() / all;
    AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "norm", [&] {
      const auto *yp = y.data_ptr<scalar_t>();
      auto *zp = z.data_ptr<scalar_t>(), *mp = s.moments.data_ptr<scalar_t>();
      at::parallel_for(0, all, at::internal::GRAIN_SIZE / n + 1, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; i++) {
          auto k = s.of<scalar_t>(i, y.size(1), n);
          kernels::norm(k, eps, yp + i * n, zp + i * n);
          mp[i] = k.mean, mp[all + i] = k.rstd;
        }
      });
    });
  }

  // The gradients of y, weight and bias.
  static variable_list back(const State &s, const Tensor &kept, const Tensor &g) {
    const int64_t all = g.size(0) * g.size(1), n = g.numel() / all;
    const auto gy = at::empty(g.sizes(), g.options()), sums = at::empty({2, g.size(0), g.size(1)}, g.options());
    AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "norm", [&] {
      const auto *kp = kept.data_ptr<scalar_t>(), *gp = g.data_ptr<scalar_t>();
      auto *yp = gy.data_ptr<scalar_t>(), *sp = sums.data_ptr<scalar_t>();
      at::parallel_for(0, all, at::internal::GRAIN_SIZE / n + 1, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; i++)
          kernels::norm_back(s.of<scalar_t>(i, g.size(1), n), s.inverse, kp + i * n, gp + i * n, yp + i * n, sp + i, sp + all + i);
      });
    });
    const auto over_batch = [&](int64_t i, const Tensor &of) { return of.defined() ? sums.select(0, i).sum(0) : Tensor(); };
    return {gy, over_batch(0, s.w), over_batch(1, s.b)};
  }

  static void save(AutogradContext *ctx, const State &s, variable_list more) {
    more.insert(more.end(), {s.w, s.b, s.moments});
    ctx->save_for_backward(std::move(more));
    ctx->saved_data["slope"] = s.slope;
    ctx->saved_data["inverse"] = s.inverse;
  }
  static State saved(AutogradContext *ctx, const variable_list &v) {
    const auto *end = v.data() + v.size();
    return {end[-3], end[-2], end[-1], ctx->saved_data["slope"].toDouble(), ctx->saved_data["inverse"].toBool()};
  }

  static Tensor forward(AutogradContext *ctx, const Tensor &input, const MaybeTensor &w, const MaybeTensor &b, double eps, double slope) {
    const auto x = input.contiguous();
    const auto s = state(x, w.value_or(Tensor()), b.value_or(Tensor()), slope);
    const auto z = at::empty(x.sizes(), x.options());
    norm(s, x, z, eps);
    save(ctx, s, {s.inverse ? z : x});
    return z;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto v = ctx->get_saved_variables();
    auto g = back(saved(ctx, v), v[0], grads[0].contiguous());
    g.resize(5);
    return g;
  }
};

// Convolution, instance norm and leaky ReLU as one: of the three maps, the result alone is kept for the gradient.
struct ConvBlock : torch::autograd::Function<ConvBlock> {
  // x and, if given, more are joined along the channels; then the weight and bias of the convolution and of the norm.
  static Tensor forward(AutogradContext *ctx, const Tensor &first, const MaybeTensor &more, const Tensor &weight, const MaybeTensor &bias,
                        const MaybeTensor &scale, const MaybeTensor &shift, double eps, double slope) {
    variable_list x{first.contiguous()};
    if (more) x.push_back(more->contiguous());
    const auto w = weight.contiguous(), y = DirectConvolution::output(first, w);
    DirectConvolution::convolve(x, w, bias ? bias->contiguous() : Tensor(), false, {y});
    const auto s = InstanceNorm::state(y, scale.value_or(Tensor()), shift.value_or(Tensor()), slope);
    const auto z = s.inverse ? y : at::empty(y.sizes(), y.options());
    InstanceNorm::norm(s, y, z, eps);
    ctx->saved_data["bias"] = bias.has_value();
    x.insert(x.end(), {w, y});
    InstanceNorm::save(ctx, s, x);
    return z;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const size_t n = saved.size() - 5;
    const variable_list x(saved.begin(), saved.begin() + n);
    const auto &w = saved[n];
    const auto g = InstanceNorm::back(InstanceNorm::saved(ctx, saved), saved[n + 1], grads[0].contiguous());
    variable_list dx(n);
    bool wanted = false;
    for (size_t i = 0; i < n; i++) wanted = wanted || ctx->needs_input_grad(i);
    if (wanted) {
      for (size_t i = 0; i < n; i++) dx[i] = at::empty_like(x[i]);
      DirectConvolution::convolve({g[0]}, w, {}, true, dx);
    }
    dx.resize(2);
    // The norm takes a bias away again: its gradient is nothing.
    dx.insert(dx.end(), {DirectConvolution::weights(x, g[0], w), ctx->saved_data["bias"].toBool() ? at::zeros({w.size(0)}, w.options()) : Tensor(),
                         g[1], g[2], Tensor(), Tensor()});
    return dx;
  }
};

// Instance norm and leaky ReLU with slope, of which 1 is none. A graph keeps one map of ours, two of libtorch's.
Tensor instance_norm(const Tensor &x, const MaybeTensor &w, const MaybeTensor &b, double eps, double slope) {
  if (own_kernels && InstanceNorm::fits(x, w.value_or(Tensor()), b.value_or(Tensor()))) return InstanceNorm::apply(x, w, b, eps, slope);
  auto y = at::instance_norm(x, w, b, {}, {}, true, 0.1, eps, true);
  return slope == 1 ? y : at::leaky_relu_(y, slope);
}
OP(InstanceNorm) { c.ret(instance_norm(c[0], c.maybe(1), c.maybe(2), c.nums[0], c.nums[1])); }

// in: maps to be joined along the channels, weight and bias of the convolution and of the norm; nums: eps, slope.
OP(ConvBlock) {
  const int n = c.nin - 4;
  const auto w = c[n];
  std::vector<int64_t> pad;
  for (int64_t k : w.sizes().slice(2)) pad.push_back(k / 2);
  variable_list in;
  int64_t channels = 0;
  bool fit = own_kernels && n > 0 && w.dim() == 5;
  for (int i = 0; i < c.nin; i++) {
    in.push_back(i < n && fit ? c.wide(i) : c[i]);
    if (i >= n || !fit) continue;
    const auto &x = in[i];
    fit = x.dim() == 5 && x.is_cpu() && x.scalar_type() == w.scalar_type() && x.size(0) == in[0].size(0) && x.sizes().slice(2) == in[0].sizes().slice(2);
    channels += fit ? x.size(1) : 0;
  }
  if (fit) {
    const auto all = in[0].narrow(1, 0, 1).expand({-1, channels, -1, -1, -1});
    fit = !all_are(w.sizes().slice(2), 1) && DirectConvolution::fits(all, w, in[n + 1], {1, 1, 1}, pad, 1) &&
          DirectConvolution::pays(all, w, c.autocast) &&
          InstanceNorm::fits(in[0].narrow(1, 0, 1).expand({-1, w.size(0), -1, -1, -1}), in[n + 2], in[n + 3]);
  }
  if (fit) {
    if (n > 2) in[1] = at::cat(variable_list(in.begin() + 1, in.begin() + n), 1);
    return c.ret(ConvBlock::apply(in[0], n > 1 ? MaybeTensor(in[1]) : MaybeTensor(), w, c.maybe(n + 1), c.maybe(n + 2), c.maybe(n + 3),
                                  c.nums[0], c.nums[1]));
  }
  for (int i = 0; i < n; i++) in[i] = c[i];
  in.resize(n);
  auto y = convolution3d(c, n == 1 ? in[0] : at::cat(in, 1), w, c[n + 1], {1, 1, 1}, pad, 1);
  c.ret(instance_norm(y, c.maybe(n + 2), c.maybe(n + 3), c.nums[0], c.nums[1]));
}

struct CellMeans : torch::autograd::Function<CellMeans> {
  static Tensor forward(AutogradContext *ctx, const Tensor &input, int64_t h, int64_t w) {
    const auto x = input.contiguous();
    ctx->saved_data["shape"] = x.sizes();
    auto y = at::empty({x.size(0), x.size(1), h, w}, x.options());
    const kernels::Pool k{x.size(2), x.size(3), h, w};
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "means", [&] {
      const auto *xp = x.data_ptr<scalar_t>();
      auto *yp = y.data_ptr<scalar_t>();
      at::parallel_for(0, x.size(0) * x.size(1), at::internal::GRAIN_SIZE / (k.H * k.W) + 1, [&](int64_t from, int64_t to) {
        for (; from < to; from++) kernels::pool(k, xp + from * k.H * k.W, yp + from * h * w);
      });
    });
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const auto g = grads[0].contiguous();
    const auto shape = ctx->saved_data["shape"].toIntVector();
    const auto gx = at::empty(shape, g.options());
    const kernels::Pool k{shape[2], shape[3], g.size(2), g.size(3)};
    AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "means", [&] {
      const auto *gp = g.data_ptr<scalar_t>();
      auto *to_x = gx.data_ptr<scalar_t>();
      at::parallel_for(0, shape[0] * shape[1], at::internal::GRAIN_SIZE / (k.H * k.W) + 1, [&](int64_t from, int64_t to) {
        for (; from < to; from++) kernels::pool_back(k, gp + from * k.h * k.w, to_x + from * k.H * k.W);
      });
    });
    return {gx, Tensor(), Tensor()};
  }
};
OP(AdaptiveAvgPool2d) {
  auto x = c[0];
  if (plain_numbers(x) && x.dim() == 4 && c.nints == 2 && c.ints[0] > 0 && c.ints[1] > 0) return c.ret(CellMeans::apply(x, c.ints[0], c.ints[1]));
  c.ret(at::adaptive_avg_pool2d(x, c.rest()));
}

OP(Interpolate) {
  const auto x = c.wide(0);
  const auto size = c.rest(1);
  const auto want = [&](size_t n) {
    TORCH_CHECK(size.size() == n && x.dim() == int64_t(n) + 2, "this mode needs an input of ", n + 2, " dimensions and ", n, " sizes");
  };
  enum { nearest, linear, bilinear };
  switch (c.ints[0]) {
  case linear:
    want(1);
    return c.ret(at::upsample_linear1d(x, size, false));
  case bilinear:
    want(2);
    return c.ret(at::upsample_bilinear2d(x, size, false));
  default:
    want(2);
    return c.ret(at::upsample_nearest2d(x, size));
  }
}

OP(GridSample) { c.ret(at::grid_sampler(c[0], c[1], 0, 0, false)); } // bilinear, zeros outside
OP(BCEWithLogits) {
  c.ret(at::binary_cross_entropy_with_logits(c.wide(0), c[1], {}, {}, at::Reduction::None));
}
OP(CrossEntropy) { c.ret(at::cross_entropy_loss(c.wide(0), c[1], c.maybe(2), at::Reduction::None)); }

// ---- autograd ---------------------------------------------------------------------------------

// in: tensors' end of the graph, incoming gradient or 0.
OP(Backward) {
  variable_list roots, grads;
  for (int i = 0; i < c.nin; i += 2) roots.push_back(c[i]), grads.push_back(c[i + 1]);
  torch::autograd::backward(roots, grads);
}

// ---- in place, without gradients ---------------------------------------------------------------

OP(Copy) { c[0].copy_(c[1]); }

// What is done to each value of many tensors, in pieces that do not depend on the number of threads, so that sums do not.
struct Pieces {
  struct Piece {
    const Tensor *x[4];
    int64_t from, n, tensor;
  };
  std::vector<Piece> list;

  // Whether tensors of equal shape are of the kind that this can do; then they are added.
  bool add(std::initializer_list<const Tensor *> tensors, int64_t tensor = 0) {
    const auto &first = **tensors.begin();
    for (const auto *x : tensors)
      if (!plain_numbers(*x) || !x->is_contiguous() || x->scalar_type() != first.scalar_type() || x->sizes() != first.sizes()) return false;
    Piece piece{{}, 0, 0, tensor};
    std::copy(tensors.begin(), tensors.end(), piece.x);
    constexpr int64_t most = 1 << 14;
    for (; piece.from < first.numel(); piece.from += most) {
      piece.n = std::min(most, first.numel() - piece.from);
      list.push_back(piece);
    }
    return true;
  }

  // f gets the number of the piece, the piece and pointers to its values.
  template <typename F> void operator()(F &&f) const {
    at::parallel_for(0, list.size(), 1, [&](int64_t begin, int64_t end) {
      for (; begin < end; begin++) {
        const auto &piece = list[begin];
        AT_DISPATCH_FLOATING_TYPES(piece.x[0]->scalar_type(), "pieces", [&] {
          scalar_t *p[4] = {};
          for (int i = 0; i < 4 && piece.x[i]; i++) p[i] = piece.x[i]->data_ptr<scalar_t>() + piece.from;
          f(begin, piece, p);
        });
      }
    });
  }
};

// in: dst, src, dst, src, …
OP(LerpInto) {
  const auto all = c.all();
  Pieces pieces;
  for (size_t i = 0; i + 1 < all.size(); i += 2)
    if (!pieces.add({&all[i], &all[i + 1]})) all[i].lerp_(all[i + 1].to(all[i].options()), c.nums[0]);
  pieces([&](int64_t, const auto &piece, auto **p) { kernels::lerp(piece.n, p[0], p[1], std::decay_t<decltype(**p)>(c.nums[0])); });
}

// The gradients of parameters that have one, in order.
variable_list gradients(const Call &c) {
  variable_list grads;
  for (int i = 0; i < c.nin; i++)
    if (auto g = c[i].grad(); g.defined()) grads.push_back(g);
  return grads;
}

void scale_all(const variable_list &list, double factor) {
  Pieces pieces;
  for (const auto &g : list)
    if (!pieces.add({&g})) g.mul_(factor);
  pieces([&](int64_t, const auto &piece, auto **p) { kernels::scale(piece.n, p[0], std::decay_t<decltype(**p)>(factor)); });
}

OP(ScaleGrads) { scale_all(gradients(c), c.nums[0]); }

// Total 2-norm of the gradients, which are scaled to at most nums[0].
OP(ClipGradNorm) {
  const auto grads = gradients(c);
  if (grads.empty()) return c.ret(at::zeros({}, at::kDouble));
  Pieces pieces;
  if (std::all_of(grads.begin(), grads.end(), [&](const Tensor &g) { return pieces.add({&g}); })) {
    std::vector<double> squares(pieces.list.size());
    pieces([&](int64_t i, const auto &piece, auto **p) { squares[i] = kernels::squares(piece.n, p[0]); });
    const double total = std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.)), factor = c.nums[0] / (total + 1e-6);
    if (!(factor >= 1)) scale_all(grads, factor); // also where it is NaN
    return c.ret(at::full({}, total, at::kDouble));
  }
  std::vector<Tensor> norms;
  for (const auto &g : grads) norms.push_back(at::linalg_vector_norm(g, 2).to(grads[0].device()));
  auto total = at::linalg_vector_norm(at::stack(norms), 2);
  auto coef = at::clamp(c.nums[0] / (total + 1e-6), c10::nullopt, 1.0);
  for (auto &g : grads) g.mul_(coef.to(g.device()));
  c.ret(total);
}

// in: a parameter and another one of its shape, …: the second's gradient is added to the first's, and the second has none.
OP(MoveGrads) {
  variable_list sums;
  for (int i = 0; i + 1 < c.nin; i += 2) {
    auto to = c[i], from = c[i + 1];
    auto g = from.grad();
    if (!g.defined()) continue;
    from.mutable_grad() = Tensor();
    if (g.device() != to.device()) g = g.to(to.device());
    if (to.grad().defined())
      sums.insert(sums.end(), {to.grad(), g});
    else
      to.mutable_grad() = g;
  }
  Pieces pieces;
  for (size_t i = 0; i < sums.size(); i += 2)
    if (!pieces.add({&sums[i], &sums[i + 1]})) sums[i].add_(sums[i + 1]);
  pieces([&](int64_t, const auto &piece, auto **p) { kernels::add(piece.n, p[0], p[1]); });
}

// in: parameter, momentum buffer, …; nums: lr, momentum, weight decay, nesterov.
OP(SGDStep) {
  const double lr = c.nums[0], momentum = c.nums[1], decay = c.nums[2];
  const auto all = c.all();
  variable_list grads;
  for (int i = 0; i + 1 < c.nin; i += 2) grads.push_back(all[i].grad());
  Pieces pieces;
  for (int i = 0; i + 1 < c.nin; i += 2) {
    const auto &p = all[i], &buf = all[i + 1];
    auto g = grads[i / 2];
    if (!g.defined() || pieces.add({&p, &grads[i / 2], &buf})) continue;
    if (decay != 0) g = at::add(g, p, decay);
    if (momentum != 0) {
      buf.mul_(momentum).add_(g);
      g = c.nums[3] != 0 ? at::add(g, buf, momentum) : buf;
    }
    p.add_(g, -lr);
  }
  pieces([&](int64_t, const auto &piece, auto **p) {
    using T = std::decay_t<decltype(**p)>;
    kernels::sgd<T>({T(lr), T(momentum), T(decay), c.nums[3] != 0}, piece.n, p[0], p[1], p[2]);
  });
}

// in: parameter, first moment, second moment and, with AMSGrad, the largest second moment, …; ints: each parameter's step,
// counted from 1; nums: lr, beta1, beta2, eps, weight decay, whether it is added to the gradient (Adam), AMSGrad.
OP(AdamWStep) {
  const double lr = c.nums[0], b1 = c.nums[1], b2 = c.nums[2], eps = c.nums[3], decay = c.nums[4];
  const bool coupled = c.nums[5] != 0, largest = c.nums[6] != 0;
  const int each = largest ? 4 : 3;
  const auto all = c.all();
  variable_list grads;
  for (int i = 0; i + each <= c.nin; i += each) grads.push_back(all[i].grad());
  const auto root = [&](int64_t i) { return std::sqrt(1 - std::pow(b2, double(c.ints[i]))); };
  const auto rate = [&](int64_t i) { return lr / (1 - std::pow(b1, double(c.ints[i]))); };
  Pieces pieces;
  for (int i = 0; i + each <= c.nin; i += each) {
    const auto &p = all[i], &m = all[i + 1], &v = all[i + 2];
    const int k = i / each;
    auto g = grads[k];
    if (!g.defined() || (!coupled && !largest && pieces.add({&p, &grads[k], &m, &v}, k))) continue;
    if (coupled)
      g = at::add(g, p, decay);
    else
      p.mul_(1 - lr * decay);
    m.mul_(b1).add_(g, 1 - b1);
    v.mul_(b2).addcmul_(g, g, 1 - b2);
    if (largest) all[i + 3].copy_(at::max(all[i + 3], v));
    auto denom = all[i + each - 1].sqrt().div_(root(k)).add_(eps);
    p.addcdiv_(m, denom, -rate(k));
  }
  pieces([&](int64_t, const auto &piece, auto **p) {
    using T = std::decay_t<decltype(**p)>;
    const int64_t i = piece.tensor;
    kernels::adamw<T>({T(1 - lr * decay), T(b1), T(1 - b1), T(b2), T(1 - b2), T(root(i)), T(eps), T(rate(i))}, piece.n, p[0], p[1], p[2], p[3]);
  });
}

const struct {
  const char *name;
  void (*run)(Call &);
} table[] = {
#define X(name) {#name, run_##name},
    SHIM_OPS(X)
#undef X
};

// ---- profile ------------------------------------------------------------------------------------------

using Clock = std::chrono::steady_clock;

struct Timing {
  int64_t calls = 0;
  double total = 0, self = 0;
};

struct Profile {
  std::mutex lock;
  std::unordered_map<std::string, Timing> rows[3]; // of each kind
  std::atomic<bool> on{false};
  at::CallbackHandle callback{};
} profile;

// What runs on this thread: operations of the table and backward nodes in one stack, libtorch's own in the other.
struct Running {
  Clock::time_point start;
  double inner; // seconds of those within
};
thread_local std::vector<Running> running[2];

void enter(int kind) { running[kind == 2].push_back({Clock::now(), 0}); }

void leave(int kind, const char *name) {
  auto &stack = running[kind == 2];
  if (stack.empty()) return; // it began before the profile
  const auto r = stack.back();
  stack.pop_back();
  const double took = std::chrono::duration<double>(Clock::now() - r.start).count();
  if (!stack.empty()) stack.back().inner += took;
  std::lock_guard<std::mutex> hold(profile.lock);
  auto &row = profile.rows[kind][name];
  row.calls++;
  row.total += took;
  row.self += took - r.inner;
}

// An operation of the table while it runs. One that fails leaves, too.
struct Entered {
  const char *name;
  explicit Entered(const char *of) : name(of) { enter(0); }
  ~Entered() { leave(0, name); }
  Entered(const Entered &) = delete;
};

int kind_of(const at::RecordFunction &f) { return f.scope() == at::RecordScope::BACKWARD_FUNCTION ? 1 : 2; }

// ---- peak of the processor ------------------------------------------------------------------------------

// n·lanes multiplications and additions by chains that do not wait for each other.
constexpr int chains = 12;
#ifdef __x86_64__
__attribute__((target("avx2,fma"))) float multiply_add_avx2(int64_t n) {
  __m256 a[chains];
  for (auto &v : a) v = _mm256_set1_ps(1);
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
  for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 12
    for (auto &v : a) v = _mm256_fmadd_ps(v, x, y);
  }
  for (auto &v : a) a[0] = _mm256_add_ps(a[0], v);
  return _mm256_cvtss_f32(a[0]);
}
__attribute__((target("avx512f"))) float multiply_add_avx512(int64_t n) {
  __m512 a[chains];
  for (auto &v : a) v = _mm512_set1_ps(1);
  const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
  for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 12
    for (auto &v : a) v = _mm512_fmadd_ps(v, x, y);
  }
  for (auto &v : a) a[0] = _mm512_add_ps(a[0], v);
  return _mm512_cvtss_f32(a[0]);
}
__attribute__((target("avx512f,avx512bf16"))) float multiply_add_bf16(int64_t n) {
  __m512 a[chains];
  for (auto &v : a) v = _mm512_set1_ps(1);
  const auto x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.01f), _mm512_set1_ps(0.01f));
  for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 12
    for (auto &v : a) v = _mm512_dpbf16_ps(v, x, x);
  }
  for (auto &v : a) a[0] = _mm512_add_ps(a[0], v);
  return _mm512_cvtss_f32(a[0]);
}
#endif
float multiply_add(int64_t n) {
  float a[chains * 4];
  std::fill(std::begin(a), std::end(a), 1.f);
  for (int64_t i = 0; i < n; i++)
    for (auto &v : a) v = v * 0.999f + 0.001f;
  return std::accumulate(std::begin(a), std::end(a), 0.f);
}

} // namespace

// ---- C interface -----------------------------------------------------------------------------------

extern "C" {

void shim_use_own_kernels(int when) { own_kernels = when; }

void shim_keep_memory(int keep) {
  keep_memory(keep != 0);
  shim_keep_pages(keep);
}

void shim_profile(int on) {
  if (profile.on.exchange(on != 0)) at::removeCallback(profile.callback);
  for (auto &stack : running) stack.clear();
  if (!on) return;
  {
    std::lock_guard<std::mutex> hold(profile.lock);
    for (auto &rows : profile.rows) rows.clear();
  }
  profile.callback = at::addGlobalCallback(
      at::RecordFunctionCallback(
          [](const at::RecordFunction &f) -> std::unique_ptr<at::ObserverContext> {
            enter(kind_of(f));
            return nullptr;
          },
          [](const at::RecordFunction &f, at::ObserverContext *) { leave(kind_of(f), f.name()); })
          .scopes(on > 1 ? std::unordered_set<at::RecordScope, std::hash<at::RecordScope>>{at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}
                         : std::unordered_set<at::RecordScope, std::hash<at::RecordScope>>{at::RecordScope::BACKWARD_FUNCTION}));
}

int shim_profiled(shim_timing *rows, int most) {
  std::lock_guard<std::mutex> hold(profile.lock);
  int n = 0;
  for (int kind = 0; kind < 3; kind++)
    for (const auto &[name, t] : profile.rows[kind]) {
      if (n < most) {
        rows[n] = {kind, t.calls, t.total, t.self, ""};
        strncpy(rows[n].name, name.c_str(), sizeof rows[n].name - 1);
      }
      n++;
    }
  return n;
}

double shim_multiply_add(int kind, int64_t *n) {
  struct {
    float (*run)(int64_t);
    int64_t lanes;
  } ways[] = {{multiply_add, 4}, {nullptr, 8}, {nullptr, 16}, {nullptr, 32}};
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) ways[1].run = multiply_add_avx2;
  if (__builtin_cpu_supports("avx512f")) ways[2].run = multiply_add_avx512;
  if (multiplies_bf16()) ways[3].run = multiply_add_bf16;
#endif
  const auto way = ways[kind];
  if (!way.run) return -1;
  settle_threads();
  const int threads = at::get_num_threads();
  const int64_t rounds = *n / (chains * way.lanes) + 1;
  *n = rounds * chains * way.lanes;
  std::atomic<float> sink{0};
  const auto start = Clock::now();
  at::parallel_for(0, threads, 1, [&](int64_t from, int64_t to) {
    for (; from < to; from++) sink = way.run(rounds);
  });
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int64_t shim_cuda_peak(int device, int reset) {
  int64_t peak = -1;
#if TORCH_AT_LEAST(2, 9)
  shim_error_free(guard([&] {
    auto *allocator = c10::getDeviceAllocator(at::kCUDA);
    if (reset) allocator->resetPeakStats(c10::DeviceIndex(device));
    peak = allocator->getDeviceStats(c10::DeviceIndex(device)).allocated_bytes[0].peak;
  }));
#endif
  return peak;
}

const char *shim_op_name(int op) { return table[op].name; }

int shim_cpu_has_fast_bf16(void) {
  static const bool yes = std::strncmp(shim_cpu_capability(), "AVX512", 6) == 0;
  return yes;
}

// A call on the CPU does not follow autocast where the CPU lacks what libtorch's
// kernels for bf16 need: its other ones add up in bf16 itself, which is percents off
// and slower than float32.
static bool follows_autocast(const handle *in, int nin) {
  for (int i = 0; i < nin; i++)
    if (Tensor t = borrow(in[i]); t.defined()) return t.is_cpu() ? shim_cpu_has_fast_bf16() : t.is_cuda();
  return true;
}

shim_error *shim_call(int op, int grad, int autocast, const handle *in, int nin,
                      const int64_t *ints, int nints, const double *nums,
                      int nnums, handle *out, int nout) {
  if (autocast && !follows_autocast(in, nin)) autocast = 0;
  Call c{in, nin, ints, nints, nums, nnums, out, nout, 0, autocast};
  auto *e = guard([&] {
    State state(grad, autocast);
    if (!profile.on.load(std::memory_order_relaxed)) return table[op].run(c);
    const Entered entered(table[op].name);
    table[op].run(c);
  });
  if (e) shim_free(out, c.done);
  return e;
}

shim_error *shim_from_host(int dtype, int device, const void *data,
                           const int64_t *shape, int rank, handle *out) {
  return guard([&] {
    State state(false, 0);
    auto host = at::from_blob(const_cast<void *>(data), {shape, size_t(rank)}, at::dtype(dtypes[dtype]));
    *out = give(host.to(host.options().device(device_of(device)), false, true));
  });
}

shim_error *shim_to_host(handle t, int dtype, void *data) {
  return guard([&] {
    State state(false, 0);
    auto x = borrow(t);
    if (x.numel() > 0) at::from_blob(data, x.sizes(), at::dtype(dtypes[dtype])).copy_(x);
  });
}

shim_error *shim_fill_from_host(handle t, const float *data) {
  return guard([&] {
    State state(false, 0);
    auto x = borrow(t);
    if (x.numel() > 0) x.copy_(at::from_blob(const_cast<float *>(data), x.sizes(), at::dtype(at::kFloat)));
  });
}

shim_error *shim_describe(handle t, shim_info *info) {
  return guard([&] {
    auto x = borrow(t);
    TORCH_CHECK(x.dim() <= SHIM_MAX_RANK, "more than ", int(SHIM_MAX_RANK), " dimensions");
    info->rank = int(x.dim());
    info->dtype = dtype_code(x.scalar_type());
    info->device = x.device().type() == accelerator ? x.get_device() : -1;
    for (int i = 0; i < info->rank; i++) {
      info->shape[i] = x.size(i);
      info->stride[i] = x.stride(i);
    }
  });
}

shim_error *shim_set_requires_grad(handle t, int on) {
  return guard([&] { borrow(t).set_requires_grad(on != 0); });
}

int shim_requires_grad(handle t) { return borrow(t).requires_grad(); }

int shim_has_grad(handle t) { return borrow(t).grad().defined(); }

handle shim_grad(handle t) { return give(borrow(t).grad()); }

void shim_zero_grad(handle t) { borrow(t).mutable_grad() = Tensor(); }

void shim_free(const handle *t, int n) {
  for (int i = 0; i < n; i++)
    if (t[i]) Impl::reclaim(reinterpret_cast<c10::TensorImpl *>(t[i]));
}

void shim_error_free(shim_error *e) { free(e); }

shim_error *shim_generator(int device, uint64_t seed, handle *out) {
  return guard([&] {
    auto g = at::globalContext().defaultGenerator(device_of(device)).clone();
    g.set_current_seed(seed);
    *out = reinterpret_cast<handle>(new at::Generator(g));
  });
}

void shim_generator_free(handle g) { delete reinterpret_cast<at::Generator *>(g); }

void shim_set_threads(int n) {
  wanted_threads = n;
  settle_threads();
}

int shim_own_threads(int n) {
  std::swap(own_threads, n);
  settle_threads();
  return n;
}

int shim_threads(void) {
  settle_threads();
  return at::get_num_threads();
}

// Memory that libtorch keeps for later tensors goes back: the heap's to the system, CUDA's to the driver.
void shim_release_memory(void) {
#if TORCH_AT_LEAST(2, 9)
  shim_error_free(guard([] {
    if (shim_cuda_count() > 0 && c10::GetAllocator(accelerator)) c10::getDeviceAllocator(accelerator)->emptyCache();
  }));
#endif
  shim_release_pages();
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

const char *shim_version(void) { return TORCH_VERSION; }

const char *shim_config(void) {
  static const std::string text = at::show_config();
  return text.c_str();
}

const char *shim_cpu_capability(void) {
  static const std::string name = [] {
    const std::string config = shim_config(), key = "CPU capability usage: ";
    const auto at = config.find(key);
    return at == std::string::npos ? std::string() : config.substr(at + key.size(), config.find('\n', at) - at - key.size());
  }();
  return name.c_str();
}

int shim_cuda_count(void) {
  int n = 0;
  auto *e = guard([&] {
    if (c10::impl::hasDeviceGuardImpl(accelerator)) n = c10::impl::VirtualGuardImpl(accelerator).deviceCount();
  });
  shim_error_free(e);
  return n;
}

// Asks the CUDA driver by name, so that the shim needs no CUDA headers to build.
shim_error *shim_cuda_device(int i, char *name, int len, int64_t *total, int64_t *free, int *capability) {
  return guard([&] {
    static void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    TORCH_CHECK(lib, "the NVIDIA driver library libcuda.so.1 is not installed");
    const auto call = [&](const char *f, auto... args) {
      auto *p = reinterpret_cast<int (*)(decltype(args)...)>(dlsym(lib, f));
      TORCH_CHECK(p, "libcuda.so.1 has no ", f);
      const int rc = p(args...);
      TORCH_CHECK(rc == 0, f, " failed with CUDA error ", rc);
    };
    int dev = 0;
    void *ctx = nullptr, *old = nullptr;
    size_t nfree = 0, ntotal = 0;
    call("cuInit", 0u);
    call("cuDeviceGet", &dev, i);
    call("cuDeviceGetName", name, len, dev);
    int major = 0, minor = 0; // attributes COMPUTE_CAPABILITY_MAJOR and _MINOR
    call("cuDeviceGetAttribute", &major, 75, dev);
    call("cuDeviceGetAttribute", &minor, 76, dev);
    *capability = 10 * major + minor;
    call("cuDevicePrimaryCtxRetain", &ctx, dev);
    call("cuCtxPushCurrent_v2", ctx);
    call("cuMemGetInfo_v2", &nfree, &ntotal);
    call("cuCtxPopCurrent_v2", &old);
    call("cuDevicePrimaryCtxRelease_v2", dev);
    *total = int64_t(ntotal);
    *free = int64_t(nfree);
  });
}

void shim_set_tf32(int products, int convolutions) {
  at::globalContext().setAllowTF32CuBLAS(products != 0);
  at::globalContext().setAllowTF32CuDNN(convolutions != 0);
}

int shim_tf32(void) { return at::globalContext().allowTF32CuBLAS() | at::globalContext().allowTF32CuDNN() << 1; }

void shim_set_cudnn_benchmark(int on) { at::globalContext().setBenchmarkCuDNN(on != 0); }

int shim_cudnn_benchmark(void) { return at::globalContext().benchmarkCuDNN(); }

} // extern "C"

// ---- groups of processes ---------------------------------------------------------

// A group sums and spreads tensors over processes. Whether the others live is not this file's matter: whoever learns that
// one is lost calls shim_group_lose from any thread, and every wait ends with an error. A lost group is never freed, as
// its threads may wait for ever.
#ifdef USE_C10D_GLOO
#if TORCH_AT_LEAST(2, 0)
using Backend = c10d::Backend;
#else
using Backend = c10d::ProcessGroup;
#endif
using Pending = c10::intrusive_ptr<c10d::Work>;
constexpr auto no_limit = std::chrono::hours(24 * 7);

struct shim_group {
  c10::intrusive_ptr<c10d::TCPStore> store;
  // Each matches what processes ask of it by its order. Tensors have one of their own, as the sums of gradients begin
  // whenever the backward pass has made them.
  c10::intrusive_ptr<Backend> numbers, tensors;
  at::Device device{at::kCPU}; // where the tensors lie
  std::atomic<bool> lost{false};
  std::mutex joining; // guards both backends until all have joined

  void check() { TORCH_CHECK(!lost, "the group of processes has lost one"); }
  // Ends what runs on GPUs: the group was lost.
  void abort() {
#ifdef USE_C10D_NCCL
    const std::lock_guard<std::mutex> lock(joining);
    if (tensors && device.is_cuda()) shim_error_free(guard([&] { tensors->abort(); }));
#endif
  }
  // What begins while another thread loses the group may escape that thread's abort.
  void began() {
    if (lost) abort();
    check();
  }
  void joined(c10::intrusive_ptr<Backend> a, c10::intrusive_ptr<Backend> b) {
    {
      const std::lock_guard<std::mutex> lock(joining);
      numbers = std::move(a), tensors = std::move(b);
    }
    began();
  }
  template <typename F> void until(F done) {
    for (int us = 20; !done(); us = std::min(2 * us, 1000)) {
      check();
      std::this_thread::sleep_for(std::chrono::microseconds(us));
    }
  }
  template <typename F> Pending begin(F collective) {
    check();
    Pending p = collective();
    began();
    return p;
  }
  Pending sum(const c10::intrusive_ptr<Backend> &backend, const Tensor &t) {
    return begin([&] {
      std::vector<Tensor> list{t};
      return backend->allreduce(list);
    });
  }
  void wait(const Pending &p) {
    until([&] { return p->isCompleted(); });
    p->wait(); // gives the error, and makes a GPU's stream wait
  }
};

namespace {
c10::intrusive_ptr<Backend> make_backend(c10::intrusive_ptr<c10d::Store> store, const std::string &host,
                                         const std::string &interface, int rank, int size, at::Device device) {
  if (device.is_cuda()) {
#ifdef USE_C10D_NCCL
    auto o = c10d::ProcessGroupNCCL::Options::create();
    o->timeout = no_limit;
    return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, o);
#endif
  }
  auto o = c10d::ProcessGroupGloo::Options::create(no_limit);
  o->threads = 1;
  o->devices = {interface.empty() ? c10d::ProcessGroupGloo::createDeviceForHostname(host)
                                  : c10d::ProcessGroupGloo::createDeviceForInterface(interface)};
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, o);
}
} // namespace

// A reducer sums the gradients of parameters over a group. It copies them into flat buckets, from the last parameter to
// the first, and begins the sum of a bucket as soon as the backward pass has made all of its gradients; sums begin in the
// order of the buckets on every process. Behind its gradients a bucket has one number per parameter: how many processes
// had a gradient of it.
struct shim_reducer {
  shim_group *group;
  std::vector<Tensor> params;
  struct Bucket {
    Tensor flat;
    std::vector<int> params;
    std::vector<int64_t> offsets;
    std::vector<float> had;
    int64_t values = 0;
    size_t missing = 0;
    Pending sum;
  };
  std::vector<Bucket> buckets;
  std::vector<std::pair<int, int>> place; // of each parameter: bucket, and which of it
  std::vector<bool> filled;
  std::mutex mutex; // a device has a thread of its own for the backward pass
  bool armed = false;
  size_t next = 0; // bucket to begin

  struct Hook {
    decltype(torch::autograd::impl::grad_accumulator(std::declval<const Tensor &>())) node;
    uintptr_t key;
  };
  std::vector<Hook> hooks;

  shim_reducer(shim_group *g, std::vector<Tensor> list, int64_t bytes) : group(g), params(std::move(list)) {
    place.resize(params.size());
    for (int i = int(params.size()) - 1; i >= 0; i--) {
      if (buckets.empty() || (buckets.back().values + params[i].numel()) * 4 > bytes) buckets.emplace_back();
      auto &b = buckets.back();
      place[i] = {int(buckets.size()) - 1, int(b.params.size())};
      b.params.push_back(i);
      b.offsets.push_back(b.values);
      b.values += params[i].numel();
    }
    for (auto &b : buckets) {
      b.flat = at::empty({b.values + int64_t(b.params.size())}, at::TensorOptions(at::kFloat).device(group->device));
      b.had.resize(b.params.size());
    }
    for (int i = 0; i < int(params.size()); i++) {
      auto node = torch::autograd::impl::grad_accumulator(params[i]);
      const auto key = node->add_post_hook(std::make_unique<torch::autograd::utils::LambdaPostHook>(
          [this, i](const variable_list &out, const variable_list &) {
            ready(i);
            return out;
          }));
      hooks.push_back({std::move(node), key});
    }
    reset(false);
  }
  ~shim_reducer() {
    for (auto &h : hooks) h.node->del_post_hook(h.key);
  }
  void reset(bool arm) {
    filled.assign(params.size(), false);
    for (auto &b : buckets) {
      b.missing = b.params.size();
      b.sum.reset();
    }
    next = 0;
    armed = arm;
  }
  void begin() {
    const std::lock_guard<std::mutex> lock(mutex);
    reset(true);
  }
  void fill(int i) {
    auto &b = buckets[place[i].first];
    const int k = place[i].second;
    const Tensor grad = params[i].grad();
    Tensor to = b.flat.narrow(0, b.offsets[k], params[i].numel());
    if (grad.defined())
      to.view(params[i].sizes()).copy_(grad, true);
    else
      to.zero_();
    b.had[k] = grad.defined();
    if (!filled[i]) b.missing--;
    filled[i] = true;
  }
  void launch() {
    for (; next < buckets.size() && buckets[next].missing == 0; next++) {
      auto &b = buckets[next];
      b.flat.narrow(0, b.values, int64_t(b.had.size())).copy_(at::from_blob(b.had.data(), {int64_t(b.had.size())}));
      b.sum = group->sum(group->tensors, b.flat);
    }
  }
  void ready(int i) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!armed) return;
    TORCH_CHECK(size_t(place[i].first) >= next, "a parameter got a second gradient after its first was sent");
    c10::AutoGradMode off(false);
    fill(i);
    launch();
  }
  void finish() {
    const std::lock_guard<std::mutex> lock(mutex);
    armed = false;
    for (int i = int(params.size()) - 1; i >= 0; i--)
      if (!filled[i]) fill(i);
    launch();
    for (auto &b : buckets) {
      group->wait(b.sum);
      const Tensor had = b.flat.narrow(0, b.values, int64_t(b.had.size())).cpu();
      for (size_t k = 0; k < b.params.size(); k++) {
        if (had.data_ptr<float>()[k] == 0) continue;
        Tensor &p = params[b.params[k]];
        const Tensor sum = b.flat.narrow(0, b.offsets[k], p.numel()).view(p.sizes());
        if (p.grad().defined())
          p.mutable_grad().copy_(sum);
        else
          p.mutable_grad() = sum.to(p.device(), p.scalar_type(), false, true);
      }
    }
    reset(false);
  }
};

extern "C" {
int shim_group_built(int device) {
#ifdef USE_C10D_NCCL
  return 1;
#else
  return device < 0;
#endif
}

shim_error *shim_group_open(const char *host, int *port, int serve, shim_group **out) {
  return guard([&] {
    c10d::TCPStoreOptions o;
    o.port = uint16_t(*port);
    o.isServer = serve != 0;
    o.waitWorkers = false;
    o.timeout = std::chrono::seconds(60);
    auto g = std::make_unique<shim_group>();
    g->store = c10::make_intrusive<c10d::TCPStore>(std::string(host), o);
    *port = g->store->getPort();
    *out = g.release();
  });
}

shim_error *shim_group_join(shim_group *g, const char *host, const char *interface, int rank, int size, int device) {
  return guard([&] {
    g->device = shim_group_built(device) ? device_of(device) : at::Device(at::kCPU);
    // What waits for a process that died meanwhile cannot be interrupted: it is left behind, as the lost group is.
    auto made = std::make_shared<std::promise<void>>();
    auto result = made->get_future();
    std::thread([=, own = std::string(host), in = std::string(interface)] {
      try {
        const auto make = [&](const char *name, at::Device d) {
          return make_backend(c10::make_intrusive<c10d::PrefixStore>(name, g->store), own, in, rank, size, d);
        };
        auto numbers = make("numbers", at::kCPU);
        g->joined(std::move(numbers), make("tensors", g->device));
        made->set_value();
      } catch (...) {
        made->set_exception(std::current_exception());
      }
    }).detach();
    g->until([&] { return result.wait_for(std::chrono::seconds(0)) == std::future_status::ready; });
    result.get();
  });
}

void shim_group_lose(shim_group *g) {
  g->lost = true;
  g->abort();
}

void shim_group_free(shim_group *g) {
  if (!g->lost) delete g;
}

shim_error *shim_group_sum(shim_group *g, double *values, int n) {
  return guard([&] {
    const Tensor host = at::from_blob(values, {n}, at::kDouble), own = host.clone(); // which a lost group may still write
    g->wait(g->sum(g->numbers, own));
    host.copy_(own);
  });
}

shim_error *shim_group_spread(shim_group *g, handle h) {
  return guard([&] {
    c10::AutoGradMode off(false);
    Tensor t = borrow(h).detach();
    std::vector<Tensor> list{t.to(g->device, t.scalar_type(), false, true).contiguous()};
    g->wait(g->begin([&] { return g->tensors->broadcast(list); }));
    t.copy_(list[0]);
  });
}

shim_error *shim_reducer_new(shim_group *g, const handle *params, int n, int64_t bytes, shim_reducer **out) {
  return guard([&] {
    std::vector<Tensor> list;
    for (int i = 0; i < n; i++) list.push_back(borrow(params[i]));
    *out = new shim_reducer(g, std::move(list), bytes);
  });
}

void shim_reducer_free(shim_reducer *r) { delete r; }

void shim_reducer_begin(shim_reducer *r) { r->begin(); }

shim_error *shim_reducer_finish(shim_reducer *r) {
  return guard([&] {
    settle_threads();
    c10::AutoGradMode off(false);
    r->finish();
  });
}
} // extern "C"
#else
extern "C" {
int shim_group_built(int) { return 0; }
shim_error *shim_group_open(const char *, int *, int, shim_group **) { return failure("built without Gloo", false); }
shim_error *shim_group_join(shim_group *, const char *, const char *, int, int, int) { return nullptr; }
void shim_group_lose(shim_group *) {}
void shim_group_free(shim_group *) {}
shim_error *shim_group_sum(shim_group *, double *, int) { return nullptr; }
shim_error *shim_group_spread(shim_group *, handle) { return nullptr; }
shim_error *shim_reducer_new(shim_group *, const handle *, int, int64_t, shim_reducer **) { return nullptr; }
void shim_reducer_free(shim_reducer *) {}
void shim_reducer_begin(shim_reducer *) {}
shim_error *shim_reducer_finish(shim_reducer *) { return nullptr; }
} // extern "C"
#endif
