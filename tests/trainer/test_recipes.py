"""Every recipe loads, and says of itself what is true."""

import re
from pathlib import Path

import pytest

from trainer import config
from trainer.planning import devices, request, units
from trainer.planning.plan import make_plan
from trainer.planning.recommend import EXACTNESS

RECIPES = sorted((Path(config.__file__).parent / "recipes").glob("*.yaml"))


PLANNED = [path for path in RECIPES if path.stem.startswith("people_")]


def comment_of(path: Path) -> str:
    """A recipe's comment, as one line."""
    lines = (line for line in path.read_text().splitlines() if line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines)


@pytest.mark.parametrize("path", PLANNED, ids=lambda path: path.stem)
def test_a_recipe_needs_what_it_says_and_fits(path: Path):
    """What `facescale plan` prints; rounded in the comment, so to 5 %."""
    said = re.search(
        r"`facescale plan (\S+) --identities (\S+) --images (\S+) --device (\S+)`[^:]*:"
        r" ([\d.]+) GB of each of (\d+) GPUs, (\d+) ms a step, ([\d.]+) device-hours",
        comment_of(path),
    )
    assert said is not None
    file, identities, images, device, size, ranks, step, hours = said.groups()
    assert file == f"trainer/recipes/{path.name}"
    wanted = request.make(
        path,
        (),
        identities=units.count(identities, what="identities"),
        images=units.count(images, what="images"),
        ranks=None,
        epochs=None,
        rate=None,
        pool_share=None,
        on_cpu=False,
    )
    assert wanted.ranks == int(ranks)
    head = wanted.run.head
    kind = EXACTNESS[0 if head.sampling is None else 1 if head.rows == "device" else 2]
    plan = make_plan(wanted, devices.device(device))
    found = next(each for each in plan.candidates if each.kind == kind)
    assert found.fits
    assert found.device_bytes / 1e9 == pytest.approx(float(size), rel=0.05)
    assert found.step_s * 1e3 == pytest.approx(float(step), rel=0.05)
    assert found.device_hours == pytest.approx(float(hours), rel=0.05)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_opens_with_what_to_expect_of_it(path: Path):
    run = config.load(path)
    assert run.name == path.stem.replace("_", "-")
    comment = comment_of(path)
    assert "Seen" in comment
    assert "%" in comment


def test_there_are_recipes():
    assert RECIPES
    assert len(PLANNED) == 4
