# Compiler and linker flags for the libtorch below $(LIBTORCH).
torch_lib := $(LIBTORCH)/lib
comma     := ,

# Newer headers refuse C++17, older ones were never compiled as C++20: the headers say which they are.
torch_std := $(if $(shell grep -ls '__cplusplus < 202002L' $(LIBTORCH)/include/ATen/ATen.h $(LIBTORCH)/include/torch/csrc/api/include/torch/all.h),c++20,c++17)

# Wheels before 2.6 use the string layout from before C++11.
torch_abi := $(if $(shell grep -lsa 'torchCheckFailEPKcS2_jRKNSt7__cxx11' $(torch_lib)/libc10.so),1,0)

# Nothing refers to the CUDA libraries by symbol: they register themselves when loaded, so the linker must keep them. A
# CUDA build whose own libraries are missing here still serves the processor. The test device takes CUDA's place.
ifneq ($(and $(wildcard $(torch_lib)/libtorch_cuda.so),$(if $(filter test-device,$(MAKECMDGOALS)),,1)),)
torch_missing := $(strip $(shell ldd $(torch_lib)/libtorch_cuda.so 2>&1 | sed -n 's/ => not found//p'))
ifeq ($(torch_missing),)
torch_gpu := -Wl$(comma)--no-as-needed -ltorch_cuda -lc10_cuda -Wl$(comma)--as-needed
else
$(info make: libtorch_cuda.so lacks $(torch_missing): building for the processor only)
endif
endif

# Sums between GPUs need the headers of NCCL and CUDA: beside a Python package torch lie NVIDIA's packages that it came
# with (but for nvidia-cuda-crt), else a toolkit is in CUDA_HOME.
CUDA_HOME ?= /usr/local/cuda
torch_headers := $(wildcard $(LIBTORCH)/../nvidia/*/include) $(wildcard $(CUDA_HOME)/include) /usr/include
torch_has      = $(firstword $(foreach d,$(torch_headers),$(wildcard $(d)/$(1))))
ifneq ($(and $(torch_gpu),$(call torch_has,nccl.h),$(call torch_has,crt/host_config.h),$(call torch_has,cublas_v2.h)),)
torch_nccl := -DUSE_C10D_NCCL $(patsubst %,-isystem %,$(filter-out /usr/include,$(torch_headers)))
endif

export CGO_CXXFLAGS := -O2 -std=$(torch_std) -D_GLIBCXX_USE_CXX11_ABI=$(torch_abi) -I$(LIBTORCH)/include -I$(LIBTORCH)/include/torch/csrc/api/include $(torch_nccl)
export CGO_LDFLAGS  := -L$(torch_lib) -Wl,-rpath,$(torch_lib) $(torch_gpu) -ltorch_cpu -lc10
