"""From the MODEL a user typed to a configuration, without weights and without waiting for a network.

Order: a local folder, the Hugging Face cache, the built-in table, the network. Only the last can be
slow, and it is asked once, with a short time limit.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from autofit.errors import UserError, printable

# A hub look-up without a network retries for 23 s (huggingface_hub 2.4); one plain request tells first.
NETWORK_PATIENCE_SECONDS = 4.0
MOST_LETTERS = 1000
MOST_CONFIG_BYTES = 4 * 1024**2
"""A configuration is stored with every study; the largest known ones have some 100 KB."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model's configuration and where it came from. ``path`` is the folder it was read from, if any."""

    name: str
    origin: str
    config: dict[str, Any]
    path: str | None = None
    head: str | None = None

    @property
    def digest(self) -> str:
        """The same for the same configuration, wherever it was found."""
        text = json.dumps(self.config, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def positions(self) -> int | None:
        """The longest sequence, as far as the configuration itself says; its class may know a default."""
        positions = self.config.get("max_position_embeddings", self.config.get("n_positions"))
        if not isinstance(positions, int) or positions <= 0:
            return None
        # RoBERTa's family numbers positions from the padding token on, and so loses the first ones.
        offset = 2 if self.config.get("model_type") in ("roberta", "xlm-roberta", "camembert") else 0
        return positions - offset

    @property
    def needs_remote_code(self) -> bool:
        """True if the model's class is Python code that lies beside its weights."""
        return "auto_map" in self.config


FIRST_ORGANISATIONS = ("openai-community", "google-bert", "google-t5", "FacebookAI", "distilbert")


def resolve_model(name: str, *, trust_remote_code: bool = False) -> ModelSource:
    """Find the configuration of ``name``. Raises UserError, with near names, where there is none."""
    source = _from_folder(name) or _from_cache(name) or _from_table(name) or _from_network(name)
    if source.needs_remote_code and not trust_remote_code:
        raise UserError(f"{name} runs Python code of its own; if you trust it, add --trust-remote-code.")
    return source


def find_file(source: ModelSource, name: str) -> Path | None:
    """A file that lies beside a model's configuration: in its folder, the cache, or on the hub; None if nowhere."""
    if source.path is not None and (Path(source.path) / name).is_file():
        return Path(source.path) / name
    if source.origin == "folder":
        return None
    from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        found = try_to_load_from_cache(source.name, name)
        if isinstance(found, str):
            return Path(found)
        if constants.HF_HUB_OFFLINE or not _answers(hf_hub_url(source.name, name)):
            return None
        return Path(hf_hub_download(source.name, name, etag_timeout=NETWORK_PATIENCE_SECONDS))
    except (HFValidationError, HfHubHTTPError, OSError):
        return None


@cache
def built_in_models() -> dict[str, dict[str, Any]]:
    """The built-in table: hub name -> configuration keys, task head, parameter count and sources."""
    text = Path(__file__).with_name("model_configs.json").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = json.loads(text)
    return table


def _from_folder(name: str) -> ModelSource | None:
    if len(name) > MOST_LETTERS or not name.isprintable():
        raise UserError(f"'{printable(name[:60])}...' is neither a folder nor a model's hub name.")
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith((".", "/", "~")):
            raise UserError(f"There is no folder {name}; give a folder with a config.json, or a model's hub name.")
        return None
    path = folder / "config.json"
    if not path.is_file():
        if name in built_in_models():
            return None
        raise UserError(f"The folder {name} has no config.json; save a model or its configuration there first.")
    return ModelSource(name=name, origin="folder", config=_read_config(path), path=str(folder.resolve()))


def _from_cache(name: str) -> ModelSource | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # no hub name, but perhaps one of the table
        return None
    if not isinstance(found, str):
        return None
    path = Path(found)
    return ModelSource(name=name, origin="cache", config=_read_config(path), path=str(path.parent))


def _from_table(name: str) -> ModelSource | None:
    if "/" not in name:
        # The hub's first models had no organisation, and are still found by their old names.
        name = next((f"{each}/{name}" for each in FIRST_ORGANISATIONS if f"{each}/{name}" in built_in_models()), name)
    entry = built_in_models().get(name)
    if entry is None:
        return None
    return ModelSource(name=name, origin="built-in table", config=entry["config"], head=entry["head"])


def _from_network(name: str) -> ModelSource:
    from huggingface_hub import constants, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{_unknown(name)} The hub was not asked: HF_HUB_OFFLINE is set.")
    if not _answers(hf_hub_url(name, "config.json")):
        raise UserError(f"{_unknown(name)} The hub could not be reached from here.")
    try:
        path = Path(hf_hub_download(name, "config.json", etag_timeout=NETWORK_PATIENCE_SECONDS))
    except GatedRepoError:
        raise UserError(f"{name} is gated; accept its licence on the hub and log in with 'hf auth login'.") from None
    except HFValidationError:
        raise UserError(_unknown(name)) from None
    except RepositoryNotFoundError:
        raise UserError(f"{_unknown(name)} The hub does not know it either.") from None
    except OSError as error:
        raise UserError(f"The configuration of {name} could not be fetched: {str(error).splitlines()[0]}") from None
    return ModelSource(name=name, origin="network", config=_read_config(path), path=str(path.parent))


def _answers(url: str) -> bool:
    """True if anybody answers at all; a refusal is an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=NETWORK_PATIENCE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _read_config(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > MOST_CONFIG_BYTES:
            raise UserError(f"{path} has {size:,} bytes: too large for a model's configuration.")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}).") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise UserError(f"{path} has no 'model_type'; it is not a transformers configuration.")
    return config


def _unknown(name: str) -> str:
    known = list(built_in_models())
    by_end = {known_name.split("/")[-1].lower(): known_name for known_name in known}
    ends = difflib.get_close_matches(name.split("/")[-1].lower(), by_end, n=3, cutoff=0.6)
    near = list(dict.fromkeys([by_end[end] for end in ends] + difflib.get_close_matches(name, known, n=3)))[:3]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"'{name}' is not a local folder, nor in the Hugging Face cache or the built-in table.{hint}"
