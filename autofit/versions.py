"""The versions a measurement depends on, read from installed metadata: nothing is imported."""

from __future__ import annotations

import importlib.metadata

# A change in any of these makes another study: it can change what fits and how fast it is.
PACKAGES = ("torch", "transformers", "accelerate", "bitsandbytes", "flash-attn", "liger-kernel", "peft")


def installed_versions() -> dict[str, str]:
    """Distribution name -> version, for those that are installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
