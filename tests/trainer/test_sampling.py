"""Sampling from a run file: what the head gets, and what is said of it at the start."""

from pathlib import Path

import pytest

from data_pipeline.synthetic import synthesize
from trainer import config, run_folder
from trainer.errors import RunError
from trainer.launch import run_local
from trainer.sampling import describe_sampling, make_sampling


def run(path: Path, head, *, batch=None):
    tree = {
        "name": "sampled",
        "steps": 3,
        "runs": str(path / "runs"),
        "data": {"path": str(path / "faces"), "image_size": 32},
        "backbone": {"name": "facenet_small", "embedding_dim": 16},
        "head": {"scale": 64.0, **head},
        "optimizer": {"learning_rate": 0.05},
        "batch": batch or {"micro_batches": 2, "micro_batch_size": 4},
        "every": {"log": 1, "save": 3},
    }
    return config.from_tree(tree, source="test")


def test_every_field_reaches_the_head():
    fields = {"rate": 0.2, "correction": "logq", "quota": "negatives", "block": 4}
    fields |= {"shuffled": True, "hard_share": 0.25, "untouched": "caught_up"}
    made = make_sampling(run(Path(), {"sampling": fields}).head.sampling)
    assert made is not None
    assert {name: getattr(made, name) for name in fields} == fields
    assert make_sampling(run(Path(), {}).head.sampling) is None


def test_the_start_names_the_share_and_the_margin_that_acts_like():
    batch = {"micro_batches": 16, "micro_batch_size": 64}
    of = {"rate": 0.1}
    line = describe_sampling(run(Path(), {"sampling": of}, batch=batch), num_identities=1_000_000)
    # 1,024 positives and a tenth of the rest; ln(0.1009) / 64.
    assert line == (
        "sampling: a step compares with about 10.09% of 1000000 identities, which acts like a "
        "margin lower by 0.036 (of the cosine)"
    )
    mined = run(Path(), {"sampling": {**of, "hard_share": 0.5}}, batch=batch)
    # Certain besides the positives: up to 50,000 mined, of which 1 in 20 would have been drawn.
    assert "9.85% of 1000000" in (describe_sampling(mined, num_identities=1_000_000) or "")
    peer = run(Path(), {"sampling": {**of, "quota": "peer"}}, batch=batch)
    assert "10.00% of 1000000" in (describe_sampling(peer, num_identities=1_000_000) or "")
    corrected = run(Path(), {"sampling": {**of, "correction": "logq"}}, batch=batch)
    assert "corrected" in (describe_sampling(corrected, num_identities=1_000_000) or "")
    assert describe_sampling(run(Path(), {}), num_identities=9) is None


@pytest.mark.parametrize("untouched", ["frozen", "caught_up"])
def test_a_run_samples_from_its_first_step_to_its_checkpoint(tmp_path: Path, untouched: str):
    synthesize(tmp_path / "faces", identities=9, images=3, size=32, seed=1)
    sampling = {"rate": 0.4, "hard_share": 0.5, "correction": "logq", "untouched": untouched}
    chosen = run(tmp_path, {"sampling": sampling})
    folder = run_folder.prepare(chosen)
    assert run_local(chosen, folder) == "finished"
    assert (folder / "checkpoints" / "step-000000003" / "manifest.json").exists()
    log = (folder / "logs" / "rank-00000.log").read_text()
    assert "of 9 identities; the loss is corrected for it" in log


def test_a_head_that_cannot_be_sampled_that_way_is_refused(tmp_path: Path):
    synthesize(tmp_path / "faces", identities=9, images=3, size=32, seed=1)
    head = {"optimizer": "adamw", "sampling": {"rate": 0.4, "untouched": "caught_up"}}
    chosen = run(tmp_path, head)
    with pytest.raises(RunError, match="or untouched='frozen'"):
        run_local(chosen, run_folder.prepare(chosen))
