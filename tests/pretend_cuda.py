"""A stand-in for CUDA devices, for tests on machines without a GPU.

Inside `pretended()` a tensor that is moved to `cuda` says that it lies on `cuda:0` (or on the device that the thread
has set), and is computed with on the CPU. What a GPU would not do raises: an operation on tensors of two devices, NumPy
on a device's tensor. What would make the host wait for the GPU is noted down, and so is every operation:

    with pretended() as gpu:
        model.to("cuda")(x.to("cuda")).sum().item()
    gpu.waits            # where the host waited, and for what
    gpu.operations       # kernels, with bytes and FLOPs

It says nothing about time, memory, or the numbers that a GPU's kernels round differently. PyTorch asks once, while it
is imported, which devices there are. So this module, which needs g++, is imported before it, by tests in a process of
their own: test_pretend_cuda.py.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import subprocess
import tempfile
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

DEVICES = 2

# --- the C++ part: PyTorch asks these before it lets anything happen on a device ------------------------------------

_GUARD = r"""
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
using c10::Device; using c10::DeviceIndex; using c10::DeviceType; using c10::Stream;
thread_local DeviceIndex current = 0;

struct Guard final : public c10::impl::DeviceGuardImplInterface {
  static constexpr DeviceType static_type = DeviceType::CUDA;
  DeviceType type() const override { return static_type; }
  Device getDevice() const override { return Device(static_type, current); }
  Device exchangeDevice(Device next) const override { Device old = getDevice(); current = next.index(); return old; }
  void setDevice(Device next) const override { current = next.index(); }
  void uncheckedSetDevice(Device next) const noexcept override { current = next.index(); }
  DeviceIndex deviceCount() const noexcept override { return COUNT; }
  Stream getStream(Device device) const noexcept override { return Stream(Stream::DEFAULT, device); }
  Stream getDefaultStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
  Stream getNewStream(Device device, int) const override { return Stream(Stream::DEFAULT, device); }
  Stream exchangeStream(Stream stream) const noexcept override { return Stream(Stream::DEFAULT, stream.device()); }
  void record(void** event, const Stream&, const DeviceIndex, const c10::EventFlag) const override {
    *event = reinterpret_cast<void*>(1);
  }
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
};

struct Hooks final : public at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  bool isPinnedPtr(const void*) const override { return false; }
  int getNumGPUs() const override { return COUNT; }
  DeviceIndex deviceCount() const override { return COUNT; }
  DeviceIndex current_device() const override { return current; }
  DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(DeviceIndex next) const override { current = next; }
  DeviceIndex exchangeDevice(DeviceIndex next) const override { auto old = current; current = next; return old; }
  DeviceIndex maybeExchangeDevice(DeviceIndex next) const override { return exchangeDevice(next); }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
};
}  // namespace

namespace c10::impl { C10_REGISTER_GUARD_IMPL(CUDA, Guard) }
namespace at { C10_REGISTER_CLASS_WITH_PRIORITY(CUDAHooksRegistry, CUDAHooks, c10::REGISTRY_PREFERRED, Hooks) }
extern "C" int pretended_device() { return current; }
extern "C" void set_pretended_device(int next) { current = static_cast<DeviceIndex>(next); }
"""


def _load() -> ctypes.CDLL:
    """Build the C++ part, unless an earlier process has, and load it behind PyTorch's own libraries."""
    actual = importlib.util.find_spec("torch")
    assert actual is not None and actual.origin is not None
    torch_folder = Path(actual.origin).parent
    source = _GUARD.replace("COUNT", str(DEVICES))
    key = hashlib.sha256(f"{importlib.metadata.version('torch')} {torch_folder} {source}".encode()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"pretended-cuda-{key}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=built.parent) as name:
            code, result = Path(name) / "guard.cpp", Path(name) / "guard.so"
            code.write_text(source)
            headers = [torch_folder / "include", torch_folder / "include/torch/csrc/api/include"]
            flags = ["-shared", "-fPIC", "-O0", "-std=c++20", *(f"-I{path}" for path in headers)]
            libraries = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
            subprocess.run(["g++", *flags, code, "-o", result, *libraries], check=True)
            result.replace(built)
    libraries_of_torch = [torch_folder / f"lib/lib{name}.so" for name in ("c10", "torch_cpu", "c10_cuda", "torch_cuda")]
    for path in libraries_of_torch:  # a build for CUDA registers its own guard, which the stand-in's must replace
        if path.exists():
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(built), ctypes.RTLD_GLOBAL)


