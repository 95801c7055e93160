"""``autofit.plan`` and ``autofit.estimate`` with real traces of a tiny model, and the command lines over them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import autofit
from autofit.cli.main import main
from autofit.errors import UserError
from autofit.knobs.train_config import TrainConfig
from autofit.study.prediction import Prediction, Verdict
from autofit.units import GIB, MIB

GPT = {"model_type": "gpt2", "n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 512, "n_positions": 256}


@pytest.fixture(autouse=True)
def one_home_for_all(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces are kept between these tests: they are of the same model."""
    monkeypatch.setenv("AUTOFIT_HOME", str(tmp_path_factory.getbasetemp() / "planning"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("planned")
    (folder / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], **GPT}))
    return str(folder)


@pytest.mark.whole
def test_a_plan_names_what_fits_on_each_card_fastest_first(model: str) -> None:
    plan = autofit.plan(model, effective_batch=8, seq_len=64, gpus=["rtx-4090", "t4"], prices={"rtx-4090": 0.4})
    assert [card.card.key for card in plan.cards] == ["rtx-4090", "t4"]
    for card in plan.cards:
        assert card.fits and not card.helps
        seconds = [each.step_seconds for each in card.configs]
        assert all(each is not None and each[0] <= each[1] for each in seconds)
        likely = [each.prediction.likely_seconds for each in card.configs]
        assert likely == sorted(likely)
        for each in card.configs:
            assert each.config.micro_batch_size * each.config.accumulation_steps == 8
            assert each.prediction.verdict is Verdict.FITS
            assert sum(each.prediction.bytes_by_category.values()) == each.prediction.total_bytes
    fast, slow = plan.cards
    assert fast.configs[0].cost_per_million_tokens is not None and slow.configs[0].cost_per_million_tokens is None
    # A card without bf16 arithmetic is planned in fp16.
    assert slow.configs[0].config["precision"] == "fp16"


