"""The user's request, checked and turned into the record of a study. Nothing is run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from autofit.device.kinds import find_device, kind_of
from autofit.device.versions import installed_versions, set_variables
from autofit.errors import UserError
from autofit.job.lengths import SampleLengths
from autofit.job.method import METHODS, PACKAGES_OF, Adapter
from autofit.job.models import ModelSource, resolve_model
from autofit.job.record import StudyRecord, home
from autofit.job.situation import Limits
from autofit.job.tasks import Task, task_named, task_of
from autofit.job.token_counts import lengths_of_data, lengths_of_file
from autofit.job.workload import Workload

DEFAULT_SEQUENCE_LENGTH = 1024
LARGEST_SEED = 2**32
"""numpy takes seeds of 32 bits, and transformers seeds it."""
OLDEST_TRANSFORMERS = (5, 17)
"""The Trainer of older ones takes no batch sampler from outside, by which trials give it its micro-batches."""


class JobKeywords(TypedDict, total=False):
    """Keywords of a job that is planned and not run: fields of ``JobRequest`` beside its model and effective batch."""

    seq_len: int | None
    data: str | Path | None
    text_field: str | None
    lengths: str | Path | Sequence[int] | None
    max_length: int | None
    tokens_per_word: float | None
    task: str | None
    method: str
    lora_rank: int
    lora_alpha: int | None
    lora_targets: str
    lora_dropout: float
    frozen_dtype: str
    processes: int
    seed: int
    trust_remote_code: bool


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """The training job and the place for it, as ``autofit.search`` takes them; see there."""

    model: str
    effective_batch: int
    seq_len: int | None = None
    data: str | Path | None = None
    text_field: str | None = None
    lengths: str | Path | Sequence[int] | None = None
    max_length: int | None = None
    tokens_per_word: float | None = None
    task: str | None = None
    method: str = "full"
    lora_rank: int = Adapter.rank
    lora_alpha: int | None = None
    lora_targets: str = Adapter.targets
    lora_dropout: float = Adapter.dropout
    frozen_dtype: str = Adapter.frozen_dtype
    processes: int = 1
    device: str = "auto"
    memory_limit: str | int | None = None
    headroom: str | float = 0.05
    seed: int = 0
    trust_remote_code: bool = False

    def record(self) -> StudyRecord:
        """Find the model's configuration, the samples' lengths and the device. Raises UserError."""
        if not 0 <= self.seed < LARGEST_SEED:
            raise UserError(f"--seed must be from 0 to {LARGEST_SEED - 1}, not {self.seed}.")
        self._check_packages()
        source = resolve_model(self.model, trust_remote_code=self.trust_remote_code)
        task = task_of(source.config, source.head) if self.task is None else task_named(self.task)
        workload = Workload(
            model=source.name,
            model_digest=source.digest,
            task=task.name,
            lengths=self._sample_lengths(source, task),
            effective_batch=self.effective_batch,
            method=self.method,
            adapter=self._adapter(),
            processes=self.processes,
        )
        device = find_device(self.device)
        if self.processes > 1:
            # Raises where there are not as many.
            kind_of(device).visible(device.index, self.processes)
        limits = Limits.of(device, self.memory_limit, self.headroom)
        limits.check(device)
        return StudyRecord(
            model=source,
            workload=workload,
            device=device,
            versions=installed_versions(),
            limits=limits,
            trust_remote_code=self.trust_remote_code,
            seed=self.seed,
            environment=set_variables(),
        )

    def _check_packages(self) -> None:
        """Raises UserError where a package that the job needs is missing or too old: before anything is built."""
        installed = importlib.metadata.version("transformers")
        if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST_TRANSFORMERS:
            oldest = ".".join(map(str, OLDEST_TRANSFORMERS))
            raise UserError(
                f"A search by the model's name needs transformers {oldest} or newer, and {installed} is installed: pip "
                "install -U transformers. A program of your own is searched with this one, too: autofit run -- COMMAND."
            )
        for package in PACKAGES_OF.get(self.method, ()):
            if importlib.util.find_spec(package) is None:
                raise UserError(f"--method {self.method} needs {package}: pip install {package}.")

    def _adapter(self) -> Adapter | None:
        if self.method not in METHODS:
            raise UserError(f"--method takes {', '.join(METHODS)}; not '{self.method}'.")
        alpha = 2 * self.lora_rank if self.lora_alpha is None else self.lora_alpha
        given = Adapter(
            rank=self.lora_rank,
            alpha=alpha,
            targets=self.lora_targets,
            dropout=self.lora_dropout,
            frozen_dtype=self.frozen_dtype,
        )
        if self.method == "full":
            if given != Adapter():
                raise UserError("LoRA's settings are for --method lora and qlora.")
            return None
        return given

    def _sample_lengths(self, source: ModelSource, task: Task) -> SampleLengths:
        """The lengths that one of the three ways of giving them says."""
        self._check_ways_of_giving_lengths(source, task)
        if task.reads == "images":
            return SampleLengths.fixed(1)
        longest = self.max_length or source.positions
        if self.data is not None:
            lengths = lengths_of_data(
                Path(self.data).expanduser(),
                source,
                fields=tuple(self.text_field.split(",")) if self.text_field else (),
                max_length=longest,
                tokens_per_word=self.tokens_per_word,
                cache=home() / "lengths",
            )
        elif isinstance(self.lengths, (str, Path)):
            lengths = lengths_of_file(Path(self.lengths).expanduser(), max_length=longest)
        elif self.lengths is not None:
            lengths = SampleLengths.of(self.lengths, longest=longest)
        else:
            usual = min(DEFAULT_SEQUENCE_LENGTH, source.positions or DEFAULT_SEQUENCE_LENGTH)
            return SampleLengths.fixed(self.seq_len or usual)
        if lengths.num_samples < self.effective_batch:
            raise UserError(
                f"The data has {lengths.num_samples} samples, fewer than one effective batch of "
                f"{self.effective_batch}; give more data or a smaller --effective-batch."
            )
        return lengths

    def _check_ways_of_giving_lengths(self, source: ModelSource, task: Task) -> None:
        ways = (("--seq-len", self.seq_len), ("--data", self.data), ("--lengths", self.lengths))
        given = [name for name, value in ways if value is not None]
        if len(given) > 1:
            raise UserError(
                f"{' and '.join(given)} say the same thing differently; give one (--max-length cuts samples)."
            )
        for name, value in (("--text-field", self.text_field), ("--tokens-per-word", self.tokens_per_word)):
            if value is not None and self.data is None:
                raise UserError(f"{name} is about --data FILE, which is not given.")
        if self.max_length is not None and self.data is None and self.lengths is None:
            raise UserError("--max-length cuts samples of --data or --lengths; for one length say --seq-len.")
        if task.reads == "images" and given:
            raise UserError(f"{source.name} reads images; {given[0]} is for text.")
        positions = source.positions
        for name, value in (("--seq-len", self.seq_len), ("--max-length", self.max_length)):
            if value is not None and positions is not None and value > positions:
                raise UserError(
                    f"{name} {value} is longer than the {positions} positions of {source.name}; "
                    f"choose {positions} or less."
                )