LIBRARY = _load()  # before `import torch`, which asks once which devices there are

# isort: split
import torch
import torch._dynamo  # now: it looks at functions of torch that are others inside `pretended`
import torch.nn.functional as F
from operations import Operation, name_of, operation
from torch import Tensor
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ROOT = Path(__file__).resolve().parent.parent
FREE, TOTAL = 79_000_000_000, 80_000_000_000  # bytes
COPIES = ("_to_copy", "copy_", "_copy_from")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
# Operations whose result's shape or value the host needs, so that it waits for the device.
WAITING = {
    *("_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim"),
    *("unique_consecutive", "bincount", "repeat_interleave", "_assert_async"),
}
aten = torch.ops.aten

# --- tensors of a pretended device --------------------------------------------------------------------------------


class OnDevice(Tensor):
    """A tensor that says it lies on a CUDA device; `held` is where it lies."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> "OnDevice":
        alike = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        with torch.inference_mode(False):  # of a tensor of that mode PyTorch makes no views later
            result = Tensor._make_wrapper_subclass(cls, held.size(), layout=held.layout, device=device, **alike)
        result.held = held
        return result

    def __init__(self, held: Tensor, device: torch.device) -> None:  # noqa: ARG002
        GPU.take(self, held)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self, *_, **__):
        return f"OnDevice({tuple(self.shape)}, {self.dtype}, {self.device})"

    def __getitem__(self, index):
        return Tensor.__getitem__(self, _index(index))

    def __setitem__(self, index, value):
        return Tensor.__setitem__(self, _index(index), value)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *_, **__):
        raise TypeError(f"can't convert {self.device} device type tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    def pin_memory(self, *_):
        raise RuntimeError("cannot pin a tensor of a device")

    def __deepcopy__(self, memo):
        result = OnDevice(self.held.detach().clone(), self.device)
        result = torch.nn.Parameter(result, self.requires_grad) if isinstance(self, torch.nn.Parameter) else result
        memo[id(self)] = result
        return result


def _index(index: Any) -> Any:
    """Lists become tensors: of a subclass PyTorch would take them element by element."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return torch.tensor(index) if isinstance(index, list) else index


class Gpu:
    """What happened on the pretended devices."""

    def __init__(self) -> None:
        self._users: Counter[int] = Counter()  # tensors that share a piece of memory, by its address
        self.bytes = self.most_bytes = 0  # held now; held at most since somebody asked to count anew
        self.clear()

    def take(self, tensor: Tensor, held: Tensor) -> None:
        """Count the memory behind a tensor, until the tensor is gone."""
        storage = held.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        weakref.finalize(tensor, self._give_back, place, size).atexit = False
        self._users[place] += 1
        if self._users[place] == 1:
            self.bytes += size
            self.most_bytes = max(self.most_bytes, self.bytes)

    def _give_back(self, place: int, size: int) -> None:
        self._users[place] -= 1
        if self._users[place] == 0:
            self.bytes -= size

    def count_anew(self) -> None:
        """What is held at most, from now on."""
        self.most_bytes = self.bytes

    def clear(self) -> None:
        """Begin to count anew."""
        self.free = FREE  # memory for this process, bytes
        self.operations: list[Operation] = []
        self.waits: list[str] = []  # what the host waited for, and where
        self.attention: list[tuple[bool, bool, torch.dtype]] = []  # mask given, causal, type of the queries
        self.pinned: list[Tensor] = []

    def wait(self, why: str) -> None:
        """The host waits for the device."""
        self.waits.append(f"{why} at {_where()}")

    def is_pinned(self, x: Tensor) -> bool:
        """Whether a tensor of the CPU lies in pinned memory."""
        place = x.untyped_storage().data_ptr()
        return any(one.untyped_storage().data_ptr() == place for one in self.pinned)


GPU = Gpu()


def _where() -> str:
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "tests") and ".venv" not in path.parts:
            if path.name != "operations.py":
                return f"{path.relative_to(ROOT)}:{frame.lineno}"
        elif "transformers" in path.parts:
            return f"transformers/{path.name}:{frame.lineno}"
    return "the test"


