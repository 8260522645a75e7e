//go:build testdevice

// A device for tests that is not the CPU and needs no GPU: libtorch 2.x sees two devices of PrivateUse1, whose memory
// nobody can read by its address and whose operations run on copies in the host's memory. So a tensor that is taken for
// one of the host's, and a transfer that is missing, end a test as they would on a GPU. It computes in float32 alone: the
// processor's kernels for bf16, which it would use, are wrong in libtorch 2.15 for small maps.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>

namespace {

using at::Tensor;

constexpr auto kind = at::kPrivateUse1;
constexpr c10::DeviceIndex devices = 2;
thread_local c10::DeviceIndex current = 0;

// ---- memory ------------------------------------------------------------------------------

// An address of the device is the host's with one more bit, which makes it one that no processor follows.
constexpr uintptr_t elsewhere = uintptr_t(1) << 54;

void *toggled(const void *p) { return reinterpret_cast<void *>(reinterpret_cast<uintptr_t>(p) ^ elsewhere); }

struct Memory final : c10::Allocator {
  at::DataPtr allocate(size_t n) override {
    const at::Device device(kind, current);
    if (n == 0) return {nullptr, nullptr, &release, device};
    void *p = aligned_alloc(64, (n + 63) / 64 * 64);
    TORCH_CHECK(p, "the test device has no ", n, " bytes");
    return {toggled(p), p, &release, device};
  }
  at::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void *dst, const void *src, size_t n) const override { memcpy(toggled(dst), toggled(src), n); }
  static void release(void *p) { free(p); }
};
Memory memory;
const bool allocates = (c10::SetAllocator(kind, &memory), true);

// The memory of t as a tensor of the host.
Tensor on_host(const Tensor &t) {
  if (t.device().type() != kind) return t;
  void *p = t.storage().mutable_data();
  if (!p) return at::empty_strided(t.sizes(), t.strides(), t.options().device(at::kCPU));
  auto *first = static_cast<char *>(toggled(p)) + t.storage_offset() * t.itemsize();
  return at::from_blob(first, t.sizes(), t.strides(), t.options().device(at::kCPU));
}

// ---- the device ----------------------------------------------------------------------------

struct Guard final : c10::impl::DeviceGuardImplInterface {
  at::DeviceType type() const override { return kind; }
  at::Device exchangeDevice(at::Device d) const override {
    const at::Device old(kind, current);
    current = d.index();
    return old;
  }
  at::Device getDevice() const override { return {kind, current}; }
  void setDevice(at::Device d) const override { current = d.index(); }
  void uncheckedSetDevice(at::Device d) const noexcept override { current = d.index(); }
  c10::Stream getStream(at::Device d) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream getDefaultStream(at::Device d) const override { return getStream(d); }
  c10::Stream exchangeStream(c10::Stream s) const override { return s; }
  void destroyEvent(void *, const c10::DeviceIndex) const noexcept override {}
  void record(void **, const c10::Stream &, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void *, const c10::Stream &) const override {}
  bool queryEvent(void *) const override { return true; }
  bool queryStream(const c10::Stream &) const override { return true; }
  void synchronizeStream(const c10::Stream &) const override {}
  void synchronizeEvent(void *) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr &, const c10::Stream &) const override {}
  c10::DeviceIndex deviceCount() const noexcept override { return devices; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  // Random numbers are drawn in the host's memory.
  const at::Generator &getDefaultGenerator(c10::DeviceIndex) const override {
    return at::globalContext().defaultGenerator(at::kCPU);
  }
};
const bool hooked = (c10::register_privateuse1_backend("testdevice"), at::RegisterPrivateUse1HooksInterface(new Hooks), true);

// ---- operations ---------------------------------------------------------------------------

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device> device,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard on(device.value_or(at::Device(kind, current)));
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), at::dtype_or_default(dtype), format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard on(device.value_or(at::Device(kind, current)));
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), at::dtype_or_default(dtype));
}

Tensor copy_from(const Tensor &from, const Tensor &to, bool) {
  on_host(to).copy_(on_host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor &from, const Tensor &to) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}

