// C interface of the binding. A tensor handle is the address of libtorch's own
// reference-counted TensorImpl (0 = no tensor), so a handle costs no extra
// allocation; a generator handle is the address of an at::Generator.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef uintptr_t handle;

// A failure; NULL means success. Release with shim_error_free.
typedef struct {
  int oom;       // 1: an allocation failed
  int device;    // where it failed: -1 CPU, n the nth CUDA device
  int64_t bytes; // size of the failed allocation, 0 if libtorch does not tell
  char msg[];
} shim_error;

// Every operation that makes tensors, see the OP(…) of the same name in shim.cpp.
#define SHIM_OPS(X)                                                                                             \
  X(Empty) X(Rand) X(ZerosLike) X(Add) X(Sub) X(Mul) X(Div) X(Maximum) X(Minimum) X(AddScalar)                  \
  X(MulScalar) X(Neg) X(Abs) X(Sin) X(Cos) X(Floor) X(Sqrt) X(Sigmoid) X(ReLU) X(Softplus) X(LeakyReLU)         \
  X(LeakyReLUInPlace) X(GELU) X(Clamp) X(Eq) X(GtScalar) X(Sum) X(Mean) X(SumDim) X(MeanDim) X(AmaxDim)         \
  X(ArgMax) X(TopK) X(Reshape) X(Permute) X(Transpose) X(Expand) X(Squeeze) X(Unsqueeze) X(Cat) X(Stack)        \
  X(Slice) X(Select) X(Unbind3) X(Unfold)                                                                                 \
  X(IndexSelect) X(Gather) X(Flip) X(Pad) X(To) X(Detach) X(Clone) X(MatMul) X(Linear) X(Attention)             \
  X(Conv2d) X(Conv3d) X(ConvTranspose2d) X(ConvTranspose3d) X(Softmax) X(LayerNorm) X(ChannelNorm)              \
  X(InstanceNorm) X(ConvBlock) X(AdaptiveAvgPool2d) X(Interpolate) X(GridSample) X(BCEWithLogits)               \
  X(CrossEntropy) X(Backward) X(Copy) X(LerpInto) X(ScaleGrads) X(ClipGradNorm) X(MoveGrads) X(SGDStep)         \
  X(AdamWStep)

enum {
#define X(name) op_##name,
  SHIM_OPS(X)
#undef X
  op_count
};
const char *shim_op_name(int op);

// Runs operation op with gradient recording on or off and autocast to a dtype
// (0 = off); writes its results, new references, to out.
shim_error *shim_call(int op, int grad, int autocast, const handle *in, int nin,
                      const int64_t *ints, int nints, const double *nums,
                      int nnums, handle *out, int nout);

// Tensor made from host memory (copied) of the given dtype.
shim_error *shim_from_host(int dtype, int device, const void *data,
                           const int64_t *shape, int rank, handle *out);
// Copies t, converted to dtype, row by row into host memory of its element count.
shim_error *shim_to_host(handle t, int dtype, void *data);
// Fills t in place from row-major float32 host memory.
shim_error *shim_fill_from_host(handle t, const float *data);

enum { SHIM_MAX_RANK = 16 };
typedef struct {
  int rank, dtype, device;
  int64_t shape[SHIM_MAX_RANK];
  int64_t stride[SHIM_MAX_RANK];
} shim_info;
shim_error *shim_describe(handle t, shim_info *info);

shim_error *shim_set_requires_grad(handle t, int on);
int shim_requires_grad(handle t);
int shim_has_grad(handle t);
handle shim_grad(handle t); // a new reference, 0 if there is none
void shim_zero_grad(handle t);
void shim_free(const handle *t, int n);
void shim_error_free(shim_error *e);

shim_error *shim_generator(int device, uint64_t seed, handle *out);
void shim_generator_free(handle g);

// Faster ways than libtorch's: 0 never, 1 where they pay, 2 at any size.
void shim_use_own_kernels(int when);
// Whether freed memory stays with the program (as it does from the start) or goes back as glibc has it by default.
void shim_keep_memory(int keep);

// Of pages.cpp: whether large tensors of the CPU have blocks of memory of their own, and giving those back that nothing uses.
void shim_keep_pages(int keep);
void shim_release_pages(void);

// Times what runs from now on, until it is switched off; what was timed before is forgotten. on: 1 the operations of the
// table and the nodes of backward passes, 2 libtorch's own operations as well.
void shim_profile(int on);
typedef struct {
  int kind; // 0: an operation of the table, 1: a node of a backward pass, 2: an operation of libtorch's own
  int64_t calls;
  double total, self; // seconds; self leaves out those of the same kind (or of kinds 0 and 1) within
  char name[160];
} shim_timing;
int shim_profiled(shim_timing *rows, int most); // how many there are

// Seconds that n multiplications and additions of a kind take on each thread at a time, with n rounded up to *n:
// 0 portable float32, 1 AVX2, 2 AVX-512, 3 AVX-512 on bfloat16; negative where the processor lacks it.
double shim_multiply_add(int kind, int64_t *n);
// Peak and present bytes of CUDA's allocator, from libtorch 2.9 on; -1 where unknown. reset: the peak begins anew.
int64_t shim_cuda_peak(int device, int reset);
void shim_set_threads(int n);
int shim_own_threads(int n); // of the calling OS thread alone, 0 for all threads' number; returns what it was
int shim_threads(void);
void shim_release_memory(void);
const char *shim_version(void);
const char *shim_config(void); // how libtorch was built, some lines
const char *shim_cpu_capability(void);
int shim_cpu_has_fast_bf16(void);
int shim_cuda_count(void);
// capability is the compute capability, 80 for 8.0.
shim_error *shim_cuda_device(int i, char *name, int len, int64_t *total,
                             int64_t *free, int *capability);
void shim_set_tf32(int products, int convolutions);
int shim_tf32(void); // bit 0: products, bit 1: convolutions
void shim_set_cudnn_benchmark(int on);
int shim_cudnn_benchmark(void);

// Groups of processes: sums over all of them. device as in shim_info: -1 for the CPU.
typedef struct shim_group shim_group;
typedef struct shim_reducer shim_reducer;
int shim_group_built(int device); // whether this build can work between devices of that kind
// Opens the store over which the processes find each other; the one that serves it may take port 0 and learns which it is.
shim_error *shim_group_open(const char *host, int *port, int serve, shim_group **out);
// Returns when all have joined. The others reach this process at host, or by the network interface of that name.
shim_error *shim_group_join(shim_group *g, const char *host, const char *interface, int rank, int size, int device);
void shim_group_lose(shim_group *g); // from any thread: every wait ends with an error
void shim_group_free(shim_group *g);
shim_error *shim_group_sum(shim_group *g, double *values, int n);
shim_error *shim_group_spread(shim_group *g, handle t); // the values that process 0 has in it
shim_error *shim_reducer_new(shim_group *g, const handle *params, int n, int64_t bytes, shim_reducer **out);
void shim_reducer_free(shim_reducer *r);
void shim_reducer_begin(shim_reducer *r); // before the backward pass that completes the gradients
shim_error *shim_reducer_finish(shim_reducer *r);

#ifdef __cplusplus
}
#endif
