import json
from pathlib import Path

import pytest

from autofit.errors import UserError
from autofit.job import models
from autofit.job.models import built_in_models, resolve_model


def test_a_local_folder_comes_first(tiny_model: Path) -> None:
    source = resolve_model(str(tiny_model))
    assert source.origin == "folder" and source.config["hidden_size"] == 64 and source.positions == 256


def test_the_hub_cache_comes_before_the_built_in_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    snapshot = cache / "models--openai-community--gpt2" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_positions": 64}))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    source = resolve_model("openai-community/gpt2")
    assert source.origin == "cache" and source.positions == 64


def test_every_model_of_the_built_in_table_resolves_with_its_sources() -> None:
    assert len(built_in_models()) == 76
    for name, entry in built_in_models().items():
        source = resolve_model(name)
        assert source.config["model_type"] and entry["source"], name


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UserError, match=r"Did you mean EleutherAI/pythia-70m"):
        resolve_model("EleutherAI/pythia-70")
    with pytest.raises(UserError, match=r"openai-community/gpt2"):
        resolve_model("openai/gpt2")


def test_without_a_network_the_answer_comes_after_one_short_request(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked = []
    monkeypatch.setattr(models, "_answers", lambda url: bool(asked.append(url)))
    with pytest.raises(UserError, match="could not be reached"):
        resolve_model("somebody/else")
    assert len(asked) == 1


def test_nobody_answers_where_nobody_listens() -> None:
    assert not models._answers("http://127.0.0.1:9/nothing")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read as JSON"), ("[]", "model_type"), ('{"hidden_size": 3}', "model_type")],
)
def test_a_broken_configuration_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        resolve_model(str(tmp_path))


def test_a_folder_without_a_configuration_and_a_missing_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        resolve_model(str(tmp_path))
    with pytest.raises(UserError, match="There is no folder"):
        resolve_model("./not/there")


def test_code_that_comes_with_a_model_needs_the_flag(tmp_path: Path) -> None:
    config = {"model_type": "custom", "auto_map": {"AutoConfig": "configuration_custom.CustomConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="--trust-remote-code"):
        resolve_model(str(tmp_path))
    assert resolve_model(str(tmp_path), trust_remote_code=True).needs_remote_code


def test_the_digest_is_of_the_configuration_not_of_its_layout(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, text in ((one, '{"model_type": "gpt2", "n_layer": 2}'), (two, '{"n_layer":2,  "model_type":"gpt2"}')):
        folder.mkdir()
        (folder / "config.json").write_text(text)
    assert resolve_model(str(one)).digest == resolve_model(str(two)).digest
    (two / "config.json").write_text('{"model_type": "gpt2", "n_layer": 3}')
    assert resolve_model(str(one)).digest != resolve_model(str(two)).digest


def test_roberta_loses_two_positions_to_its_padding_offset() -> None:
    assert resolve_model("FacebookAI/roberta-base").positions == 512


def test_a_first_model_of_the_hub_is_found_by_its_old_name() -> None:
    assert resolve_model("gpt2").name == "openai-community/gpt2"
    assert resolve_model("bert-base-uncased").name == "google-bert/bert-base-uncased"
