"""Bad input: one clear line on stderr, exit code 2, and no trial."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from autofit.cli.main import main

MODEL = "EleutherAI/pythia-70m"


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line a refused command prints."""
    try:
        code = main(words)
    except SystemExit as exit_:
        code = int(str(exit_.code))
    output, errors = capsys.readouterr()
    lines = errors.strip().splitlines()
    assert code == 2 and output == "" and len(lines) == 1, errors
    assert lines[0].startswith("autofit: ") and "Traceback" not in errors
    return lines[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["EleutherAI/pythia-70", "--effective-batch", "8"], "Did you mean EleutherAI/pythia-70m"),
        (["./nowhere", "--effective-batch", "8"], "There is no folder"),
        ([MODEL], "--effective-batch"),
        (["--effective-batch", "8"], "MODEL"),
        ([MODEL, "--effective-batch", "0"], "at least 1"),
        ([MODEL, "--effective-batch", "-4"], "at least 1"),
        ([MODEL, "--effective-batch", "1000000000"], "from 1 to 1,048,576"),
        ([MODEL, "--effective-batch", "8", "--seed", "-1"], "--seed must be from 0"),
        ([MODEL, "--effective-batch", "8", "--seed", "4294967296"], "--seed must be from 0"),
        (["x" * 5000, "--effective-batch", "8"], "neither a folder nor a model's hub name"),
        (["\x1b[31m", "--effective-batch", "8"], "neither a folder nor a model's hub name"),
        ([MODEL, "--effective-batch", "many"], "whole number"),
        ([MODEL, "--effective-batch", "8.5"], "whole number"),
        ([MODEL, "--effective-batch", "8", "--seq-len", "4096"], "longer than the 2048 positions"),
        ([MODEL, "--effective-batch", "8", "--memory-limit", "999TiB"], "more than"),
        ([MODEL, "--effective-batch", "8", "--memory-limit", "lots"], "not a size"),
        ([MODEL, "--effective-batch", "8", "--headroom", "100%"], "headroom"),
        ([MODEL, "--effective-batch", "8", "--budget", "soon"], "not a duration"),
        ([MODEL, "--effective-batch", "8", "--max-trials", "0"], "at least 1"),
        ([MODEL, "--effective-batch", "8", "--device", "tpu"], "--device takes"),
        ([MODEL, "--effective-batch", "8", "--device", "cuda:99"], "cuda:99"),
        ([MODEL, "--effective-batch", "8", "--numerics", "sloppy"], "--numerics"),
        ([MODEL, "--effective-batch", "8", "--fix", "precision"], "KNOB=VALUE"),
        ([MODEL, "--effective-batch", "8", "--fix", "precision=int4"], "has no value 'int4'"),
        ([MODEL, "--effective-batch", "8", "--fix", "colour=red"], "no knob 'colour'"),
        ([MODEL, "--effective-batch", "8", "--fix", "precision=fp32", "--fix", "precision=bf16"], "given twice"),
        ([MODEL, "--effective-batch", "8", "--export", "json"], "json=PATH"),
        ([MODEL, "--effective-batch", "8", "--export", "out.txt"], "write FORMAT=out.txt"),
        ([MODEL, "--effective-batch", "8", "--export", "axolotol=out.yaml"], "Did you mean axolotl?"),
        ([MODEL, "--effective-batch", "8", "--export", "trl-python=trl.py"], "imported in place of trl"),
        ([MODEL, "--effective-batch", "8", "--export", "csv=out", "--export", "markdown=out"], "a path of its own"),
        ([MODEL, "--effective-batch", "8", "--export", "xml=out.xml"], "training-arguments, yaml, trl"),
        ([MODEL, "--effective-batch", "8", "--export", "json=/no/such/folder/out.json"], "folder"),
        ([MODEL, "--effective-batch", "8", "--storage", "nonsense"], "not a storage of studies"),
        ([MODEL, "--effective-batch", "8", "--price", "2"], "--samples"),
        (["run", "--export", "trl=x.yaml", "--", "python", "train.py"], "Your own program has its own file for trl"),
        (["run", "--only-recover", "--apply", "--", "python", "train.py"], "--apply is for a search"),
        (["run", "--only-recover", "--export", "x.json", "--", "python", "train.py"], "--export is for a search"),
        ([MODEL, "--effective-batch", "8", "--epochs", "2"], "--epochs needs --samples"),
        ([MODEL, "--effective-batch", "8", "--epochs", "-1", "--samples", "10"], "above zero"),
        ([MODEL, "--effective-batch", "8", "--task", "poetry"], "--task"),
        ([MODEL, "--effective-batch", "8", "--data", "x.txt", "--seq-len", "64"], "--seq-len and --data say the same"),
        ([MODEL, "--effective-batch", "8", "--data", "nowhere.txt", "--tokens-per-word", "1"], "There is no file"),
        ([MODEL, "--effective-batch", "8", "--max-length", "64"], "--max-length cuts samples"),
        ([MODEL, "--effective-batch", "8", "--text-field", "body"], "--text-field is about --data"),
        ([MODEL, "--effective-batch", "8", "--lengths", "nowhere"], "cannot be read"),
        ([MODEL, "--effective-batch", "8", "--method", "magic"], "--method"),
        ([MODEL, "--effective-batch", "8", "--lora-rank", "4"], "LoRA's settings are for --method lora"),
        ([MODEL, "--effective-batch", "8", "--method", "lora", "--lora-dropout", "2"], "--lora-dropout"),
        (["google/vit-base-patch16-224", "--effective-batch", "8", "--seq-len", "8"], "reads images"),
        (["verify"], "There is no study"),
        (["show", "nothing"], "There is no study"),
        (["export", "json=x.json"], "There is no study"),
        (["doctor", "--replay", "0"], "There is no study"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(words, capsys)


def test_a_storage_that_is_no_database_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes.db"
    notes.write_text("these are my notes, not a database at all, and they shall stay")
    words = [MODEL, "--effective-batch", "8", "--storage", f"sqlite:///{notes}"]
    assert "not a storage of studies" in refused(words, capsys)
    assert notes.read_text().startswith("these are my notes")


def test_remote_code_needs_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "odd", "auto_map": {"AutoConfig": "x.Y"}}')
    assert "--trust-remote-code" in refused([str(tmp_path), "--effective-batch", "8"], capsys)


