"""The result of a search: what every report and export is a function of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autofit.errors import UserError
from autofit.job.record import StudyRecord
from autofit.job.situation import Situation
from autofit.job.tasks import task_named
from autofit.knobs.attention import TORCH_VARLEN
from autofit.study.ranking import Ranking, rank
from autofit.study.recommendation import Recommendation, on_nodes, recommend
from autofit.study.trial import Trial

if TYPE_CHECKING:
    from transformers import TrainingArguments


RENDEZVOUS_PORT = 29500
"""Port at which processes of several nodes meet: torchrun's own default."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The training run that the configuration is for: its samples, epochs, and what an hour of a GPU costs."""

    samples: int
    epochs: float = 1.0
    price_per_hour: float | None = None

    def steps(self, effective_batch: int) -> int:
        """Optimizer steps of the whole run."""
        return math.ceil(math.ceil(self.samples / effective_batch) * self.epochs)


@dataclass(frozen=True, kw_only=True)
class Best:
    """The recommended configuration, ready to use."""

    trial: Trial
    recommendation: Recommendation
    task: str

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """Keywords for ``from_pretrained``; with 4-bit weights, transformers' BitsAndBytesConfig is among them."""
        keywords = dict(self.recommendation.model_kwargs)
        if keywords.get("attn_implementation") == TORCH_VARLEN:
            from autofit.runtime.varlen_attention import register

            register()
        if self.recommendation.quantization is not None:
            from transformers import BitsAndBytesConfig

            keywords["quantization_config"] = BitsAndBytesConfig(**self.recommendation.quantization)
        return keywords

    def data_collator(self, tokenizer: Any = None) -> Any:
        """The data collator that was measured, padding with the tokenizer's token. Imports transformers."""
        keywords = self.recommendation.collator_kwargs
        if task_named(self.task).labels == "masked":
            from transformers import DataCollatorForLanguageModeling

            return DataCollatorForLanguageModeling(tokenizer, pad_to_multiple_of=keywords.get("length"))
        from autofit.runtime.collators import make_collator

        return make_collator(self.recommendation.collator, keywords, getattr(tokenizer, "pad_token_id", None) or 0)

    @property
    def peft_config(self) -> Any:
        """The LoraConfig to give to ``get_peft_model``; None where everything is trained. Imports peft."""
        if self.recommendation.adapter is None:
            return None
        from peft import LoraConfig

        return LoraConfig(**self.recommendation.adapter)

    @property
    def environment(self) -> dict[str, str]:
        """Variables to set before torch is imported."""
        return dict(self.recommendation.environment)

    def training_arguments(self, output_dir: str, **others: Any) -> TrainingArguments:
        """The real TrainingArguments, with what else you set. Imports transformers."""
        from transformers import TrainingArguments

        return TrainingArguments(output_dir=output_dir, **{**self.recommendation.training_arguments, **others})


@dataclass(frozen=True)
class Result:
    """A study's content at one moment. ``stopped`` is why the search ended; ``interrupted`` whether by Ctrl-C.

    With ``rank`` it is about the configuration of that rank, and not about the recommended one; with ``nodes`` its
    recommendation is for as many hosts like the measured one.
    """

    study: str
    storage: str
    record: StudyRecord
    situation: Situation
    trials: tuple[Trial, ...]
    stopped: str = ""
    interrupted: bool = False
    run: Run | None = None
    rank: int | None = None
    nodes: int = 1

    @cached_property
    def ranking(self) -> Ranking:
        """The trials, ranked. Raises UserError where there is no configuration of the rank that was asked for."""
        ranking = rank(self.trials)
        if self.rank is None:
            return ranking
        if not 1 <= self.rank <= len(ranking.ranked):
            has = f"ranks 1 to {len(ranking.ranked)}" if ranking.ranked else "no measured configuration"
            raise UserError(f"There is no rank {self.rank} in study '{self.study}': it has {has}.")
        return replace(ranking, chosen=ranking.ranked[self.rank - 1])

    @cached_property
    def recommendation(self) -> Recommendation | None:
        """Settings to use, and the reasons; None where nothing was measured.

        Raises UserError where accumulation cannot be shared by as many nodes.
        """
        recommendation = recommend(self.ranking, self.trials, self.situation)
        if recommendation is None or self.nodes == 1:
            return recommendation
        return on_nodes(recommendation, self.nodes)

    @property
    def processes(self) -> int:
        """Processes that train, on all nodes."""
        return self.record.workload.processes * self.nodes

    def launcher(self, head: str = "HEAD") -> str:
        """Start of the command that trains in these processes; on each of several nodes, of which ``head`` is one."""
        if self.nodes == 1:
            return self.record.workload.launcher
        return (
            f"torchrun --nnodes {self.nodes} --nproc-per-node {self.record.workload.processes} --rdzv-backend c10d "
            f"--rdzv-endpoint {head}:{RENDEZVOUS_PORT} --rdzv-id autofit"
        )

    @property
    def best(self) -> Best:
        """The recommended configuration. Raises UserError where nothing was measured."""
        if self.ranking.best is None or self.recommendation is None:
            raise UserError(f"Study '{self.study}' has no measured configuration.")
        return Best(trial=self.ranking.best.trial, recommendation=self.recommendation, task=self.record.workload.task)
