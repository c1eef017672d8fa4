"""The README's example runs as it stands, with torch and sharded_fc alone."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_trains_a_toy_on_two_ranks(tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "sharded_fc" / "README.md").read_text(), re.S)
    assert code is not None
    script = tmp_path / "toy.py"
    script.write_text(code[1])
    answer = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    lines = sorted(answer.stdout.splitlines())
    losses = [re.fullmatch(r"rank \d owns range\(\d+, \d+\), loss ([\d.]+)", x) for x in lines]
    assert [line.split(", loss")[0] for line in lines] == [
        "rank 0 owns range(0, 5)",
        "rank 1 owns range(5, 10)",
    ]
    assert losses[0] is not None
    assert losses[1] is not None
    assert losses[0][1] == losses[1][1]
    # Ten classes guessed at cost ln 10 plus the margin, above 5 here; learnt ones well below.
    assert float(losses[0][1]) < 2.0
