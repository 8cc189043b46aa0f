// An operation of one or two tensors as torch records it: allocations and launches without Python.
//
//   forward    out, residual = empty;         launch            first, second -> out, residual
//   backward   gradients, scratch = empty;    launches          grad_out, ... -> gradients
//
// Python prepares a plan for one layout of the tensors (torch_bridge/ops/node.py writes the numbers
// that `Plan` reads): launches with their constant arguments, and a `Role` for each pointer. What
// is not as planned goes back to Python: a forward call by None, a backward pass by `fall_back`,
// which also computes second derivatives and what modes have to see.
//
// Neither CUDA nor Python is included or linked: a plan has the address of the driver's
// cuLaunchKernel (in tests, of a stand-in), and the functions of Python's stable ABI are declared
// here. Compiled for one version of torch, SEMICONV_TORCH, whose headers say how nodes are held.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/function.h>

#include <array>

extern "C" {
struct _ts;
extern _object _Py_NoneStruct;
void Py_IncRef(_object*);
void Py_DecRef(_object*);
int Py_IsInitialized();
_ts* PyEval_SaveThread();
void PyEval_RestoreThread(_ts*);
int PyGILState_Ensure();
void PyGILState_Release(int);
_object* PyObject_CallFunctionObjArgs(_object*, ...);
_object* PyObject_GetAttrString(_object*, const char*);
_object* PyBool_FromLong(long);
_object* PyTuple_GetItem(_object*, ssize_t);
void* PyLong_AsVoidPtr(_object*);
const char* PyUnicode_AsUTF8AndSize(_object*, ssize_t*);
}
_object* THPVariable_Wrap(const at::TensorBase&);  // of libtorch_python: a new reference

namespace {

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
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
    const int state = PyGILState_Ensure();
    Py_DecRef(fall_back);
    PyGILState_Release(state);
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

struct SemifieldBackward : Node {
  std::shared_ptr<Plan> plan;
  SavedVariable saved[3];  // the two tensors where the derivative needs them, the residual

  explicit SemifieldBackward(std::shared_ptr<Plan> plan) : plan(std::move(plan)) {}

  std::string name() const override { return "SemifieldBackward"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto& one : saved) one.reset_data();
  }

  variable_list apply(variable_list&& given) override {
    std::lock_guard<std::mutex> lock(mutex_);
    Tensor grad = given[0];
    if (!grad.defined()) return variable_list(2);
    const Tensor tensors[] = {saved[0].unpack(), saved[1].unpack()}, left = saved[2].unpack();
    const bool wants[] = {task_should_compute_output(0), task_should_compute_output(1)};
    if (!is_as_planned(grad, tensors, left, wants)) return by_python(grad, tensors, left, wants);
    const c10::DeviceGuard current(plan->storage.device());
    grad = grad.contiguous();
    Tensor found[2], room;
    for (int i : {0, 1})
      if (plan->takes(Role(grad_first + i)))
        found[i] = at::empty(plan->tensors[i].sizes, plan->arithmetic);
    if (plan->scratch_numbers)
      room = at::empty({plan->scratch_numbers}, plan->storage.dtype(at::kDouble));
    const auto read = [](const Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; };
    const Addresses addresses{nullptr,        read(tensors[0]), read(tensors[1]),
                              nullptr,        read(left),       read(grad),
                              read(found[0]), read(found[1]),   read(room)};
    void* const stream = plan->stream();
    for (const Launch& launch : plan->backward) launch.run(plan->driver, addresses, stream);
    for (int i : {0, 1}) {
      if (!wants[i]) found[i].reset();
      else if (plan->arithmetic.dtype() != plan->storage.dtype())
        found[i] = found[i].to(plan->storage.dtype());
    }
    return {found[0], found[1]};
  }

  bool is_as_planned(const Tensor& grad, const Tensor* tensors, const Tensor& left,
                     const bool* wants) const {
    if (at::GradMode::is_enabled() || !plan->is_plain(grad)) return false;
    if (grad.sizes() != plan->out_sizes || grad.dtype() != plan->storage.dtype()) return false;
    for (int i : {0, 1}) {
      if (wants[i] != plan->tensors[i].wants) return false;
      if (!plan->saves_tensors) continue;
      const auto& tensor = tensors[i];
      if (!plan->tensors[i].is_of(tensor, plan->storage)) return false;
      if (tensor.defined() && !plan->is_plain(tensor)) return false;
    }
    return !left.defined() ||
           (left.sizes() == plan->residual_sizes && left.is_contiguous() && plan->is_plain(left) &&
            left.dtype() == plan->kept.dtype() && left.device() == plan->kept.device());
  }

