"""The function of a loaded network that computes it, called with flat lists of NumPy arrays or torch tensors.

Compiled code takes memory that begins at a multiple of 64 bytes. A torch tensor or large array that does is given to it
as it is, and results are given out as they are; other inputs are copied into buffers. PyTorch is not imported: who
gives a tensor of it has done so.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from subp_contract.errors import UserError
from tvm_sched import runtime_library
from tvm_sched.signature import TensorSpec, numpy_dtype, type_name

ALIGNMENT = 64  # bytes, of buffers that compiled code takes
WORTH = 64 * 1024  # bytes of an array that are copied no faster than it takes to see that they need not be
BFLOAT16 = "bfloat16"


class Slot:
    """One input: what it must be, and the buffer for those that cannot be taken as they are."""

    def __init__(self, spec: TensorSpec, parts: int):
        self.spec, self.dtype = spec, numpy_dtype(spec.dtype)
        self.rows = spec.shape[0] // parts if parts > 1 else 0  # of a part
        self.buffer = aligned((self.rows, *spec.shape[1:]) if parts > 1 else spec.shape, self.dtype)
        self.buffer[...] = spec.range[0] if spec.range else 0  # an index that is valid
        self.tensor = as_tvm(self.buffer)
        self.large = self.buffer.nbytes >= WORTH and spec.dtype != BFLOAT16

    def require(self, x: Any) -> bool:
        """Whether `x` is an array, else a torch tensor. Raises UserError unless it is one on the CPU, of the input's
        shape and dtype.
        """
        if isinstance(x, np.ndarray):
            if x.shape == self.spec.shape and x.dtype == self.dtype:
                return True
            given = f"{list(x.shape)} of {x.dtype}"
        elif is_torch(x):
            dtype = str(x.dtype).removeprefix("torch.")
            if x.shape == self.spec.shape and dtype == self.spec.dtype and is_plain(x):
                return False
            kind = "" if is_plain(x) else f" on {x.device}" if x.device.type != "cpu" else f", {x.layout}"
            given = f"a torch tensor, {list(x.shape)} of {dtype}{kind}"
        else:
            given = type_name(x)
        raise UserError(
            f"input '{self.spec.name}' must be a NumPy array or a torch tensor on the CPU, {list(self.spec.shape)} of "
            f"{self.spec.dtype}, not {given}"
        )

    def put(self, x: Any) -> Any:
        """What the function takes for `x`: the buffer, or a tensor or an array that can be taken as it is."""
        if isinstance(x, np.ndarray):
            if self.large and x.flags.c_contiguous and x.flags.writeable and x.ctypes.data % ALIGNMENT == 0:
                return as_tvm(x)
            np.copyto(self.buffer, x)
            return self.tensor
        x = x.detach()
        if x.numel() and x.data_ptr() % ALIGNMENT == 0 and x.is_contiguous() and not x.is_neg():
            return x
        sys.modules["torch"].from_dlpack(self.tensor).copy_(x)
        return self.tensor


class Entry:
    """The function `main` with what was `prepared` for it."""

    def __init__(self, main: Callable, prepared: Sequence, inputs: Sequence[TensorSpec], parts: int):
        self.main, self.prepared, self.parts = main, tuple(prepared), parts
        self.slots = [Slot(spec, parts) for spec in inputs]
        main_of_buffers = partial(main, *(slot.tensor for slot in self.slots), *self.prepared)
        # The first call takes its memory. What the second gives at the same place is not made by a call: an input given
        # back, or a constant.
        first = main_of_buffers()
        self.has_one_output = hasattr(first, "__dlpack__")
        first, second = self.listed(first), self.listed(main_of_buffers())
        self.shared = [as_numpy(a).ctypes.data == as_numpy(b).ctypes.data for a, b in zip(first, second, strict=True)]
        self.array_of = [
            copied if shared else as_numpy if str(output.dtype) == BFLOAT16 else np.from_dlpack
            for shared, output in zip(self.shared, first, strict=True)
        ]

    def __call__(self, given: Sequence) -> list:
        """The outputs for the inputs, in order: tensors if one of these is, else arrays. Each call computes into memory
        of its own. Raises UserError for inputs that are not those the network takes.
        """
        if len(given) != len(self.slots):
            names = ", ".join(slot.spec.name for slot in self.slots)
            raise UserError(f"{len(given)} inputs were given; the network takes {len(self.slots)} ({names})")
        arrays = True
        for slot, x in zip(self.slots, given):  # noqa: B905, strict costs time
            arrays &= slot.require(x)
        compute = self.of_arrays if arrays else self.of_tensors
        return compute(given) if self.parts == 1 else self.in_parts(given, compute)

    def of_arrays(self, given: Sequence) -> list[np.ndarray]:
        """The outputs for arrays."""
        taken = [slot.put(x) for slot, x in zip(self.slots, given)]  # noqa: B905
        outputs = self.listed(self.main(*taken, *self.prepared))
        return [array_of(output) for array_of, output in zip(self.array_of, outputs)]  # noqa: B905

    def of_tensors(self, given: Sequence) -> list:
        """The outputs for inputs of which one at least is a torch tensor."""
        torch = sys.modules["torch"]
        taken = [slot.put(x) for slot, x in zip(self.slots, given, strict=True)]
        made = [
            output if isinstance(output, torch.Tensor) else torch.from_dlpack(output)
            for output in self.listed(self.main(*taken, *self.prepared))
        ]
        return [tensor.clone() if shared else tensor for tensor, shared in zip(made, self.shared, strict=True)]

    def in_parts(self, given: Sequence, compute: Callable) -> list:
        """What `compute` gives for one part of the batch after another, joined."""
        made = [
            compute([x[part * slot.rows : (part + 1) * slot.rows] for slot, x in zip(self.slots, given, strict=True)])
            for part in range(self.parts)
        ]
        join = np.concatenate if isinstance(made[0][0], np.ndarray) else sys.modules["torch"].cat
        return [join(each) for each in zip(*made, strict=True)]

    def listed(self, made: Any) -> Sequence:
        """What the function gave, as a sequence."""
        return (made,) if self.has_one_output else made


def is_torch(x: Any) -> bool:
    """Whether `x` is a tensor of PyTorch, which need not have been imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_plain(tensor: Any) -> bool:
    """Whether a torch tensor's numbers lie in the CPU's memory."""
    return tensor.device.type == "cpu" and tensor.layout is sys.modules["torch"].strided


def aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An array of zeros that begins where compiled code may expect it to."""
    raw = np.zeros(prod(shape) * dtype.itemsize + ALIGNMENT, "uint8")
    return np.ndarray(shape, dtype, buffer=raw, offset=-raw.ctypes.data % ALIGNMENT)


def as_tvm(array: np.ndarray) -> Any:
    """TVM's tensor over an array's memory; DLPack of NumPy does not know bfloat16, and where there are no elements
    gives strides that TVM does not take.
    """
    ffi = runtime_library.ffi()
    if not array.size:
        flat = ffi.from_dlpack(np.zeros(1, array.dtype if array.dtype.name != BFLOAT16 else "uint16"))
        return view(flat, array.shape, array.dtype.name)
    if array.dtype.name != BFLOAT16:
        return ffi.from_dlpack(array)
    return view(ffi.from_dlpack(array.view("uint16")), array.shape, BFLOAT16)


def view(tensor: Any, shape: Sequence[int], dtype: str) -> Any:
    """TVM's tensor of that shape and dtype over the memory of another."""
    ffi = runtime_library.ffi()
    return ffi.get_global_func("runtime.TVMTensorCreateView")(tensor, ffi.Shape(shape), ffi.dtype(dtype), 0)


def as_numpy(tensor: Any) -> np.ndarray:
    """An array over the memory of TVM's tensor."""
    if str(tensor.dtype) != BFLOAT16:
        return np.from_dlpack(tensor)
    return np.from_dlpack(view(tensor, tensor.shape, "uint16")).view(numpy_dtype(BFLOAT16))


def copied(tensor: Any) -> np.ndarray:
    """A copy of TVM's tensor as an array."""
    return as_numpy(tensor).copy()