def test_the_same_plan_is_answered_from_the_disk(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = autofit.plan(model, effective_batch=8, seq_len=64, gpus=["rtx-4090"])

    def nobody(*words: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr("autofit.planning.planner.Workshop", nobody)
    again = autofit.plan(model, effective_batch=8, seq_len=64, gpus=["rtx-4090"])
    assert again.cards == first.cards
    # Another batch of less than 1,024 tokens needs no further trace: it is the same family.
    assert autofit.plan(model, effective_batch=12, seq_len=64, gpus=["h100"]).cards[0].fits


@pytest.mark.whole
def test_where_nothing_fits_the_plan_says_what_would_help(model: str) -> None:
    plan = autofit.plan(model, effective_batch=8, seq_len=256, memory="470MiB", headroom=0.0)
    (card,) = plan.cards
    assert not card.fits and not card.configs
    words = [each.words for each in card.helps]
    assert any("lora" in each for each in words) and any("--seq-len 128" in each for each in words)
    needs = {each.words: each.needs_bytes for each in card.helps}
    assert all(size > 450 * MIB for size in needs.values()), "the context alone"


def test_a_card_that_is_known_by_its_memory_alone_gets_no_times(model: str) -> None:
    plan = autofit.plan(model, effective_batch=8, seq_len=64, memory="24GiB")
    assert plan.cards[0].fits
    assert plan.cards[0].configs[0].step_seconds is None


def test_numerics_and_fixed_knobs_are_kept_to(model: str) -> None:
    plan = autofit.plan(
        model, effective_batch=8, seq_len=64, gpus=["h100"], numerics="exact", fix={"micro_batch_size": 2}
    )
    for each in plan.cards[0].configs:
        assert each.config["precision"] == "fp32" and each.config.micro_batch_size == 2


def test_an_estimate_explains_one_configuration_byte_by_byte(model: str) -> None:
    found = autofit.estimate(
        model, effective_batch=8, seq_len=64, gpu="rtx-4090", fix={"micro_batch_size": 4, "precision": "bf16"}
    )
    assert found.config.micro_batch_size == 4 and found.config["precision"] == "bf16"
    assert sum(found.prediction.bytes_by_category.values()) == found.prediction.total_bytes
    assert found.phase_peaks["backward"] >= found.phase_peaks["fetch"] > 0
    assert found.largest_blocks and found.prediction.total_bytes < 24 * GIB


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--gpu", "rtx-4091"], "Did you mean"),
        ([], "Say for which card"),
        (["--gpu", "h100", "--price", "a100-40gb=2"], "nothing is planned: add --gpu a100-40gb"),
        (["--gpu", "h100", "--price", "h100=cheap"], "--price takes NAME=P"),
        (["--gpu", "h100", "--price", "3.50"], "--price takes NAME=P, such as rtx-4090=0.40; not '3.50'"),
        (["--memory", "much"], "is not a size"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_one_sentence(
    model: str, words: list[str], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", model, "--effective-batch", "8", "--seq-len", "64", *words]) == 2
    assert sentence in capfd.readouterr().err


def test_a_card_is_named_for_an_estimate(model: str) -> None:
    with pytest.raises(UserError, match="Say for which card"):
        autofit.estimate(model, effective_batch=8, seq_len=64)
    with pytest.raises(UserError, match="for one card"):
        autofit.estimate(model, effective_batch=8, seq_len=64, gpu="h100", memory="24GiB")


@pytest.mark.parametrize("columns", [80, 132])
def test_what_is_printed_fits_the_terminal_and_says_that_it_is_predicted(
    model: str, columns: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    job = [model, "--effective-batch", "8", "--seq-len", "64", "--quiet"]
    assert main(["plan", *job, "--gpu", "rtx-4090"]) == 0
    one = capfd.readouterr().out
    assert main(["plan", *job, "--gpu", "rtx-4090", "--gpu", "h100", "--memory", "24GiB", "--price", "h100=2.5"]) == 0
    several = capfd.readouterr().out
    assert main(["estimate", *job, "--gpu", "rtx-4090"]) == 0
    explained = capfd.readouterr().out
    for text in (one, several, explained):
        assert max(map(len, text.splitlines())) <= columns
    assert "predicted" in one and "not yet measured on CUDA" in " ".join(one.split()) and "dots free" in one
    assert "rtx-4090" in several and "h100" in several and "per M tokens" in several
    assert "in the currency of --price" in " ".join(several.split())
    assert "together" in explained and "optimizer state" in explained


def test_json_is_one_document_on_stdout_and_nothing_fits_is_exit_code_3(
    model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    job = [model, "--effective-batch", "8", "--seq-len", "64", "--json"]
    assert main(["plan", *job, "--gpu", "rtx-4090"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["predicted"] is True and document["cards"][0]["fits"] is True
    best = document["cards"][0]["configs"][0]
    assert sum(best["prediction"]["bytes_by_category"].values()) == best["prediction"]["total_bytes"]
    assert main(["estimate", *job, "--gpu", "rtx-4090"]) == 0
    assert json.loads(capfd.readouterr().out)["predicted"] is True
    assert main(["plan", *job, "--memory", "300MiB"]) == 3
    assert json.loads(capfd.readouterr().out)["cards"][0]["fits"] is False


def test_the_names_that_a_plan_takes_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--list-gpus"]) == 0
    output = capfd.readouterr().out
    assert "rtx-4090" in output and len(output.splitlines()) == 59


def test_one_file_serves_every_card_of_the_catalogue(model: str) -> None:
    plan = autofit.plan(model, effective_batch=8, seq_len=64, gpus=["all"])
    assert len(plan.cards) == 59 and all(card.fits for card in plan.cards)
    assert Path(model).is_dir()


def test_an_estimate_of_several_processes_says_what_each_needs_and_counts_what_they_exchange(model: str) -> None:
    def estimated(parallelism: str, processes: int = 4) -> Prediction:
        found = autofit.estimate(
            model, effective_batch=32, seq_len=64, gpu="h100", processes=processes, fix={"parallelism": parallelism}
        )
        assert found.workload.processes == processes and found.config["parallelism"] == parallelism
        assert found.config.micro_batch_size * found.config.accumulation_steps * processes == 32
        return found.prediction

    whole, part, alone = estimated("ddp"), estimated("fsdp2"), estimated("ddp", processes=1)
    state = "optimizer_state"
    assert part.bytes_by_category[state] == pytest.approx(whole.bytes_by_category[state] / 4, rel=0.05)
    assert whole.bytes_by_category["context"] > alone.bytes_by_category["context"]

    def spread(prediction: Prediction) -> float:
        assert prediction.step_seconds is not None
        return prediction.step_seconds[1] / prediction.step_seconds[0]

    assert spread(whole) > spread(alone)


def test_what_is_far_too_large_is_not_traced(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autofit.planning.planner.surely_needs", lambda situation, config: 10**15)
    monkeypatch.setattr("autofit.planning.planner._Planner._helps", lambda planner, card, request: ())
    prepared: list[TrainConfig] = []
    monkeypatch.setattr("autofit.predict.needs.Needs.prepare", lambda needs, configs: prepared.extend(configs))
    made = autofit.plan(model, effective_batch=24, seq_len=96, gpus=["h100"])
    assert made.cards[0].configs == () and made.cards[0].refusal == "" and prepared == []


def test_a_plan_without_a_valid_configuration_says_so(model: str) -> None:
    fix = {"optimizer": "adamw_8bit", "parallelism": "fsdp2"}
    made = autofit.plan(model, effective_batch=32, seq_len=64, gpus=["h100"], processes=4, fix=fix)
    assert made.cards[0].configs == () and "no configuration is left" in made.cards[0].refusal
