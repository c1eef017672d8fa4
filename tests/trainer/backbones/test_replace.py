"""Rules put other layers in place of just the convolutions that they name."""

import pytest
import torch
from torch import nn

from trainer import build as run_build
from trainer.backbones import build
from trainer.backbones.count import count, count_replaced
from trainer.backbones.replace import Rule, replace
from trainer.backbones.table import BACKBONES
from trainer.config import dump, from_tree, read_tree
from trainer.errors import RunError, RunFileError
from trainer.layers.drconv import DRConv2d
from trainer.layers.tvconv import TVConv2d

TVCONV = {"hidden": 4, "layers": 0}


def depthwise(*stages: int, **options) -> Rule:
    return Rule(what="depthwise", stages=stages, kind="tvconv", options={**TVCONV, **options})


def made(name: str, rules, **sizes) -> nn.Module:
    with torch.device("meta"):
        return build(name, rules=rules, **sizes)


# The released code's default, counted from its structure; the weight block is not an image's cost.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mobilenetv2_010", 16_369_368),
        ("mobilenetv2_050", 30_079_264),
        ("mobilenetv2_100", 49_708_576),
    ],
)
def test_mobilenet_with_tvconv_everywhere_costs_what_its_authors_does(name, parameters):
    everywhere = depthwise(0, 1, 2, 3, 4, hidden=64, layers=3)
    total = count(made(name, [everywhere]), (96, 96))["total"]
    assert (total.parameters, total.multiply_adds) == (parameters, BACKBONES[name].multiply_adds)


def pointwise(**options) -> Rule:
    return Rule(what="pointwise", stages=(2, 3, 4), kind="drconv", options=options)


@pytest.mark.parametrize(
    ("generator", "parameters"), [("templates", 2_292_744), ("pooled", 9_665_544)]
)
def test_shufflenet_with_drconv_costs_what_its_authors_does(generator, parameters):
    # The released code at 224 pixels with 1,000 classes (here the trunk, and that end added); the
    # paper's generator costs as much as that of 8 templates for 8 regions.
    network = made("shufflenetv2_050", [pointwise(generator=generator)])
    trunk = [c for p, c in count(network, (112, 112)).items() if p not in {"embedding", "total"}]
    assert sum(cost.parameters for cost in trunk) + 1025 * 1000 == parameters
    assert sum(cost.multiply_adds for cost in trunk) + 1024 * 1000 == 50_104_864
    cost = count_replaced(network, (112, 112))
    assert (cost.guide, cost.generator, cost.once) == (2_145_024, 7_483_392, 0)


def test_mobilefacenet_with_drconv_costs_what_its_equations_say():
    network = made("mobilefacenet", [pointwise()])
    total = count(network, (112, 112))["total"]
    cost = count_replaced(network, (112, 112))
    guides = 8 * (6 * 64 + 9 * 128)  # one 1x1 convolution a block
    assert total.parameters == 6_829_568 + guides
    assert total.multiply_adds == 276_734_464
    assert (cost.guide, cost.generator) == (5_117_952, 50_651_136)
    assert total.multiply_adds == BACKBONES["mobilefacenet"].multiply_adds + (
        cost.guide + cost.generator
    )


def test_a_block_s_convolutions_follow_one_guide_or_have_their_own():
    shared = made("mobilefacenet", [pointwise()])
    own = made("mobilefacenet", [pointwise(guide="own")])
    for network, guides in ((shared, 15), (own, 30)):
        layers = [layer for layer in network.modules() if isinstance(layer, DRConv2d)]
        assert len(layers) == 30
        assert sum(layer.guide is not None for layer in layers) == guides


def test_shortcuts_and_squeeze_and_excitation_keep_their_pointwise_convolutions():
    network = made("vargfacenet", [pointwise()])
    names = [name for name, layer in network.named_modules() if isinstance(layer, DRConv2d)]
    assert "stage2.0.merge.1.0" in names
    assert not [name for name in names if "shortcut" in name or "gate" in name]


def test_only_the_stages_that_are_named_change():
    network = made("mobilefacenet", [depthwise(3, 4)])
    replaced = {name for name, layer in network.named_modules() if isinstance(layer, TVConv2d)}
    assert replaced == {
        *(f"stage3.{block}.body.1.0" for block in range(7)),
        *(f"stage4.{block}.body.1.0" for block in range(3)),
    }
    assert network.get_submodule("stage3.0.body.1.0").extra_repr() == (
        "256, kernel_size=3, stride=2, map_size=14x14"
    )