class _Mode(TorchDispatchMode):
    """Sees the operations that make tensors, of which none lies on a device yet."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation of PyTorch."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with _Mode():
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    name = name_of(func)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    here = [x for x in tensors if isinstance(x, OnDevice)]
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    if not here and (asked is None or asked.type != "cuda"):
        return func(*args, **kwargs)
    _check_devices(name, tensors, here, args)
    _note_waiting(name, here, tensors, args, kwargs, asked)
    device = _resolved(asked) if asked is not None else here[0].device
    if name.startswith(("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention")):
        return _attention(name, args, kwargs, device)
    on_cpu = {key: torch.device("cpu") if key == "device" and value else _held(value) for key, value in kwargs.items()}
    on_cpu |= {"pin_memory": False} if on_cpu.get("pin_memory") else {}
    result = func(*_held(args), **on_cpu)
    if device.type == "cpu" or name == "_local_scalar_dense" or (name == "copy_" and not isinstance(args[0], OnDevice)):
        return args[0] if name == "copy_" else result
    return _wrapped(operation(func, _held(args), on_cpu, result), tensors, result, device)


def _wrapped(one: Operation | None, tensors: list[Tensor], made: Any, device: torch.device) -> Any:
    """What an operation made, as tensors of the device. one: it, to be noted down."""
    if one is not None:
        GPU.operations.append(one)
    known = {id(x.held): x for x in tensors if isinstance(x, OnDevice)}  # in-place operations return what they got

    def wrap(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return known[id(x)] if id(x) in known else OnDevice(x, device)

    return tree_map(wrap, made)


def _held(value: Any) -> Any:
    return tree_map(lambda x: x.held if isinstance(x, OnDevice) else x, value)


def _resolved(device: torch.device) -> torch.device:
    """With the index of the device that this thread has set, as CUDA takes it."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", LIBRARY.pretended_device())


def _check_devices(name: str, tensors: list[Tensor], here: list[Tensor], args: Any) -> None:
    """RuntimeError for what CUDA would not compute."""
    devices = {x.device for x in here}
    if name in COPIES:
        return
    if name in INDEXING and isinstance(args[0], OnDevice):  # indices and values may come from the CPU
        devices |= {x.device for x in tree_leaves(args[0]) if isinstance(x, Tensor)}
    elif here:
        devices |= {x.device for x in tensors if x.dim()}
    if len(devices) > 1:
        actual = ", ".join(f"{tuple(x.shape)} on {x.device}" for x in tensors)
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {actual}, at {_where()}")


def _note_waiting(
    name: str, here: list[Tensor], tensors: list[Tensor], args: Any, kwargs: dict[str, Any], asked: torch.device | None
) -> None:
    """Note down whether the host waits for the device in this operation."""
    away = [x for x in tensors if not isinstance(x, OnDevice) and x.dim()]
    if name in WAITING and here:
        GPU.wait(name)
    elif name in INDEXING and here:
        if away:
            GPU.wait("indices from the CPU")
        if any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in tree_leaves(args[1])):
            GPU.wait("a mask as an index")
    elif name in ("_to_copy", "copy_") and here and _to_cpu(name, args, asked):
        if not kwargs.get("non_blocking"):
            GPU.wait("a copy to the CPU")
    elif name in ("_to_copy", "copy_") and not (name == "copy_" and isinstance(args[1], OnDevice)) and away:
        blocking = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        if blocking or not GPU.is_pinned(away[0]):
            GPU.wait(f"a {'blocking copy' if blocking else 'copy of memory that is not pinned'} to the device")


def _to_cpu(name: str, args: Any, asked: torch.device | None) -> bool:
    return not isinstance(args[0], OnDevice) if name == "copy_" else asked is not None and asked.type == "cpu"


