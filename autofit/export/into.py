"""``--into``: the recommended settings put into the calls of a program that is there, shown as a diff.

Changed are the one call of TrainingArguments (or a subclass such as SFTConfig) and the one ``from_pretrained`` of a
model. Only arguments that differ are touched, and nothing else of the file.
"""

from __future__ import annotations

import ast
import difflib
import io
import itertools
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit.errors import UserError
from autofit.export.exported import recommended
from autofit.export.yaml_arguments import beside_the_calls, of_model
from autofit.job.tasks import is_for_another, task_named
from autofit.knobs import KNOBS
from autofit.knobs.attention import TORCH_VARLEN
from autofit.knobs.baseline import NEWER_NAMES, names_of
from autofit.knobs.parallelism import zero_stage
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result

OF_TRL = ("SFTConfig", "DPOConfig", "RewardConfig", "KTOConfig", "ORPOConfig", "CPOConfig")
"""TRL's classes of arguments, whose trainers end in ``Trainer.train``, too."""
ARGUMENT_CLASSES = ("TrainingArguments", "Seq2SeqTrainingArguments", *OF_TRL)
NEUTRAL = {"train_sampling_strategy": "random"}
"""Values of what is not recommended, where they are neither False nor None."""
ON_IN_TRL = ("bf16", "gradient_checkpointing")
"""Arguments that TRL switches on by itself (trl 1.16, ``trainer/base_config.py``)."""


@dataclass(frozen=True, kw_only=True)
class Edited:
    """A program with the settings in it. ``left_out`` are those that have no place in its calls, ``other_model`` is the
    class of the model that it loads where that is for another task than the measured one."""

    path: Path
    before: str
    after: str
    encoding: str
    left_out: tuple[str, ...]
    other_model: str = ""

    @property
    def content(self) -> bytes:
        """The edited file, encoded as it was."""
        return self.after.encode(self.encoding)

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
        data = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        before = data.decode(encoding)
        tree = ast.parse(before)
    except OSError as error:
        raise UserError(f"--into {path} cannot be read: {error.strerror}.") from None
    except (SyntaxError, ValueError):
        raise UserError(f"--into {path} is not Python; give the program that makes TrainingArguments.") from None
    call = _the_call(tree, path)
    source = _Source(before)
    source.set(call, _arguments(call, recommendation, is_of_program=result.situation.program is not None))
    left_out = [*_order(tree, call, recommendation), *_model(tree, source, recommendation), *beside_the_calls(result)]
    after = source.text()
    ast.parse(after)
    return Edited(
        path=path,
        before=before,
        after=after,
        encoding=encoding,
        left_out=tuple(left_out),
        other_model=_other_model(tree, result),
    )


def _other_model(tree: ast.AST, result: Result) -> str:
    """The class of a model that the program loads for another task; of the program that was measured none is."""
    if result.situation.program is not None:
        return ""
    task = task_named(result.record.workload.task)
    names = [_loaded_class(call) for call in _calls(tree)]
    return next((name for name in names if is_for_another(name, task)), "")


