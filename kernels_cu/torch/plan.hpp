// What Python prepared for tensors of one layout: launches with their constant arguments, and a role
// for each pointer.
//
// torch_bridge/ops/node.py writes the numbers in the order in which `Plan` reads them. CUDA is not
// included: a plan has the address of the driver's cuLaunchKernel (in tests, of a stand-in).
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include <array>

#include "python.hpp"

namespace semiconv {

using at::Tensor;
using Sizes = std::vector<int64_t>;

// What a pointer of a launch points to, in the order of ROLES in node.py.
enum Role { nowhere, first, second, out, residual, grad_out, grad_first, grad_second, scratch };
using Addresses = std::array<const void*, scratch + 1>;

// The driver's cuLaunchKernel and cuCtxSetCurrent, and two of their errors.
using LaunchKernel = int (*)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                             unsigned, void*, void**, void**);
using SetContext = int (*)(void*);
constexpr int invalid_context = 201, invalid_handle = 400;

Tensor tensor_at(void* address) {
  if (!address) return Tensor();
  auto* found = static_cast<c10::TensorImpl*>(address);
  return Tensor(c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim_copy(found));
}

const void* read(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

struct Numbers {  // a plan as Python writes it
  const int64_t* at;

  int64_t next() { return *at++; }
  void* pointer() { return reinterpret_cast<void*>(next()); }
  at::TensorOptions options() { return tensor_at(pointer()).options(); }
  Sizes list() {
    const int64_t length = next();
    at += length;
    return Sizes(at - length, at);
  }
  template <class T>
  std::vector<T> several() {
    std::vector<T> found;
    for (int64_t left = next(); left; --left) found.emplace_back(*this);
    return found;
  }
};

struct Driver {
  LaunchKernel launch;
  SetContext set_context;
  void* context;

  explicit Driver(Numbers& n)
      : launch(reinterpret_cast<LaunchKernel>(n.pointer())),
        set_context(reinterpret_cast<SetContext>(n.pointer())),
        context(n.pointer()) {}
};

class Launch {
  void* function;
  Sizes extent;     // of the grid, of a block; bytes of shared memory
  Sizes arguments;  // for each its role, or -1 - the place in `constants` where its bytes begin
  Sizes constants;

 public:
  explicit Launch(Numbers& n)
      : function(n.pointer()), extent(n.list()), arguments(n.list()), constants(n.list()) {}

  bool takes(Role role) const {
    return std::find(arguments.begin(), arguments.end(), role) != arguments.end();
  }

  void run(const Driver& driver, const Addresses& addresses, void* stream) const {
    c10::SmallVector<void*, 16> table;
    for (const int64_t given : arguments) {
      const void* where = given < 0 ? (const void*)&constants[-1 - given] : &addresses[given];
      table.push_back(const_cast<void*>(where));
    }
    const auto launch = [&] {
      const auto& e = extent;
      return driver.launch(function, e[0], e[1], e[2], e[3], e[4], e[5], e[6], stream,
                           table.data(), nullptr);
    };
    int status = launch();
    if (status == invalid_context || status == invalid_handle) {  // a thread that is new to CUDA
      driver.set_context(driver.context);
      status = launch();
    }
    TORCH_CHECK(status == 0, "CUDA error ", status, " of cuLaunchKernel");
  }
};

struct Layout {  // of one of the two tensors
  bool exists, wants;  // whether there is one, and whether its gradient is computed
  Sizes sizes, strides;

  explicit Layout(Numbers& n)
      : exists(n.next()), wants(n.next()), sizes(n.list()), strides(n.list()) {}

  bool is_of(const Tensor& tensor, const at::TensorOptions& options) const {
    if (!exists || !tensor.defined()) return exists == tensor.defined();
    const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
    return tensor.dtype() == options.dtype() && tensor.device() == options.device() &&
           tensor.sizes() == sizes && tensor.strides() == strides && address &&
           address % tensor.element_size() == 0;
  }
};

struct Plan {
  Driver driver;
  at::TensorOptions storage, arithmetic, kept;  // of tensors, their gradients, the residual
  uint64_t beyond_plain;                        // dispatch keys that only Python's path heeds
  bool saves_tensors;                           // whether the derivative needs the two tensors
  Layout tensors[2];
  Sizes out_sizes, residual_sizes;  // the latter empty where no residual is kept
  int64_t scratch_numbers, alignment;
  std::vector<Launch> forward;  // for any address of the first tensor, and for one that is aligned
  std::vector<Launch> backward;
  _object* fall_back;

  Plan(Numbers n, _object* fall_back)
      : driver(n),
        storage(n.options()), arithmetic(n.options()), kept(n.options()),
        beyond_plain(n.next()), saves_tensors(n.next()),
        tensors{Layout(n), Layout(n)},
        out_sizes(n.list()), residual_sizes(n.list()),
        scratch_numbers(n.next()), alignment(n.next()),
        forward(n.several<Launch>()), backward(n.several<Launch>()),
        fall_back(fall_back) {
    Py_IncRef(fall_back);
  }
  ~Plan() {
    if (!Py_IsInitialized()) return;
    const PythonLock lock;
    Py_DecRef(fall_back);
  }
  Plan(const Plan&) = delete;

  const c10::impl::DeviceGuardImplInterface& guard() const {
    return *c10::impl::getDeviceGuardImpl(storage.device().type());
  }
  void* stream() const {
    const at::Device device = storage.device();
    return device.is_cpu() ? nullptr : guard().getStreamNativeHandle(guard().getStream(device));
  }
  bool is_plain(const Tensor& tensor) const {
    const auto keys = tensor.key_set() | c10::impl::tls_local_dispatch_key_set().included_;
    return !(keys.raw_repr() & beyond_plain) && !tensor._fw_grad(0).defined();
  }
  bool takes(Role role) const {
    return std::any_of(backward.begin(), backward.end(), [=](auto& l) { return l.takes(role); });
  }
};

}  // namespace semiconv
