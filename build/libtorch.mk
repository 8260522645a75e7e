# Compiler and linker flags for the libtorch below $(LIBTORCH).
comma := ,
torch_lib := $(LIBTORCH)/lib
# Newer headers refuse C++17, older ones were never compiled as C++20: the headers say which they are.
torch_std := $(if $(shell grep -rlsE '__cplusplus < 20(20|17)0[3-9]L|C\+\+20 or later' $(LIBTORCH)/include/c10/util $(LIBTORCH)/include/torch/headeronly $(LIBTORCH)/include/ATen/ATen.h $(LIBTORCH)/include/torch/csrc/api/include/torch/all.h | head -1),c++20,c++17)
# Wheels before 2.6 use the string layout from before C++11.
torch_abi := $(if $(shell grep -la 'torchCheckFailEPKcS2_jRKNSt7__cxx11' $(torch_lib)/libc10.so),1,0)
# Nothing refers to the CUDA libraries by symbol: they register themselves when loaded, so the linker must keep them.
torch_gpu := $(if $(wildcard $(torch_lib)/libtorch_cuda.so),-Wl$(comma)--no-as-needed -ltorch_cuda -lc10_cuda -Wl$(comma)--as-needed)

export CGO_CXXFLAGS := -O2 -std=$(torch_std) -D_GLIBCXX_USE_CXX11_ABI=$(torch_abi) -I$(LIBTORCH)/include -I$(LIBTORCH)/include/torch/csrc/api/include
export CGO_LDFLAGS := -L$(torch_lib) -Wl,-rpath,$(torch_lib) $(torch_gpu) -ltorch -ltorch_cpu -lc10