def test_the_embedding_and_grouped_convolutions_are_no_depthwise_ones_of_a_stage():
    network = made("mbf", [depthwise(0, 1, 2, 3, 4)])
    kinds = {name: type(layer) for name, layer in network.named_modules()}
    assert kinds["stage1.0"] is nn.Conv2d  # groups of two channels
    assert kinds["embedding.1.body.0"] is nn.Conv2d
    assert kinds["stage2.0.body.1.0"] is TVConv2d


def test_rules_are_applied_in_turn_and_say_what_they_replaced():
    with torch.device("meta"):
        network = build("mobilefacenet", image_size=64)
        done = replace(network, [depthwise(2), depthwise(4)], image_size=(64, 64))
    assert [len(names) for names in done] == [5, 3]
    assert done[0][0] == "stage2.0.body.1.0"
    with pytest.raises(RunError, match="no depthwise convolutions in stages 2, 4 of this"):
        replace(network, [depthwise(4, 2)], image_size=(64, 64))


def test_a_stage_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(RunError, match=r"no stage 1 to replace .*; its stages are 0, 2, 3, 4"):
        made("shufflenetv2_050", [depthwise(1)])
    with pytest.raises(RunError, match=r"no stage 4 .*; its stages are none"):
        made("vit_t", [depthwise(4)])
    with pytest.raises(RunError, match="no depthwise convolutions in stages 2"):
        made("iresnet18", [depthwise(2)])


@pytest.mark.parametrize(
    "rules", [[depthwise(1, 2, 3)], [pointwise()], [pointwise(), depthwise(2)]]
)
def test_a_network_with_replaced_layers_learns_with_every_parameter(rules):
    torch.manual_seed(0)
    network = build("mobilefacenet", embedding_dim=16, image_size=64, rules=rules)
    embedding = network(torch.rand(8, 3, 64, 64) * 2 - 1)
    embedding.square().sum(1).sub(torch.arange(8)).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_counting_runs_no_layer_and_changes_no_network():
    network = made("mobilefacenet", [pointwise(), depthwise(2)])
    before = [type(layer) for layer in network.modules()]
    count(network, (112, 112))
    assert [type(layer) for layer in network.modules()] == before
    replaced = count_replaced(network, (112, 112))
    assert replaced.once == sum(
        layer.weight_block.multiply_adds
        for layer in network.modules()
        if isinstance(layer, TVConv2d)
    )


def test_what_is_not_replaced_keeps_the_weights_of_the_seed():
    torch.manual_seed(3)
    plain = build("mobilefacenet", image_size=32).state_dict()
    torch.manual_seed(3)
    changed = build("mobilefacenet", image_size=32, rules=[depthwise(3)]).state_dict()
    kept = plain.keys() & changed.keys()
    assert all(torch.equal(plain[name], changed[name]) for name in kept)
    assert {name for name in plain.keys() - kept if not name.startswith("stage3.")} == set()


RUN = """
name: first
steps: 2
data: {path: faces, image_size: 32}
backbone:
  name: mobilefacenet
  replace:
    - {what: depthwise, stages: [3, 4], with: {kind: tvconv, hidden: 4}}
"""


def test_a_run_file_s_rules_shape_its_network_and_are_kept(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    run = from_tree(read_tree(tmp_path / "run.yaml"), source="run.yaml")
    with torch.device("meta"):
        network = run_build.network(run)
    layers = [layer for layer in network.modules() if isinstance(layer, TVConv2d)]
    assert len(layers) == 10
    (tmp_path / "kept.yaml").write_text(dump(run))
    assert from_tree(read_tree(tmp_path / "kept.yaml"), source="kept.yaml") == run


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("{what: pointwise, stages: [2], with: {kind: tvconv}}", "tvconv is depthwise"),
        ("{what: pointwise, stages: [5], with: {kind: drconv}}", r"stages\.0: .*equal to 4"),
        ("{what: pointwise, stages: [], with: {kind: drconv}}", "at least 1 item"),
        ("{what: depthwise, stages: [2], with: {kind: other}}", "does not match any"),
        ("{what: depthwise, stages: [2], with: {kind: tvconv, regions: 2}}", "Unexpected"),
        ("{what: depthwise, stages: [2]}", "with: Field required"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_place(rule, reason, tmp_path):
    text = RUN[: RUN.index("    - {")] + f"    - {rule}\n"
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(RunFileError, match=rf"^run: backbone\.replace\.0.*{reason}"):
        from_tree(read_tree(tmp_path / "run.yaml"), source="run")
