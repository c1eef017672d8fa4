from pathlib import Path

import pytest

from trainer import config

RECIPES = sorted((Path(config.__file__).parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_opens_with_what_to_expect_of_it(path: Path):
    run = config.load(path)
    assert run.name == path.stem.replace("_", "-")
    comment = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert "Seen" in comment
    assert "%" in comment


def test_there_are_recipes():
    assert RECIPES
