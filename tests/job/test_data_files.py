"""Reading training sets of every kind that is promised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autofit.errors import UserError
from autofit.job.data_files import read_samples

ROWS = [{"text": "in the beginning", "label": 1}, {"text": "was the word", "label": 0}]
TEXTS = [row["text"] for row in ROWS]


def write(path: Path, kind: str) -> Path:
    file = path / f"data.{kind}"
    if kind == "txt":
        file.write_text("in the beginning\n\nwas the word\n")
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "json":
        file.write_text(json.dumps(ROWS))
    elif kind in ("csv", "tsv"):
        separator = "," if kind == "csv" else "\t"
        file.write_text(
            "\n".join(separator.join(map(str, row)) for row in (("text", "label"), *map(dict.values, ROWS)))
        )
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    return file


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "csv", "tsv", "parquet"])
def test_every_kind_of_file_gives_its_texts(kind: str, tmp_path: Path) -> None:
    assert list(read_samples(write(tmp_path, kind))) == TEXTS


def test_named_fields_are_joined_and_conversations_give_their_contents(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    turns = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "Noah"}]
    file.write_text(json.dumps({"prompt": "go", "completion": "ark", "messages": turns}))
    assert list(read_samples(file, ("prompt", "completion"))) == ["go\nark"]
    assert list(read_samples(file, ("messages",))) == ["who?\nNoah"]


def test_data_that_is_tokenized_already_gives_its_lengths(tmp_path: Path) -> None:
    file = tmp_path / "tokens.jsonl"
    file.write_text('{"input_ids": [1, 2, 3]}\n{"input_ids": [4]}\n')
    assert list(read_samples(file)) == [3, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "There is no file"),
        ("data.xls", "x", "is none of .txt, .jsonl"),
        ("data.jsonl", '{"body": "x", "id": 1}', "no field 'text'; name one with --text-field: body, id"),
        ("data.jsonl", "{broken", "cannot be read as jsonl"),
        ("data.json", '{"text": "x"}', "is no list of samples"),
        ("data.txt", b"\xff\xfe\x00", "cannot be read as txt"),
        ("data.jsonl", '{"text": "x"}\n{"other": 1}', "sample 2: 'text' is missing"),
        ("data.jsonl", '{"text": "x"}\n\n{broken', "line 3: "),
        ("data.jsonl", '{"text": null}', "sample 1: 'text' is null"),
        ("data.jsonl", '{"input_ids": 5}', "sample 1: 'input_ids' is no list of token ids"),
        ("data.jsonl", '{"input_ids": ["a", null, -3]}', "is no list of token ids"),
        ("data.json", "[" * 20_000, "cannot be read as json"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    name: str, content: str | bytes | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        list(read_samples(file))
