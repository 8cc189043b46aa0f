// The functions of Python that a node calls, so that neither Python's headers nor its library are
// needed. All but THPVariable_Wrap belong to its stable ABI; `_object` is PyObject, `_ts` is
// PyThreadState.
#pragma once
#include <ATen/core/Tensor.h>

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
void PyErr_Clear();
const char* PyUnicode_AsUTF8AndSize(_object*, ssize_t*);
}
_object* THPVariable_Wrap(const at::TensorBase&);  // of libtorch_python: a new reference
