"""A GPU's driver that runs kernels on the CPU: CuPy and cuLaunchKernel as stand-ins.

The driver is given addresses of arguments and no types, so it reads as many bytes of each as the
compiled kernel declares.
"""

import ctypes
import sys
import types

import cases
import numpy as np

from semiconv_cupy.backends.device import CupyDevice, Driver

LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, *[ctypes.c_uint] * 7, *[ctypes.c_void_p] * 3
)
SET_CONTEXT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class CUDADriverError(RuntimeError):
    """As CuPy calls it."""


def install(monkeypatch, raw_kernel, launch, **names):
    """Make CuPy of these functions the one that is imported."""
    driver = types.SimpleNamespace(launchKernel=launch, CUDADriverError=CUDADriverError)
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 1, getDevice=lambda: 0)
    stream = types.SimpleNamespace(ptr=6)
    gpu = types.SimpleNamespace(attributes={"MultiProcessorCount": 132})
    cuda = types.SimpleNamespace(
        driver=driver, runtime=runtime, get_current_stream=lambda: stream, Device=lambda: gpu
    )
    cupy = types.SimpleNamespace(RawKernel=raw_kernel, cuda=cuda, **names)
    monkeypatch.setitem(sys.modules, "cupy", cupy)


class DriverOnCpu(CupyDevice):
    """A device whose launches by the driver run on the CPU; RawKernel's are refused.

    Attributes
    ----------
    launches : int
        How many were asked for by programs in C++ (`driver`).
    failures : list of int
        Errors that the next of them answer, instead of running.
    contexts : list of int
        What was made the current context.
    """

    def __init__(self, monkeypatch):
        self.kernels, self.launches, self.failures, self.contexts = [], 0, [], []
        functions = {"empty": self._empty, "asarray": self._asarray}
        install(monkeypatch, self._raw_kernel, self._launch, **functions)
        super().__init__()
        self._functions = LAUNCH(self._answer), SET_CONTEXT(self._set_context)

    def driver(self):
        launch, set_context = (
            ctypes.cast(function, ctypes.c_void_p).value for function in self._functions
        )
        return Driver(launch, set_context, 99)

    def _raw_kernel(self, text, name, options):
        self.kernels.append(cases.harness().compile(text, name, options))
        return types.SimpleNamespace(kernel=types.SimpleNamespace(ptr=len(self.kernels)))

    def _launch(self, function, *sizes):
        *sizes, _stream, table, _extra = sizes
        kernel = self.kernels[function - 1]
        where = (ctypes.c_void_p * len(kernel.parameters)).from_address(table)
        given = []
        for at, parameter in zip(where, kernel.parameters, strict=True):
            kind = parameter.kind.decode()
            dtype = np.dtype(
                {"p": "u8", "c": "u8", "s": f"V{parameter.size}"}.get(
                    kind, f"{kind}{parameter.size}"
                )
            )
            raw = bytes((ctypes.c_char * dtype.itemsize).from_address(at))
            value = np.frombuffer(raw, dtype)[0]
            given.append(int(value) if kind in "pc" else value)
        kernel(tuple(sizes[:3]), tuple(sizes[3:6]), tuple(given), sizes[6])

    def _answer(self, *given):
        self.launches += 1
        if self.failures:
            return self.failures.pop(0)
        self._launch(*given)
        return 0

    def _set_context(self, context):
        self.contexts.append(context)
        return 0

    def _empty(self, shape, dtype):
        return self._asarray(cases.harness().empty(shape, dtype))

    @staticmethod
    def _asarray(array):
        """An array with an address, as CuPy's have it; `kept` is the one of NumPy."""
        data = types.SimpleNamespace(ptr=array.ctypes.data)
        names = ("shape", "dtype", "strides", "size", "nbytes")
        same = {name: getattr(array, name) for name in names}
        return types.SimpleNamespace(data=data, kept=array, **same)
