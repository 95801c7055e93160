"""``--into``: the recommended settings put into the calls of a program that is there, shown as a diff.

Changed are the one call of TrainingArguments (or a subclass such as SFTConfig) and the one ``from_pretrained`` of a
model. Only arguments that differ are touched, and nothing else of the file.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit.errors import UserError
from autofit.export.exported import recommended
from autofit.knobs import KNOBS
from autofit.knobs.attention import TORCH_VARLEN
from autofit.knobs.baseline import NEWER_NAMES, names_of
from autofit.knobs.optimizer import REFERENCE
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result

ARGUMENT_CLASSES = (
    "TrainingArguments",
    "Seq2SeqTrainingArguments",
    "SFTConfig",
    "DPOConfig",
    "RewardConfig",
    "KTOConfig",
    "ORPOConfig",
    "CPOConfig",
)
"""transformers' and TRL's, whose trainers end in ``Trainer.train``."""
NEUTRAL = {"train_sampling_strategy": "random", "optim": REFERENCE}
"""Values of what is not recommended, where they are neither False nor None."""


@dataclass(frozen=True, kw_only=True)
class Edited:
    """A program with the settings in it. ``left_out`` are those that have no place in its calls."""

    path: Path
    before: str
    after: str
    left_out: tuple[str, ...]

    @property
    def diff(self) -> str:
        """Unified diff; empty where nothing changes."""
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            str(self.path),
            f"{self.path}, edited",
        )
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def edited(result: Result, path: Path) -> Edited:
    """The program at ``path`` with the recommended settings.

    Raises UserError where nothing was measured, where the file cannot be read, and where it has no such call, several,
    or one whose arguments come from elsewhere.
    """
    _, recommendation = recommended(result)
    try:
        before = path.read_text(encoding="utf-8")
        tree = ast.parse(before)
    except OSError as error:
        raise UserError(f"--into {path} cannot be read: {error.strerror}.") from None
    except (SyntaxError, UnicodeDecodeError):
        raise UserError(f"--into {path} is not Python; give the program that makes TrainingArguments.") from None
    call = _the_call(tree, path)
    source = _Source(before)
    source.set(call, _arguments(call, recommendation, is_of_program=result.situation.program is not None))
    left_out = [*_model(tree, source, recommendation), *_others(recommendation, result)]
    return Edited(path=path, before=before, after=source.text(), left_out=tuple(left_out))


def _the_call(tree: ast.AST, path: Path) -> ast.Call:
    calls = [call for call in _calls(tree) if _name_of(call.func) in ARGUMENT_CLASSES]
    if len(calls) != 1:
        found = "no call" if not calls else f"calls in lines {', '.join(str(call.lineno) for call in calls)}"
        raise UserError(
            f"--into {path}: there is {found} of TrainingArguments, and it takes a file with one; "
            "--export training-arguments=FILE writes the settings to import from."
        )
    if any(keyword.arg is None for keyword in calls[0].keywords):
        raise UserError(
            f"--into {path}: line {calls[0].lineno} takes its arguments from elsewhere (**); put the settings there: "
            "'autofit show' lists them."
        )
    return calls[0]


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _arguments(call: ast.Call, recommendation: Recommendation, *, is_of_program: bool) -> dict[str, Any]:
    """Arguments to set, by the names that the call has: recommended values, and neutral ones of knobs that it sets.

    Of a program's own study the recommendation says all that changes in it, and the rest is as it was measured.
    """
    wanted = dict(recommendation.training_arguments)
    knobs = {name for row in KNOBS for name in names_of(row)}
    settings: dict[str, Any] = {}
    for keyword in call.keywords:
        assert keyword.arg is not None, "the caller has looked"
        newest = NEWER_NAMES.get(keyword.arg, keyword.arg)
        if newest in wanted:
            settings[keyword.arg] = wanted.pop(newest)
        elif newest in knobs and not is_of_program:
            settings[keyword.arg] = NEUTRAL.get(newest, None if newest.endswith("_kwargs") else False)
    return {**settings, **wanted}


def _model(tree: ast.AST, source: _Source, recommendation: Recommendation) -> list[str]:
    """Put dtype and attention into the model's call; what there is no place for."""
    wanted = dict(recommendation.model_kwargs)
    left_out = []
    if wanted.get("attn_implementation") == TORCH_VARLEN:
        del wanted["attn_implementation"]
        left_out.append(f"attn_implementation={TORCH_VARLEN}, which the export training-arguments has")
    calls = [call for call in _calls(tree) if _loads_model(call)]
    if len(calls) != 1 or any(keyword.arg is None for keyword in calls[0].keywords):
        keywords = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
        return [*left_out, *([f"from_pretrained(..., {keywords})"] if keywords else [])]
    names = {NEWER_NAMES.get(keyword.arg or "", keyword.arg or ""): keyword.arg or "" for keyword in calls[0].keywords}
    source.set(calls[0], {names.get(name, name): value for name, value in wanted.items()})
    return left_out


