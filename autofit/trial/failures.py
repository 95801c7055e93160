"""Failure texts and exits, classified. Only out-of-memory may rule out neighbouring configurations.

Each row is a text that a library prints when memory has run out. The texts are the libraries' own:
torch (c10/cuda/CUDACachingAllocator.cpp, c10/core/impl/alloc_cpu.cpp, c10/xpu, aten/mps), cuBLAS and
cuDNN status names, bitsandbytes (csrc/ops.cu), Triton (launcher), HIP's error strings.
"""

from __future__ import annotations

import re
import signal

from autofit.errors import printable
from autofit.study.outcome import Outcome
from autofit.units import format_bytes

OUT_OF_MEMORY_TEXTS: tuple[tuple[str, str], ...] = (
    (r"(CUDA|HIP|XPU|NPU) out of memory", "the device's memory limit was reached"),
    (r"(CUDA|HIP|hip) ?(driver )?error:? ?(.*)out of memory", "the device's memory limit was reached"),
    (r"hipErrorOutOfMemory|cudaErrorMemoryAllocation", "the device's memory limit was reached"),
    (r"CUDA_ERROR_OUT_OF_MEMORY", "the device's memory limit was reached"),
    (r"MPS backend out of memory", "the device's memory limit was reached"),
    (r"UR_RESULT_ERROR_OUT_OF_(DEVICE|HOST|RESOURCES)", "the device's memory limit was reached"),
    # Where the driver does not tell a slice's memory, torch fails as it makes its own message (pytorch#185240).
    (r"NVML_SUCCESS == r INTERNAL ASSERT FAILED at .*CUDACachingAllocator", "the device's memory limit was reached"),
    # The handle's own memory is what is missing, nearly always.
    (r"(CU|HIP)BLAS_STATUS_NOT_INITIALIZED", "the matrix library could not be opened, for want of memory"),
    (r"(CU|HIP)BLAS_STATUS_ALLOC_FAILED", "the matrix library could not allocate its workspace"),
    (r"CUDNN_STATUS_(ALLOC_FAILED|INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)", "cuDNN could not allocate its workspace"),
    (r"cuDNN error: CUDNN_STATUS_NOT_SUPPORTED\.", "cuDNN could not allocate its workspace"),
    (r"cuSOLVER error: CUSOLVER_STATUS_ALLOC_FAILED", "cuSOLVER could not allocate its workspace"),
    # torch puts NCCL's last warning on a line of its own (c10d/NCCLUtils.hpp); these are of NCCL's src/include/alloc.h.
    # Its allocations fail for other reasons, too, which it does not tell; most often memory is what is missing.
    (r"NCCL .*out of memory|Cuda failure (\d+ )?'out of memory'", "NCCL could not allocate its buffers"),
    (r"Failed to CUDA (calloc|malloc)", "NCCL could not allocate its buffers"),
    (r"DefaultCPUAllocator: (can't|not enough memory)", "the memory limit was reached"),
    (r"Error (an illegal|out of) memory .*at line \d+ in file .*csrc", "bitsandbytes could not allocate its state"),
    (r"Triton Error \[(CUDA|HIP)\]: out of memory", "a Triton kernel could not allocate its memory"),
    (r"std::bad_alloc|\bMemoryError\b", "the memory limit was reached"),
    (r"Cannot allocate memory|errno 12\b|\[Errno 12\]", "the memory limit was reached"),
    (r"libgomp: Thread creation failed: Resource temporarily unavailable", "the memory limit left no room for threads"),
    (r"allocat\w+ .*\bout of memory\b", "the memory limit was reached"),
)

UNSUPPORTED_TEXTS: tuple[tuple[str, str], ...] = (
    (r"FlashAttention\d? has been toggled on, but it cannot be used", "flash attention cannot be used here"),
    (r"does not support an attention implementation through", "the model does not support this attention"),
    (r"does not support gradient checkpointing", "the model does not support activation checkpointing"),
    (r"setup doesn't support bf16/gpu", "the device does not support this precision"),
    (r"fp16 mixed precision requires a GPU", "the device does not support this precision"),
)

