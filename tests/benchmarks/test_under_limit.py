"""A script under the limit that its search was under: what the libraries hold is not counted, what it allocates is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
ENVIRONMENT = {"LRU_CACHE_CAPACITY": "64"}
import torch

def load_model(name="none"):
    return torch.ones(40 * 2**18)  # 40 MiB, once before the limit is set

if __name__ == "__main__":
    assert os.environ["LRU_CACHE_CAPACITY"] == "64" and sys.argv[1:] == ["--model", "given"]
    torch.ones(30 * 2**18)
"""


@pytest.mark.whole
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize(("mib", "holds"), [(60, True), (20, False)])
def test_only_what_the_script_allocates_counts(mib: int, holds: bool, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "benchmarks.under_limit", str(mib), str(script), "--model", "given"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode == 0) is holds, ended.stderr
    assert f"of {mib}" in ended.stdout.splitlines()[-1]
    if holds:
        assert 29 <= float(ended.stdout.split("needed ")[1].split()[0]) <= 35, ended.stdout