const Tensor &resize(const Tensor &self, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(self.storage_offset() == 0, "the test device resizes whole tensors only");
  const size_t bytes = c10::multiply_integers(size) * self.itemsize();
  auto *impl = self.unsafeGetTensorImpl();
  if (bytes > self.storage().nbytes()) {
    const c10::DeviceGuard on(self.device());
    self.storage().set_data_ptr(memory.allocate(bytes));
    self.storage().set_nbytes(bytes);
  }
  impl->set_sizes_contiguous(size);
  if (format && *format != at::MemoryFormat::Preserve) impl->empty_tensor_restride(*format);
  return self;
}

// The processor's own gradients are wrong for some layouts of small maps, and add up thousands of numbers one by one in
// float32, which says nothing of a GPU's: these are computed from dense tensors in float64.
std::optional<Tensor> exact(const std::optional<Tensor> &t) {
  return t && t->defined() ? std::optional<Tensor>(on_host(*t).contiguous().to(at::kDouble)) : std::nullopt;
}

std::tuple<Tensor, Tensor, Tensor> there(const std::tuple<Tensor, Tensor, Tensor> &list, const Tensor &x) {
  const auto one = [&](const Tensor &t) { return t.defined() ? t.to(x.options()) : t; };
  return {one(std::get<0>(list)), one(std::get<1>(list)), one(std::get<2>(list))};
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor &g, const Tensor &x, const Tensor &w, at::IntArrayRef stride,
                                                        at::IntArrayRef pad, at::IntArrayRef dilation, bool transposed,
                                                        at::IntArrayRef output_pad, int64_t groups, std::array<bool, 3> mask) {
  const int64_t bias = w.size(transposed ? 1 : 0) * (transposed ? groups : 1);
  return there(at::convolution_backward(*exact(g), *exact(x), *exact(w), at::IntArrayRef(bias), stride, pad, dilation, transposed,
                                        output_pad, groups, mask), x);
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward(const Tensor &g, const Tensor &x, const std::optional<Tensor> &w,
                                                       const std::optional<Tensor> &mean, const std::optional<Tensor> &variance,
                                                       const std::optional<Tensor> &saved_mean, const std::optional<Tensor> &saved_deviation,
                                                       bool training, double eps, std::array<bool, 3> mask) {
  return there(at::native_batch_norm_backward(*exact(g), *exact(x), exact(w), exact(mean), exact(variance), exact(saved_mean),
                                              exact(saved_deviation), training, eps, mask), x);
}

Tensor convolution(const Tensor &x, const Tensor &w, const std::optional<Tensor> &b, at::IntArrayRef stride, at::IntArrayRef pad,
                   at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_pad, int64_t groups) {
  const auto bias = b && b->defined() ? std::optional<Tensor>(on_host(*b)) : std::nullopt;
  return at::convolution(on_host(x), on_host(w), bias, stride, pad, dilation, transposed, output_pad, groups).to(x.device());
}

// Any other operation runs on copies in the host's memory. All its tensors lie on one device, as a GPU demands; only single
// numbers may come from the host.
void elsewhere_too(const c10::OperatorHandle &op, torch::jit::Stack *stack) {
  std::optional<at::Device> device;
  const auto check = [&](const Tensor &t) {
    if (!t.defined() || (t.is_cpu() && t.dim() == 0)) return;
    TORCH_CHECK(!device || *device == t.device(), op.schema().name(), ": tensors on ", *device, " and on ", t.device());
    device = t.device();
  };
  for (const auto &v : torch::jit::last(stack, op.schema().arguments().size())) {
    if (v.isTensor()) check(v.toTensor());
    if (v.isTensorList())
      for (const Tensor &t : v.toTensorVector()) check(t);
    if (v.isOptionalTensorList())
      for (const std::optional<Tensor> &t : v.toOptionalTensorVector())
        if (t) check(*t);
  }
  const c10::DeviceGuard on(device.value_or(at::Device(kind, current)));
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&elsewhere_too>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("resize_", resize);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("native_batch_norm_backward", batch_norm_backward);
}

} // namespace
