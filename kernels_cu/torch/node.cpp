// An operation of one or two tensors as torch records it: allocations and launches without Python.
//
//   forward    out, residual = empty;         launch            first, second -> out, residual
//   backward   gradients, scratch = empty;    launches          grad_out, ... -> gradients
//
// What is not as planned goes back to Python: a forward call by None, a backward pass by the plan's
// `fall_back`, which also computes second derivatives and what modes have to see.
//
// Compiled for one version of torch, SEMICONV_TORCH, whose headers say how nodes are held. SEMICONV_NODE
// is no macro but a variable of the environment: with 0, Python records all calls.
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/SavedTensorHooks.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/function.h>

#include "plan.hpp"

namespace torch::profiler::impl {
bool profilerEnabled();  // its header includes the whole profiler
}

namespace semiconv {

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

struct SemifieldBackward : Node {
  std::shared_ptr<Plan> plan;
  SavedVariable saved[3];  // the two tensors where the derivative needs them, the residual

  explicit SemifieldBackward(std::shared_ptr<Plan> plan) : plan(std::move(plan)) {}

  std::string name() const override { return "SemifieldBackward"; }

  void compiled_args(torch::autograd::CompiledNodeArgs&) const override {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false, "compiled autograd cannot trace ", name(), ", which is recorded in C++: set ",
        "torch._dynamo.config.compiled_autograd = True before the first forward pass, or ",
        "SEMICONV_NODE=0 in the environment");
  }

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
      if (tensor.defined() && !plan->is_plain(tensor)) return false;
      if (!plan->tensors[i].is_of(tensor, plan->storage)) return false;
    }
    return !left.defined() ||
           (left.sizes() == plan->residual_sizes && left.is_contiguous() && plan->is_plain(left) &&
            left.dtype() == plan->kept.dtype() && left.device() == plan->kept.device());
  }

  // The gradients by Python: a tensor or None for each of the two. What Python raises is thrown.
  variable_list by_python(const Tensor& grad, const Tensor* tensors, const Tensor& left,
                          const bool* wants) const {
    const auto wrapped = [](const Tensor& tensor) {
      if (tensor.defined()) return THPVariable_Wrap(tensor);
      Py_IncRef(&_Py_NoneStruct);
      return &_Py_NoneStruct;
    };
    const PythonLock lock;
    std::array<_object*, 6> given{wrapped(grad), wrapped(tensors[0]), wrapped(tensors[1]),
                                  wrapped(left), PyBool_FromLong(wants[0]),
                                  PyBool_FromLong(wants[1])};
    _object* const answer = PyObject_CallFunctionObjArgs(
        plan->fall_back, given[0], given[1], given[2], given[3], given[4], given[5], nullptr);
    for (_object* one : given) Py_DecRef(one);
    if (!answer) throw_error_of_python();
    variable_list found(2);
    for (int i : {0, 1}) {
      _object* const tensor = PyTuple_GetItem(answer, i);  // borrowed
      if (tensor == &_Py_NoneStruct) continue;
      _object* const address = PyObject_GetAttrString(tensor, "_cdata");
      found[i] = tensor_at(PyLong_AsVoidPtr(address));
      Py_DecRef(address);
    }
    Py_DecRef(answer);
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

// The recorded output; no tensor where this is not the call that was planned, or where a mode, a
// profiler or hooks of saved tensors, which may raise errors of Python, have to see it.
Tensor recorded(const std::shared_ptr<Plan>& plan, const Tensor (&tensors)[2]) {
  if (!at::GradMode::is_enabled() || at::impl::torch_function_mode_enabled() ||
      torch::profiler::impl::profilerEnabled() ||
      !at::SavedTensorDefaultHooks::get_tls_state().stack.empty())
    return {};
  for (int i : {0, 1}) {
    const auto& layout = plan->tensors[i];
    if (tensors[i].defined() && !plan->is_plain(tensors[i])) return {};
    if (!layout.is_of(tensors[i], plan->storage)) return {};
    if (layout.exists && layout.wants != tensors[i].requires_grad()) return {};
  }
  const at::Device device = plan->storage.device();
  if (!device.is_cpu() && plan->guard().getDevice() != device) return {};
  Tensor result = at::empty(plan->out_sizes, plan->storage), left;
  if (!plan->residual_sizes.empty()) left = at::empty(plan->residual_sizes, plan->kept);
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
}  // namespace semiconv

#define EXPORT extern "C" __attribute__((visibility("default")))
using Held = std::shared_ptr<semiconv::Plan>;

// All of them are called with Python's lock held.
EXPORT void* semiconv_node_plan(const int64_t* numbers, _object* fall_back) {
  return new Held(std::make_shared<semiconv::Plan>(semiconv::Numbers{numbers}, fall_back));
}

EXPORT void semiconv_node_forget(void* plan) { delete static_cast<Held*>(plan); }

// The recorded output; None where the plan is not for these tensors, or an error has to be raised.
EXPORT _object* semiconv_node_call(void* plan_at, void* first_at, void* second_at) {
  const auto plan = *static_cast<Held*>(plan_at);
  const at::Tensor given[] = {semiconv::tensor_at(first_at), semiconv::tensor_at(second_at)};
  at::Tensor found;
  _ts* const thread = PyEval_SaveThread();
  try {
    found = semiconv::recorded(plan, given);
  } catch (const std::exception&) {  // Python's path repeats the call, and raises what it raises
    found.reset();
  }
  PyEval_RestoreThread(thread);
  if (found.defined()) return THPVariable_Wrap(found);
  Py_IncRef(&_Py_NoneStruct);
  return &_Py_NoneStruct;
}
