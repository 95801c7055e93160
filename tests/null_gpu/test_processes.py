"""Several processes, each with a card that is not there: what they send each other, and trainings that they share."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from autofit.knobs.parallelism import is_zero
from tests.null_gpu.conftest import NullGpu
from tests.null_gpu.test_search import answer

pytestmark = pytest.mark.null_gpu

SLOW_WAYS = ("ddp", "fsdp2_kept", "fsdp2_offload", "zero2", "zero3_offload")
PLAIN = tuple(
    word
    for knob, value in (
        ("precision", "bf16"),
        ("activation_checkpointing", "off"),
        ("attention", "sdpa"),
        ("kernels", "default"),
        ("optimizer", "adamw_torch_fused"),
        ("allocator", "default"),
        ("compile", "off"),
    )
    for word in ("--fix", f"{knob}={value}")
)
EXCHANGES = """
import json, os, torch, torch.distributed as dist
rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(rank)
before = torch.cuda.mem_get_info()[0]
dist.init_process_group("nccl", device_id=torch.device("cuda", rank) if os.environ["BOUND"] == "1" else None)
own = torch.tensor([rank + 1.5, -rank], dtype=torch.float64, device="cuda")
said = {}
for name in ("SUM", "PRODUCT", "MAX", "MIN", "AVG"):
    dist.all_reduce(reduced := own.clone(), getattr(dist.ReduceOp, name))
    said[name] = reduced.tolist()
said["communicator"] = (before - torch.cuda.mem_get_info()[0]) // 2**20
gathered = torch.zeros(4, dtype=torch.int64, device="cuda")
dist.all_gather(list(gathered.split(2)), torch.tensor([rank, 10], device="cuda"))
said["gathered"] = gathered.tolist()
part = torch.zeros(2, device="cuda")
dist.reduce_scatter(part, list(torch.arange(4.0, device="cuda").split(2)))
said["part"] = part.tolist()
dist.broadcast(sent := torch.tensor([rank + 7], device="cuda"), 1)
said["sent"] = sent.tolist()
scattered = torch.zeros(2, device="cuda")
dist.scatter(scattered, list(torch.arange(4.0, device="cuda").split(2)) if rank == 0 else None)
said["scattered"] = scattered.tolist()
names = [None, None]
dist.gather_object(f"process {rank}", names if rank == 1 else None, dst=1)
said["names"] = names
dist.scatter(torch.zeros(2**20, device="cuda"), [torch.zeros(2**20, device="cuda")] * 2 if rank == 0 else None)
dist.all_reduce(in_group := own.clone(), group=dist.new_group([0, 1]))
said["in a group"] = in_group.tolist()
dist.all_reduce(torch.zeros(2**22, device="cuda"))
dist.barrier()
if rank == 1:
    print(json.dumps(said))
dist.destroy_process_group()
"""


@pytest.mark.parametrize("bound", ["0", "1"], ids=["made when needed", "bound to its device"])
def test_small_tensors_are_exchanged_as_nccl_does(
    bound: str, null_gpu: NullGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOUND", bound)
    program = null_gpu.home / "exchanges.py"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(EXCHANGES)
    words = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program))
    ended = null_gpu.run(*words, CARDS="2", COMMUNICATOR_MIB="300")
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert json.loads(ended.stdout) == {
        "SUM": [4.0, -1.0],
        "PRODUCT": [3.75, 0.0],
        "MAX": [2.5, 0.0],
        "MIN": [1.5, -1.0],
        "AVG": [2.0, -0.5],
        "communicator": 302,  # and a segment of torch's
        "gathered": [0, 10, 1, 10],
        "part": [4.0, 6.0],
        "sent": [8],
        "scattered": [2.0, 3.0],
        "names": ["process 0", "process 1"],
        "in a group": [4.0, -1.0],
    }


@pytest.mark.slow
def test_a_card_too_full_for_nccls_buffers_is_out_of_memory(model: str, null_gpu: NullGpu) -> None:
    words = (model, "--effective-batch", "4", "--seq-len", "64", "--processes", "2", "--max-trials", "2")
    settings = {"CARDS": "2", "MEMORY_MIB": "4000", "COMMUNICATOR_MIB": "3500"}
    ended = null_gpu.autofit(*words, "--fix", "optimizer=adamw_8bit", **settings)
    assert ended.returncode != 0 and "oom" in ended.stderr, ended.stderr[-4000:]
    assert "NCCL could not allocate its buffers" in ended.stderr, ended.stderr[-4000:]


@pytest.mark.parametrize("way", [*(pytest.param(each, marks=pytest.mark.slow) for each in SLOW_WAYS), "fsdp2", "zero3"])
def test_two_processes_share_the_training_each_on_a_card_of_its_own(
    way: str, model: str, null_gpu: NullGpu, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_zero(way):
        monkeypatch.setenv("PYTHONPATH", request.getfixturevalue("deepspeed"))
    words = (model, "--effective-batch", "8", "--seq-len", "64", "--processes", "2", "--study", "mine", "--json")
    words += ("--fix", f"parallelism={way}", *PLAIN, "--max-trials", "2")
    document = answer(null_gpu.autofit(*words, CARDS="2", LOG="1"))
    trials = [trial for trial in document["trials"] if trial["outcome"] == "ok"]
    assert document["recommendation"]["confirmed"] and trials
    for trial in trials:
        assert trial["config"]["parallelism"] == way
        assert trial["config"]["micro_batch_size"] * trial["config"]["accumulation_steps"] == 4
    logs = "\n".join(log.read_text() for log in (null_gpu.home / "logs" / "mine").glob("trial-*.log"))
    opened = Counter(re.findall(r"null GPU \[(\d+)\]: card (\d) is opened", logs))
    assert len({process for process, _ in opened}) == len(opened) == 2 * len(trials)
    assert sum(card == "1" for _, card in opened) == len(trials)


def test_a_model_that_fits_no_card_is_searched_on_all_and_what_nccl_takes_is_kept_within_the_limit(
    model: str, null_gpu: NullGpu
) -> None:
    path = Path(model) / "config.json"
    wide = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 8}
    path.write_text(json.dumps({**json.loads(path.read_text()), **wide}))
    words: tuple[str, ...] = (model, "--effective-batch", "8", "--seq-len", "64", "--memory-limit", "14700MiB", *PLAIN)
    words = tuple("activation_checkpointing=every_layer" if each.startswith("activation") else each for each in words)
    ended = null_gpu.autofit(*words, "--max-trials", "2", "--json", CARDS="2")
    document = answer(ended)
    assert "Nothing fits one GPU: going on with trainings in 2 processes" in ended.stderr
    assert document["workload"]["processes"] == 2
    needs = [trial["measurement"]["needed_bytes"] for trial in document["trials"] if trial["measurement"]]
    assert needs and max(needs) <= document["limits"]["usable_bytes"]


@pytest.mark.slow
def test_two_trials_run_side_by_side_on_two_cards(model: str, null_gpu: NullGpu) -> None:
    words = (model, "--effective-batch", "8", "--seq-len", "64", "--gpus", "0,1", "--max-trials", "4")
    ended = null_gpu.autofit(*words, *PLAIN, "--study", "mine", "--json", CARDS="2", LOG="1")
    assert answer(ended)["recommendation"]["confirmed"]
    logs = "\n".join(log.read_text() for log in (null_gpu.home / "logs" / "mine").rglob("trial-*.log"))
    assert {"0", "1"} == set(re.findall(r"card (\d) is opened", logs))
