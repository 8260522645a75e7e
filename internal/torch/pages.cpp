// Memory of large tensors on the CPU, beside the heap. glibc's heap does not give a freed block to the next tensor of
// that size, because an aligned one asks for a little more, and its holes took a quarter of a training step's memory; its
// other way, memory from the system for each tensor, takes a page fault for every 4 KB each time.
#include "shim.h"

#include <c10/core/CPUAllocator.h>
#include <torch/version.h>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#define HAS_PAGES
#endif

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>

namespace {
#ifdef HAS_PAGES

// Blocks of memory. Freed ones are kept for tensors of about their size, but all that is held is never more than the
// living have taken at a time: where a new block would exceed that, kept ones go back to the system before.
class Pages {
  static constexpr size_t grain = 64 << 10;
  std::mutex mu;
  std::unordered_map<void *, size_t> living;
  std::multimap<size_t, void *> kept;
  size_t alive = 0, idle = 0, most = 0; // bytes

public:
  static constexpr size_t large = 1 << 20;

  void *take(size_t n) {
    n = (n + grain - 1) / grain * grain;
    std::lock_guard<std::mutex> lock(mu);
    void *p = nullptr;
    auto best = kept.lower_bound(n);
    if (best != kept.end() && best->first <= n + n / 4) {
      n = best->first, p = best->second;
      idle -= n;
      kept.erase(best);
    } else {
      shrink(std::max(most, alive + n) - alive - n);
      p = map(n);
      if (p == MAP_FAILED) {
        shrink(0);
        p = map(n);
      }
      // The message is that of libtorch's own allocator, by which shim.cpp knows it.
      TORCH_CHECK(p != MAP_FAILED, "DefaultCPUAllocator: not enough memory: you tried to allocate ", n, " bytes");
    }
    living.emplace(p, n);
    most = std::max(most, alive += n);
    return p;
  }

  bool give(void *p) {
    std::lock_guard<std::mutex> lock(mu);
    auto it = living.find(p);
    if (it == living.end()) return false;
    alive -= it->second;
    idle += it->second;
    kept.emplace(it->second, p);
    living.erase(it);
    return true;
  }

  void release() {
    std::lock_guard<std::mutex> lock(mu);
    shrink(0);
    most = alive;
  }

private:
  static void *map(size_t n) { return mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

  // Gives kept blocks back until they are so many bytes at most, the largest first.
  void shrink(size_t bytes) {
    while (idle > bytes) {
      auto last = std::prev(kept.end());
      munmap(last->second, last->first);
      idle -= last->first;
      kept.erase(last);
    }
  }
};
Pages &pages = *new Pages; // tensors may outlive everything else
bool used = true;

#define TORCH_FROM_2_3 (TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 3))

c10::Allocator &heap = *c10::GetDefaultCPUAllocator();

struct Memory final : c10::Allocator {
#if TORCH_FROM_2_3
  at::DataPtr allocate(size_t n) override { return make(n); }
  void copy_data(void *to, const void *from, size_t n) const override { default_copy_data(to, from, n); }
#else
  at::DataPtr allocate(size_t n) const override { return make(n); }
#endif
  at::DeleterFnPtr raw_deleter() const override { return &drop; }

  static at::DataPtr make(size_t n) {
    if (n < Pages::large || !used) return heap.allocate(n);
    void *p = pages.take(n);
    return {p, p, &drop, at::Device(at::kCPU)};
  }
  static void drop(void *p) {
    if (!pages.give(p)) heap.raw_deleter()(p);
  }
};
Memory memory;
const bool allocates = (c10::SetCPUAllocator(&memory), true);

#endif
} // namespace

void shim_keep_pages(int keep) {
#ifdef HAS_PAGES
  used = keep != 0;
  pages.release();
#endif
}

void shim_release_pages(void) {
#ifdef HAS_PAGES
  pages.release();
#endif
}
