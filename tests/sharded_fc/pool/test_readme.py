"""The pool's README example learns as it stands."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_example_learns_people_it_keeps_no_centres_for():
    text = (ROOT / "sharded_fc" / "pool" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S)
    assert code is not None
    answer = subprocess.run(
        [sys.executable, "-c", code[1]],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    found = re.fullmatch(r"loss [\d.]+, top1 ([\d.]+)\n", answer.stdout)
    assert found is not None
    assert float(found[1]) > 0.8  # chance is 1 of the 50 in the pool