def test_an_export_path_that_may_not_be_written_is_refused_before_any_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the permission is simulated.
    monkeypatch.setattr("autofit.export.files.os.access", lambda path, mode: False)
    words = [MODEL, "--effective-batch", "8", "--export", f"json={tmp_path / 'x.json'}"]
    assert "is not writable" in refused(words, capsys)


def test_fix_and_forbid_that_leave_nothing_are_refused(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tiny_model), "--effective-batch", "8", "--seq-len", "32", "--quiet"]
    words += ["--fix", "precision=fp32", "--forbid", "precision=fp32"]
    line = refused(words, capsys)
    assert "No value of precision is left: fp32: forbidden by --forbid." in line


def test_a_trace_is_shown_with_debug_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(words: list[str]) -> int:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("autofit.cli.search.main", broken)
    assert main([MODEL]) == 1
    errors = capsys.readouterr().err
    assert "a fault of ours" in errors and "--debug" in errors and "Traceback" not in errors
    with pytest.raises(RuntimeError):
        main([MODEL, "--debug"])


@pytest.mark.parametrize(
    ("content", "said"),
    [("[" * 20_000, "cannot be read as JSON"), ('{"model_type": "' + "x" * 5_000_000 + '"}', "too large")],
    ids=["deep", "large"],
)
def test_a_configuration_that_is_none_is_one_sentence(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(content)
    assert said in refused([str(tmp_path), "--effective-batch", "8"], capsys)


def test_packages_that_a_method_needs_are_looked_for_before_anything_is_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    words = ["plan", MODEL, "--effective-batch", "8", "--method", "lora", "--gpu", "h100"]
    assert "needs peft: pip install peft" in refused(words, capsys)
