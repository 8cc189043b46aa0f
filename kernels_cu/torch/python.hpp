// The functions of Python that a node calls, so that neither Python's headers nor its library are
// needed. All but those of libtorch_python belong to its stable ABI; `_object` is PyObject, `_ts` is
// PyThreadState.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

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
_object* PyTuple_Pack(ssize_t, ...);
_object* PyLong_FromLong(long);
}
// Of libtorch_python:
_object* THPVariable_Wrap(const at::TensorBase&);  // a new reference
std::vector<int64_t> THPUtils_unpackLongs(_object*);

struct PythonLock {
  const int state = PyGILState_Ensure();
  ~PythonLock() { PyGILState_Release(state); }
};

// Throws the error that Python has set as torch's `python_error`, which keeps its class on the way to
// the caller of a backward pass. The header of that class includes Python's; but libtorch_python
// throws it for an error that is set while it reads the number -1, which Python returns for errors.
[[noreturn]] inline void throw_error_of_python() {
  static _object* const numbers = PyTuple_Pack(1, PyLong_FromLong(-1));
  THPUtils_unpackLongs(numbers);
  TORCH_CHECK(false, "no error of Python is set");
}