def _attention(name: str, args: Any, kwargs: dict[str, Any], device: torch.device) -> Any:
    """Flash and memory-efficient attention and their gradients, by the CPU's kernels; dropout is left out.

    The efficient one is taken for a mask, the other without one.
    """
    given, scale, flash = _held(args), kwargs.get("scale"), "flash" in name
    if name.endswith("_backward"):
        gradient, q, k, v, out, total = given[:6] if flash else (*given[:4], *given[5:7])
        how = {"scale": scale} if flash else {"scale": scale, "attn_mask": given[4]}
        backward = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
        read = (gradient.contiguous(), q, k, v, out, total)
        result = backward(*read, 0.0, flash and given[11], **how)
        gradients = _wrapped(operation(backward, read, how, result), list(read), result, device)
        return gradients if flash else (*gradients, None)
    q, k, v = given[:3]
    causal = flash and (given[4] if len(given) > 4 else kwargs.get("is_causal", False))
    how = {} if flash else {"attn_mask": given[3]}
    forward = aten._scaled_dot_product_flash_attention_for_cpu.default
    result = forward(q, k, v, 0.0, causal, scale=scale, **how)
    out, total = _wrapped(operation(forward, (q, k, v), how, result), [q, k, v], result, device)
    random, nothing = OnDevice(torch.zeros(2, dtype=torch.uint64), device), OnDevice(torch.empty(0), device)
    offset = OnDevice(torch.zeros((), dtype=torch.uint64), device)
    return (
        (out, total, None, None, q.shape[2], k.shape[2], random, offset, nothing)
        if flash
        else (out, total, random, offset)
    )


# --- PyTorch's own functions that ask for a device ----------------------------------------------------------------

_sdpa, _tensor, _thread_run = F.scaled_dot_product_attention, torch.tensor, threading.Thread.run


def _attention_of(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    if not isinstance(query, OnDevice):
        return _sdpa(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    GPU.attention.append((attn_mask is not None, is_causal, query.dtype))
    if attn_mask is not None:
        bias = attn_mask.expand(*query.shape[:3], key.shape[2])
        efficient = aten._scaled_dot_product_efficient_attention
        return efficient(query, key, value, bias, query.requires_grad, dropout_p, is_causal, scale=scale)[0]
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]


def _tensor_of(data, *, device=None, **how):
    return _tensor(data, **how) if device is None else _tensor(data, **how).to(device)


def _pinned(self, *_):
    result = torch.empty_strided(self.shape, self.stride(), dtype=self.dtype).copy_(self)  # raises where PyTorch's does
    GPU.pinned.append(result)
    return result


def _run_thread(self):
    """A thread begins on device 0, as CUDA has it."""
    with _Mode():
        _thread_run(self)


class _Event:
    """A mark among the operations, which the host can wait for."""

    def record(self) -> None:
        """Put it behind all operations so far."""

    def synchronize(self) -> None:
        """Wait for it."""
        GPU.wait("an event")


class _Generator:
    """Draws the same on each device here."""

    def __new__(cls, device="cpu"):  # noqa: ARG004
        return torch._C.Generator()


@contextlib.contextmanager
def pretended() -> Iterator[Gpu]:
    """Two CUDA devices are there meanwhile."""
    GPU.clear()
    cuda = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: DEVICES,
        "current_device": LIBRARY.pretended_device,
        "set_device": lambda device: LIBRARY.set_pretended_device(getattr(device, "index", device)),
        "mem_get_info": lambda _=None: (GPU.free - GPU.bytes, TOTAL),
        "memory_reserved": lambda _=None: GPU.bytes,
        "max_memory_allocated": lambda _=None: GPU.most_bytes,
        "reset_peak_memory_stats": lambda _=None: GPU.count_anew(),
        "manual_seed": lambda seed: None,  # noqa: ARG005  what is drawn comes from the CPU's generator
        "manual_seed_all": lambda seed: None,  # noqa: ARG005
        "Event": _Event,
        "synchronize": lambda *_: GPU.wait("torch.cuda.synchronize"),
        "is_bf16_supported": lambda *_, **__: True,
        "get_device_name": lambda *_: "pretended",
        "_lazy_init": lambda: None,
    }
    foreach = [*_foreach_utils._foreach_supported_types, OnDevice]
    with contextlib.ExitStack() as stack:
        for name, function in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", _attention_of))
        stack.enter_context(mock.patch.object(torch, "tensor", _tensor_of))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", _pinned))
        stack.enter_context(mock.patch.object(threading.Thread, "run", _run_thread))
        stack.enter_context(mock.patch.object(_foreach_utils, "_foreach_supported_types", foreach))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        stack.enter_context(_Mode())
        try:
            yield GPU
        finally:
            LIBRARY.set_pretended_device(0)
