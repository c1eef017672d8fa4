"""The script for a card, run on a CPU as far as it goes there."""

import subprocess
import sys
from pathlib import Path


def test_a_dry_run_goes_through_every_part_and_keeps_its_figures(tmp_path: Path):
    command = [sys.executable, "-m", "tests.gpu_check", "--dry-run", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = tmp_path.glob("gpu-check_*.md")
    words = written.read_text()
    assert [line for line in words.splitlines() if line.startswith("## ")] == [
        "## Parity",
        "## Steps",
        "## Identities on one card",
        "## Millions of identities",
        "## Layers",
        "## Networks",
    ]
    assert "error" not in words
    assert "passed" in words
    assert words.count("| 300 |") == 3  # rates, a head, a dense one
    assert "| fused | 600 | 0 |" in words or "| fused | 600 | 1,200 |" in words