def _loads_model(call: ast.Call) -> bool:
    """True for ``AutoModelFor...from_pretrained`` and ``...ForCausalLM.from_pretrained``, and no tokenizer's."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "from_pretrained":
        return False
    name = _name_of(call.func.value)
    return "Model" in name or "For" in name


def _others(recommendation: Recommendation, result: Result) -> list[str]:
    """Settings that are no arguments of either call."""
    parts = [f"the variable {name}={value}" for name, value in recommendation.environment.items()]
    if result.situation.program is not None:
        return parts
    for name, value in (("LoraConfig", recommendation.adapter), ("BitsAndBytesConfig", recommendation.quantization)):
        if value is not None:
            parts.append(f"{name}({', '.join(f'{key}={setting!r}' for key, setting in value.items())})")
    if recommendation.collator:
        keywords = ", ".join(f"{key}={value!r}" for key, value in recommendation.collator_kwargs.items())
        parts.append(f"the data collator {recommendation.collator}({keywords})")
    return parts


class _Source:
    """A file's text, with replacements that are made from its end to its beginning. Columns are bytes, as ast's are."""

    def __init__(self, text: str) -> None:
        self._data = text.encode("utf-8")
        starts = [0]
        for line in self._data.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self._starts = starts
        self._changes: list[tuple[int, int, bytes]] = []

    def set(self, call: ast.Call, settings: dict[str, Any]) -> None:
        """Give a call these keyword arguments; those that it has with the same values are left as they are."""
        missing = dict(settings)
        for keyword in call.keywords:
            if keyword.arg in missing:
                value = missing.pop(keyword.arg)
                if not _is_literally(keyword.value, value):
                    self._replace(keyword.value, repr(value))
        if missing:
            self._add(call, [f"{name}={value!r}" for name, value in missing.items()])

    def text(self) -> str:
        """The text with the replacements."""
        data = self._data
        for begin, end, new in sorted(self._changes, reverse=True):
            data = data[:begin] + new + data[end:]
        return data.decode("utf-8")

    def _replace(self, node: ast.expr, text: str) -> None:
        begin, end = self._place(node)
        self._changes.append((begin, end, text.encode()))

    def _place(self, node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        begin = self._starts[node.lineno - 1] + node.col_offset
        return begin, self._starts[node.end_lineno - 1] + node.end_col_offset

    def _add(self, call: ast.Call, arguments: list[str]) -> None:
        """Behind the last argument, on lines of their own where that is how the call is written."""
        parts = [*call.args, *(keyword.value for keyword in call.keywords)]
        if not parts:
            end = self._place(call)[1] - 1
            self._changes.append((end, end, ", ".join(arguments).encode()))
            return
        last = max(parts, key=lambda part: self._place(part)[1])
        end = self._place(last)[1]
        first = min(parts, key=lambda part: self._place(part)[0])
        joint = ", "
        if first.lineno > call.func.lineno:
            line = self._data[self._starts[first.lineno - 1] : self._starts[first.lineno]]
            indent = line[: len(line) - len(line.lstrip())].decode()
            joint = f",\n{indent}"
        self._changes.append((end, end, "".join(f"{joint}{argument}" for argument in arguments).encode()))


def _is_literally(node: ast.expr, value: Any) -> bool:
    try:
        return bool(ast.literal_eval(node) == value) and type(ast.literal_eval(node)) is type(value)
    except (ValueError, TypeError):
        return False
