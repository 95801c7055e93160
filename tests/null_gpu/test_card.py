"""The null GPU itself: what PyTorch and NVML see of it is what they see of a card."""

from __future__ import annotations

import pytest

from tests.null_gpu.conftest import NullGpu

pytestmark = pytest.mark.null_gpu

CAPABILITIES = ("7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_card_has_the_capability_and_the_memory_that_were_asked_for(capability: str, null_gpu: NullGpu) -> None:
    said = null_gpu.python(
        "import torch; print(*torch.cuda.get_device_capability(), torch.cuda.mem_get_info()[1] // 2**20)",
        CAPABILITY=capability,
        MEMORY_MIB="12000",
    )
    assert said.split() == [*capability.split("."), "12000"]


def test_an_unknown_capability_is_refused_with_a_sentence(null_gpu: NullGpu) -> None:
    ended = null_gpu.run("true", CAPABILITY="3.5")
    assert ended.returncode == 2 and "no card of compute capability 3.5" in ended.stderr


def test_allocations_are_counted_and_run_out_in_torchs_own_words(null_gpu: NullGpu) -> None:
    said = null_gpu.python(
        "import torch\n"
        "kept = torch.empty(60 * 2**30, dtype=torch.uint8, device='cuda')\n"
        "print(torch.cuda.memory_allocated() // 2**30, torch.cuda.mem_get_info()[0] // 2**30)\n"
        "try: torch.empty(30 * 2**30, dtype=torch.uint8, device='cuda')\n"
        "except torch.cuda.OutOfMemoryError as error: print(error)\n"
    )
    first, *rest = said.splitlines()
    assert first == "60 18" and "CUDA out of memory. Tried to allocate 30.00 GiB." in rest[0]


def test_the_share_of_a_process_is_enforced_with_and_without_expandable_segments(null_gpu: NullGpu) -> None:
    for allocator in ("expandable_segments:False", "expandable_segments:True"):
        said = null_gpu.python(
            f"import os; os.environ['PYTORCH_CUDA_ALLOC_CONF'] = '{allocator}'\n"
            "import torch\n"
            "torch.cuda.set_per_process_memory_fraction(0.1)\n"
            "try: torch.empty(9 * 2**30, dtype=torch.uint8, device='cuda')\n"
            "except torch.cuda.OutOfMemoryError: print('out')\n"
            "kept = torch.empty(5 * 2**30, dtype=torch.uint8, device='cuda')\n"
            "print(torch.cuda.memory_reserved() // 2**30)\n"
            "del kept; torch.cuda.empty_cache(); print(torch.cuda.memory_reserved())\n"
        )
        assert said.split() == ["out", "5", "0"], allocator


def test_what_a_card_lacks_is_asked_of_torch_and_leaves_the_allocator_as_it_was(null_gpu: NullGpu) -> None:
    said = null_gpu.python(
        "from autofit.worker.accelerator import CudaCard\n"
        "import torch\n"
        "print(CudaCard().lacks())\n"
        "torch.cuda.empty_cache(); kept = torch.empty(2**25, device='cuda')\n"
        "print(any(each['is_expandable'] for each in torch.cuda.memory_snapshot()))\n"
    )
    assert said.splitlines() == ["{}", "False"]


def test_small_tensors_hold_what_was_computed(null_gpu: NullGpu) -> None:
    said = null_gpu.python(
        "import torch\n"
        "mask = torch.tensor([True, False, True]).cuda()\n"
        "print(mask.all().item(), mask.nonzero().flatten().tolist(), mask.cumsum(0).tolist())\n"
        "print((mask + 1).sum(0).item(), torch.tensor([1.5, 2.5]).cuda().mean(0).item())\n"
    )
    assert said.splitlines() == ["False [0, 2] [1, 1, 2]", "5 2.0"]


def test_two_cards_are_told_apart_and_one_can_be_chosen(null_gpu: NullGpu) -> None:
    code = (
        "import torch\n"
        "for device in range(torch.cuda.device_count()): print(torch.cuda.get_device_properties(device).pci_bus_id)"
    )
    both = null_gpu.python(code, CARDS="2").split()
    assert len(set(both)) == 2
    assert null_gpu.python(code, CARDS="2", CUDA_VISIBLE_DEVICES="1").split() == both[1:]


def test_memory_of_other_processes_counts_and_comes_back(null_gpu: NullGpu) -> None:
    said = null_gpu.python(
        "import subprocess, sys, torch\n"
        "before = torch.cuda.mem_get_info()[0]\n"
        "code = 'import torch, sys; kept = torch.empty(2**34, dtype=torch.uint8, device=\"cuda\"); print(flush=True)'\n"
        "words = [sys.executable, '-c', code + '; sys.stdin.read()']\n"
        "other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "other.stdout.readline()\n"
        "print((before - torch.cuda.mem_get_info()[0]) // 2**30)\n"
        "other.kill(); other.wait()\n"
        "print(before - torch.cuda.mem_get_info()[0])\n"
    )
    assert said.split() == ["16", "0"]


def test_a_forked_child_of_a_process_that_opened_the_card_may_not_use_it(null_gpu: NullGpu) -> None:
    said = null_gpu.python(
        "import os, torch\n"
        "torch.cuda.init()\n"
        "if os.fork() == 0:\n"
        "    try: torch.ones(1, device='cuda')\n"
        "    except RuntimeError as error: print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    assert "Cannot re-initialize CUDA in forked subprocess" in said


def test_what_is_not_implemented_names_its_symbol(null_gpu: NullGpu) -> None:
    ended = null_gpu.run(
        "python3", "-c", "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuTexRefCreate(None))", LOG="1"
    )
    assert ended.stdout.strip() == "801" and "cuTexRefCreate is not implemented" in ended.stderr
