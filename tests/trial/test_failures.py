import signal

import pytest

from autofit.study.outcome import Outcome
from autofit.trial.failures import classify_exception, classify_exit, classify_text

# Texts as the libraries print them; the figures in them are of no importance.
OUT_OF_MEMORY = [
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.5 GiB",
    "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 15 GiB",
    "torch.OutOfMemoryError: XPU out of memory. Tried to allocate 8.00 GiB (GPU 0; 15.6 GiB total capacity)",
    "RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other call",
    "torch.AcceleratorError: CUDA error: out of memory",
    "RuntimeError: HIP error: out of memory",
    "RuntimeError: CUDA driver error: out of memory",
    "RuntimeError: hipErrorOutOfMemory",
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "RuntimeError: HIPBLAS_STATUS_ALLOC_FAILED",
    "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    'RuntimeError: NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":838, '
    "please report a bug to PyTorch.",
    "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "RuntimeError: cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous",
    "RuntimeError: cusolver error: cuSOLVER error: CUSOLVER_STATUS_ALLOC_FAILED",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 206045184 bytes. Error code 12 (Cannot allocate memory)",
    "RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate 1024 bytes.",
    "RuntimeError: MPS backend out of memory (MPS allocated: 9.05 GiB, other allocations: 2.4 MiB, max allowed: 9 GiB)",
    "RuntimeError: Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp",
    "RuntimeError: Triton Error [CUDA]: out of memory",
    "RuntimeError: Triton Error [HIP]: out of memory",
    "DistBackendError: NCCL error in: /src/torch/csrc/distributed/c10d/NCCLUtils.cpp:92, unhandled cuda error (run "
    "with NCCL_DEBUG=INFO for details), NCCL version 2.30.7\nncclUnhandledCudaError: Call to CUDA function failed.\n"
    "Last error:\nCuda failure 2 'out of memory'",
    "DistBackendError: NCCL error in: NCCLUtils.cpp:92, unhandled cuda error, NCCL version 2.21.5\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nFailed to CUDA calloc 8388608 bytes",
    "MemoryError: ",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "OSError: [Errno 12] Cannot allocate memory",
    "libgomp: Thread creation failed: Resource temporarily unavailable",
]


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_every_library_s_own_words_for_out_of_memory_are_known(text: str) -> None:
    outcome, reason = classify_text(text)
    assert outcome is Outcome.OOM
    assert reason and "\n" not in reason


@pytest.mark.parametrize(
    "text",
    [
        "ValueError: the memory of an elephant",
        "RuntimeError: shape '[2, 3]' is invalid for input of size 5",
        "KeyError: 'out of memory palace'",
        "RuntimeError: CUDA error: device-side assert triggered",
        "ImportError: cannot import name 'memory'",
        "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_other_failures_are_errors_with_their_last_line(text: str) -> None:
    assert classify_text(text) == (Outcome.ERROR, text)


def test_how_much_was_asked_for_is_in_the_reason() -> None:
    assert "2.00 GiB more" in classify_text(OUT_OF_MEMORY[0])[1]
    cpu = next(text for text in OUT_OF_MEMORY if "206045184" in text)
    assert "asking for 196 MiB more" in classify_text(cpu)[1]


def test_what_cannot_be_had_is_unsupported() -> None:
    text = "ImportError: FlashAttention2 has been toggled on, but it cannot be used due to the following error: ..."
    assert classify_text(text)[0] is Outcome.UNSUPPORTED


def test_the_cause_of_an_exception_is_looked_at_too() -> None:
    try:
        try:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1.00 GiB")
        except RuntimeError as cause:
            raise ValueError("the backward pass failed") from cause
    except ValueError as error:
        assert classify_exception(error)[0] is Outcome.OOM


def test_an_exception_s_reason_is_its_first_line() -> None:
    error = RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`")
    assert classify_exception(error) == (Outcome.ERROR, "RuntimeError: CUDA error: device-side assert triggered")


@pytest.mark.parametrize(
    ("exit_code", "log", "host_ran_out", "outcome", "words"),
    [
        (-9, "", True, Outcome.OOM, "out-of-memory killer"),
        (-9, "", None, Outcome.OOM, "out-of-memory killer"),
        (-9, "", False, Outcome.CRASHED, "SIGKILL from outside"),
        (-11, "", None, Outcome.CRASHED, "segmentation fault"),
        (-6, "", None, Outcome.CRASHED, "abort"),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'", None, Outcome.OOM, "limit"),
        (3, "first\nlast words\n", None, Outcome.CRASHED, "exit code 3: last words"),
        (3, "", None, Outcome.CRASHED, "no output"),
        (0, "", None, Outcome.CRASHED, "without a result"),
        (1, "torch.OutOfMemoryError: CUDA out of memory.", None, Outcome.OOM, "limit"),
        (-99, "", None, Outcome.CRASHED, "signal 99"),
    ],
)
def test_an_exit_without_a_result_is_classified(
    exit_code: int, log: str, host_ran_out: bool | None, outcome: Outcome, words: str
) -> None:
    found, reason = classify_exit(exit_code, log, host_ran_out)
    assert found is outcome and words in reason


def test_a_reason_never_grows_without_bounds() -> None:
    assert len(classify_text("ValueError: " + "x" * 10_000)[1]) == 300


PRIMITIVE = RuntimeError("could not create a primitive")


def test_a_native_failure_near_the_cap_is_out_of_memory_and_elsewhere_an_error() -> None:
    assert classify_exception(PRIMITIVE, is_near_cap=True)[0] is Outcome.OOM
    assert classify_exception(PRIMITIVE)[0] is Outcome.ERROR
    assert classify_exception(ValueError("wrong shape"), is_near_cap=True)[0] is Outcome.ERROR


def test_a_crash_near_the_cap_is_out_of_memory_and_elsewhere_a_crash() -> None:
    for number in (signal.SIGSEGV, signal.SIGABRT):
        assert classify_exit(-number, "", False, is_near_cap=True)[0] is Outcome.OOM
        assert classify_exit(-number, "", False)[0] is Outcome.CRASHED
    assert classify_exit(3, "", False, is_near_cap=True)[0] is Outcome.CRASHED


def test_escape_codes_of_a_log_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in classify_exit(3, "\x1b[31mred\x1b[0m", False)[1]