def _the_call(tree: ast.AST, path: Path) -> ast.Call:
    calls = [call for call in _calls(tree) if _name_of(call.func) in ARGUMENT_CLASSES]
    if len(calls) != 1:
        lines = ", ".join(str(call.lineno) for call in calls)
        found = f"several calls of TrainingArguments (lines {lines})" if calls else "no call of TrainingArguments"
        raise UserError(
            f"--into {path}: found {found}, and it takes a file with one; 'autofit export training-arguments=FILE' "
            "writes the settings to import from."
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
    knobs = {name for row in KNOBS if not row.is_of_programs for name in names_of(row)}
    settings: dict[str, Any] = {}
    for keyword in call.keywords:
        assert keyword.arg is not None, "the caller has looked"
        newest = NEWER_NAMES.get(keyword.arg, keyword.arg)
        if newest in wanted:
            settings[keyword.arg] = wanted.pop(newest)
        elif newest in knobs and not is_of_program:
            settings[keyword.arg] = NEUTRAL.get(newest, None if newest.endswith("_kwargs") else False)
        elif newest == "packing" and not is_of_program:
            settings[keyword.arg] = False  # its rows count as samples
    if _name_of(call.func) in OF_TRL and not is_of_program:
        given = {NEWER_NAMES.get(name, name) for name in (*settings, *wanted)}
        wanted |= {name: False for name in ON_IN_TRL if NEWER_NAMES.get(name, name) not in given}
    return {**settings, **wanted}


def _order(tree: ast.AST, arguments: ast.Call, recommendation: Recommendation) -> list[str]:
    """Words for an order that is to be changed by hand: ZeRO-3 cuts only what is loaded after TrainingArguments."""
    loaded = [call.lineno for call in _calls(tree) if _loads_model(call)]
    if zero_stage(recommendation.training_arguments) != 3 or not loaded or min(loaded) > arguments.lineno:
        return []
    return ["TrainingArguments made before the model is loaded: ZeRO-3 cuts it as it is loaded"]


def _model(tree: ast.AST, source: _Source, recommendation: Recommendation) -> list[str]:
    """Put dtype and attention into the model's call; what there is no place for."""
    wanted = dict(recommendation.model_kwargs)
    left_out = []
    if wanted.get("attn_implementation") == TORCH_VARLEN:
        del wanted["attn_implementation"]
        left_out.append(f"attn_implementation={TORCH_VARLEN}, which the export training-arguments has")
    calls = [call for call in _calls(tree) if _loads_model(call)]
    if len(calls) != 1 or any(keyword.arg is None for keyword in calls[0].keywords):
        return [*left_out, *of_model(wanted)]
    names = {NEWER_NAMES.get(keyword.arg or "", keyword.arg or ""): keyword.arg or "" for keyword in calls[0].keywords}
    source.set(calls[0], {names.get(name, name): value for name, value in wanted.items()})
    return left_out


def _loads_model(call: ast.Call) -> bool:
    """True for ``AutoModelFor...from_pretrained`` and ``...ForCausalLM.from_pretrained``, and no tokenizer's."""
    name = _loaded_class(call)
    return "Model" in name or "For" in name


def _loaded_class(call: ast.Call) -> str:
    """The name before ``.from_pretrained``; empty for other calls."""
    function = call.func
    if isinstance(function, ast.Attribute) and function.attr == "from_pretrained":
        return _name_of(function.value)
    return ""


class _Source:
    """A file's text, with replacements that are made from its end to its beginning. Columns are bytes, as ast's are."""

    def __init__(self, text: str) -> None:
        self._data = text.encode("utf-8")
        self._lines = self._data.splitlines(keepends=True)
        self._starts = list(itertools.accumulate(map(len, self._lines), initial=0))
        self._changes: list[tuple[int, int, bytes]] = []
        readline = io.BytesIO(self._data).readline
        passed_over = (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT)
        self._tokens = [token for token in tokenize.tokenize(readline) if token.type not in passed_over]

    def set(self, call: ast.Call, settings: dict[str, Any]) -> None:
        """Give a call these keyword arguments; those that it has with the same values are left as they are."""
        missing = dict(settings)
        for keyword in call.keywords:
            if keyword.arg in missing:
                value = missing.pop(keyword.arg)
                if not _is_literally(keyword.value, value):
                    begin, end = self._place(keyword.value)
                    self._changes.append((begin, end, repr(value).encode()))
        if missing:
            self._add(call, [f"{name}={value!r}" for name, value in missing.items()])

    def text(self) -> str:
        """The text with the replacements."""
        data = self._data
        for begin, end, new in sorted(self._changes, reverse=True):
            data = data[:begin] + new + data[end:]
        return data.decode("utf-8")

    def _place(self, node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        begin = self._starts[node.lineno - 1] + node.col_offset
        return begin, self._starts[node.end_lineno - 1] + node.end_col_offset

    def _offset(self, position: tuple[int, int]) -> int:
        """Offset of a token's position, whose column counts letters."""
        line, column = position
        return self._starts[line - 1] + len(self._lines[line - 1].decode("utf-8")[:column].encode("utf-8"))

    def _add(self, call: ast.Call, arguments: list[str]) -> None:
        """Behind the last token of the last argument, on lines of their own where that is how the call is written."""
        closing = self._place(call)[1] - 1
        number = next(
            place for place, token in enumerate(self._tokens) if token.start[0] and self._offset(token.start) == closing
        )
        last = self._tokens[number - 1]
        end = self._offset(last.end)
        if not call.args and not call.keywords:
            self._changes.append((end, end, ", ".join(arguments).encode()))
            return
        has_comma = last.string == ","
        first = min([*call.args, *(keyword.value for keyword in call.keywords)], key=lambda part: self._place(part)[0])
        line = self._lines[last.end[0] - 1].decode("utf-8")
        ending = line[len(line.rstrip("\r\n")) :]
        end_of_line = self._starts[last.end[0]] - len(ending)
        if first.lineno > call.func.lineno and closing >= end_of_line:
            # Behind a comment on the last argument's line.
            line_of_first = self._lines[first.lineno - 1].decode("utf-8")
            indent = line_of_first[: len(line_of_first) - len(line_of_first.lstrip())]
            text = ",".join(f"{ending}{indent}{argument}" for argument in arguments) + ("," if has_comma else "")
            if not has_comma and end < end_of_line:
                self._changes.append((end, end, b","))
            elif not has_comma:
                text = f",{text}"
            self._changes.append((end_of_line, end_of_line, text.encode()))
        else:
            text = ", ".join(arguments)
            self._changes.append((end, end, f"{' ' if has_comma else ', '}{text}".encode()))


def _is_literally(node: ast.expr, value: Any) -> bool:
    try:
        return bool(ast.literal_eval(node) == value) and type(ast.literal_eval(node)) is type(value)
    except (ValueError, TypeError):
        return False