  // The gradients by Python, which answers (of the first, of the second, error), each may be None.
  variable_list by_python(const Tensor& grad, const Tensor* tensors, const Tensor& left,
                          const bool* wants) const {
    const auto wrapped = [](const Tensor& tensor) {
      if (tensor.defined()) return THPVariable_Wrap(tensor);
      Py_IncRef(&_Py_NoneStruct);
      return &_Py_NoneStruct;
    };
    variable_list found(2);
    std::string error;
    const int state = PyGILState_Ensure();
    std::array<_object*, 6> given{wrapped(grad), wrapped(tensors[0]), wrapped(tensors[1]),
                                  wrapped(left), PyBool_FromLong(wants[0]),
                                  PyBool_FromLong(wants[1])};
    _object* const answer = PyObject_CallFunctionObjArgs(
        plan->fall_back, given[0], given[1], given[2], given[3], given[4], given[5], nullptr);
    for (_object* one : given) Py_DecRef(one);
    for (int i : {0, 1}) {
      _object* const tensor = PyTuple_GetItem(answer, i);  // borrowed
      if (tensor == &_Py_NoneStruct) continue;
      _object* const address = PyObject_GetAttrString(tensor, "_cdata");
      found[i] = tensor_at(PyLong_AsVoidPtr(address));
      Py_DecRef(address);
    }
    if (_object* const text = PyTuple_GetItem(answer, 2); text != &_Py_NoneStruct)
      error = PyUnicode_AsUTF8AndSize(text, nullptr);
    Py_DecRef(answer);
    PyGILState_Release(state);
    TORCH_CHECK(error.empty(), error);
    return found;
  }
};

// A new node, held as torch's version holds nodes.
template <class N>
auto made(std::shared_ptr<Plan> plan) {
  using Held = std::decay_t<decltype(std::declval<at::TensorBase>().grad_fn())>;
  if constexpr (std::is_same_v<Held, std::shared_ptr<Node>>)
    return std::shared_ptr<N>(new N(std::move(plan)), [](N* node) { deleteNode(node); });
  else
    return c10::make_intrusive<N>(std::move(plan));
}

// The recorded output; no tensor where this is not the call that was planned.
Tensor recorded(const std::shared_ptr<Plan>& plan, const Tensor (&tensors)[2]) {
  for (int i : {0, 1}) {
    const auto& layout = plan->tensors[i];
    if (!layout.is_of(tensors[i], plan->storage)) return {};
    if (layout.exists && layout.wants != tensors[i].requires_grad()) return {};
  }
  const at::Device device = plan->storage.device();
  if (!device.is_cpu() && plan->guard().getDevice() != device) return {};
  Tensor result = at::empty(plan->out_sizes, plan->storage), left;
  if (!plan->residual_sizes.empty()) left = at::empty(plan->residual_sizes, plan->kept);
  const auto read = [](const Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; };
  const Addresses addresses{nullptr, read(tensors[0]), read(tensors[1]), read(result), read(left)};
  const bool aligned = reinterpret_cast<uintptr_t>(addresses[first]) % plan->alignment == 0;
  plan->forward[aligned].run(plan->driver, addresses, plan->stream());
  const auto node = made<SemifieldBackward>(plan);
  node->set_next_edges(torch::autograd::collect_next_edges(tensors[0], tensors[1]));
  if (plan->saves_tensors)
    for (int i : {0, 1}) node->saved[i] = SavedVariable(tensors[i], false);
  node->saved[2] = SavedVariable(left, false);
  torch::autograd::impl::set_gradient_edge(result, {node, node->add_input_metadata(result)});
  return result;
}
}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// All of them are called with Python's lock held.
EXPORT void* semiconv_node_plan(const int64_t* numbers, _object* fall_back) {
  return new std::shared_ptr<Plan>(std::make_shared<Plan>(Numbers{numbers}, fall_back));
}

EXPORT void semiconv_node_forget(void* plan) { delete static_cast<std::shared_ptr<Plan>*>(plan); }

// The recorded output; None where the plan is not for these tensors, or an error has to be raised.
EXPORT _object* semiconv_node_call(void* plan_at, void* first_at, void* second_at) {
  const auto plan = *static_cast<std::shared_ptr<Plan>*>(plan_at);
  Tensor found;
  _ts* const thread = PyEval_SaveThread();
  try {
    found = recorded(plan, {tensor_at(first_at), tensor_at(second_at)});
  } catch (const std::exception&) {  // Python's path repeats the call, and raises what it raises
    found.reset();
  }
  PyEval_RestoreThread(thread);
  if (found.defined()) return THPVariable_Wrap(found);
  Py_IncRef(&_Py_NoneStruct);
  return &_Py_NoneStruct;
}