_WANTED = re.compile(r"[Tt]ried to allocate (?:about )?(\d+(?:\.\d+)?) ?(\w*)")


NATIVE_TEXTS = r"could not (create|execute) a primitive|could not initialize a .*memory|_iobject_|mkldnn|dnnl|ideep"
"""What oneDNN and ideep (src/common/c_types_map.hpp, ideep/abstract_types.hpp) say of any failure, memory or not."""
_NATIVE_SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL)
NEAR_CAP = "the memory limit was reached in native code"


def classify_exception(error: BaseException, *, is_near_cap: bool = False) -> tuple[Outcome, str]:
    """The outcome and reason for an exception that a library raised, its causes included.

    ``is_near_cap`` says that memory was nearly used up: native code that fails without a cause is then out of it.
    """
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < 10:
        texts.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    for text in texts:
        outcome, reason = classify_text(text)
        if outcome is not Outcome.ERROR:
            return outcome, reason
        if is_near_cap and re.search(NATIVE_TEXTS, text):
            return Outcome.OOM, f"{NEAR_CAP} ({_last_line(text)})"
    return Outcome.ERROR, _shortened(texts[0].strip().splitlines()[0])


def classify_text(text: str) -> tuple[Outcome, str]:
    """The outcome and reason for what a process or an exception said; ``error`` with its last line at worst."""
    for pattern, reason in OUT_OF_MEMORY_TEXTS:
        if re.search(pattern, text):
            return Outcome.OOM, reason + _wanted(text)
    for pattern, reason in UNSUPPORTED_TEXTS:
        if re.search(pattern, text):
            return Outcome.UNSUPPORTED, f"{reason}: {_last_line(text)}"
    return Outcome.ERROR, _last_line(text)


def classify_exit(
    exit_code: int, log_tail: str, host_ran_out: bool | None, *, is_near_cap: bool = False
) -> tuple[Outcome, str]:
    """The outcome of a worker that ended without leaving a result.

    ``exit_code`` is negative for a signal, as subprocess has it. ``host_ran_out`` says whether the
    kernel counted an out-of-memory kill meanwhile; where it does not tell (None), SIGKILL is taken for
    one, since little else kills without a word. ``is_near_cap`` says that its memory was nearly used up when it was
    last looked at: native code does not always check what an allocation gave it.
    """
    outcome, reason = classify_text(log_tail)
    if outcome is Outcome.OOM:
        return outcome, reason
    if exit_code == -signal.SIGKILL and host_ran_out is not False:
        return Outcome.OOM, "the host's out-of-memory killer ended it (SIGKILL)"
    if is_near_cap and -exit_code in _NATIVE_SIGNALS:
        return Outcome.OOM, f"{NEAR_CAP} ({_signal_name(-exit_code)})"
    if exit_code < 0:
        return Outcome.CRASHED, f"its process was ended by {_signal_name(-exit_code)}"
    if exit_code == 0:
        return Outcome.CRASHED, "its process ended without a result"
    return Outcome.CRASHED, f"its process ended with exit code {exit_code}: {_last_line(log_tail) or 'no output'}"


def _signal_name(number: int) -> str:
    names = {
        signal.SIGSEGV: "a segmentation fault (SIGSEGV)",
        signal.SIGABRT: "an abort (SIGABRT)",
        signal.SIGKILL: "SIGKILL from outside",
    }
    try:
        return names.get(signal.Signals(number), signal.Signals(number).name)
    except ValueError:
        return f"signal {number}"


def _wanted(text: str) -> str:
    match = _WANTED.search(text)
    if match is None:
        return ""
    number, unit = match.groups()
    more = f"{number} {unit}" if unit not in ("", "bytes") else format_bytes(float(number))
    return f" asking for {more} more"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _shortened(lines[-1]) if lines else ""


def _shortened(line: str) -> str:
    line = printable(line)
    return line if len(line) <= 300 else f"{line[:297]}..."
