"""Plans: what fits, what is recommended and why, and that memory is what tensors really take."""

import json
import math
from dataclasses import replace

import pytest
import torch

from tests.trainer.planning.numbers import constants, cost, machine
from trainer import backbones
from trainer.backbones.table import BACKBONES
from trainer.errors import RunError
from trainer.planning import request
from trainer.planning.backbone import (
    activation_bytes,
    backbone_bytes,
    network_name,
    parameters,
)
from trainer.planning.constants import BackboneCost, Machine
from trainer.planning.devices import device
from trainer.planning.plan import Plan, make_plan
from trainer.planning.recommend import Recommendation, recommend
from trainer.planning.text import as_json, plan_text

SMALL = ("backbone.name=facenet_small", "data.image_size=32")


def asked(identities: int, ranks: int, *changes: str, on_cpu: bool = False) -> request.Request:
    return request.make(
        None,
        (*SMALL, *changes),
        identities=identities,
        images=None,
        ranks=ranks,
        epochs=None,
        rate=None,
        pool_share=None,
        on_cpu=on_cpu,
    )


def planned(found: Machine, wanted: request.Request) -> tuple[Plan, Recommendation]:
    plan = make_plan(wanted, found)
    return plan, recommend(plan)


def test_a_hundred_million_people_on_a_thousand_devices_that_are_not_here():
    plan, advice = planned(device("h100"), asked(100_000_000, 1024))
    kinds = ["full", "sampled", "host", "mapped", "pool"]
    assert [each.kind for each in plan.candidates] == kinds
    assert advice.name in {each.name for each in plan.candidates}
    for each in plan.candidates:
        assert each.fits
        assert 0 < each.step_s < math.inf
        assert each.days == pytest.approx(
            each.step_s * 20 * 100_000_000 * 20 / (1024 * 128) / 86400, rel=1e-12
        )
        assert each.device_hours == pytest.approx(each.days * 24 * 1024, rel=1e-12)


def test_where_only_the_host_has_room_it_is_recommended_with_the_reason():
    plan, advice = planned(device("a100-40gb"), asked(150_000_000, 4, "backbone.embedding_dim=512"))
    fits = {each.kind: each.fits for each in plan.candidates}
    assert fits == {
        "full": False,
        "sampled": False,
        "host": False,
        "mapped": True,
        "pool": True,
    }
    assert advice.name == "mapped 0.1"
    plan, advice = planned(device("a100-40gb"), asked(80_000_000, 4, "backbone.embedding_dim=512"))
    fits = {each.kind: each.fits for each in plan.candidates}
    assert fits == {
        "full": False,
        "sampled": False,
        "host": True,
        "mapped": True,
        "pool": True,
    }
    assert advice.name == "host 0.1"
    assert "does not fit" in advice.reason


def test_a_run_files_own_sampling_and_pool_are_what_is_compared():
    changes = ("head.sampling={rate: 0.2, block: 16}",)
    plan, _ = planned(device("h100"), asked(1_000_000, 8, *changes))
    assert [each.name for each in plan.candidates] == [
        "full",
        "sampled 0.2",
        "host 0.2",
        "mapped 0.2",
        "pool 0.01",
    ]
    assert plan.request.sampling.block == 16
    changes = ("head={pool: {slots: 5000}}", "data.order={name: pairs}")
    plan, _ = planned(device("h100"), asked(1_000_000, 8, *changes))
    assert plan.candidates[-1].name == "pool 0.005"


def test_a_full_softmax_is_recommended_where_it_costs_little():
    slow_images = machine(
        constants(operations_per_s=1e9, heads=(cost(element_s=0.0, logit_s=0.0),), machine_ranks=1)
    )
    _, advice = planned(slow_images, asked(1000, 1, "head.precision=fp32", on_cpu=True))
    assert advice.name == "full"
    assert "exact" in advice.reason


def test_where_nothing_fits_it_says_what_is_lacking_and_how_many_ranks_would_do():
    small = machine(constants(memory_bytes=1 << 27, machine_ranks=1))
    wanted = asked(20_000_000, 1, "batch.micro_batch_size=16", on_cpu=True)
    plan, advice = planned(small, wanted)
    assert advice.name is None
    assert "full needs" in advice.reason
    assert "ranks on something does" in advice.reason
    ending = plan_text(plan, advice).splitlines()[-1]
    assert ending.startswith("No recommendation: nothing fits")


def test_on_a_cpu_there_is_no_host_to_move_rows_from():
    plan, _ = planned(machine(), asked(10_000, 1, on_cpu=True))
    assert [each.kind for each in plan.candidates] == ["full", "sampled", "mapped", "pool"]


def test_rows_in_a_file_move_at_the_disks_rate_where_memory_cannot_hold_them():
    wanted = asked(1_000_000, 1, on_cpu=True)
    (small,), (large,) = (
        [
            each
            for each in planned(machine(constants(host_bytes=host)), wanted)[0].candidates
            if each.kind == "mapped"
        ]
        for host in (16 << 30, 1 << 20)
    )
    assert large.head_seconds.moving == pytest.approx(5 * small.head_seconds.moving, rel=1e-12)
    assert large.disk_bytes == small.disk_bytes > 2 * 1_000_000 * 2 * 4 * 128


def test_reading_images_takes_the_cores_that_computing_leaves_then_a_share_of_its_own():
    wanted = asked(10_000, 1, on_cpu=True)
    known = constants(threads=2, loader_images_per_s=1e9, loader_core_s=1.0)

    def waiting(**changes: object) -> float:
        return make_plan(wanted, machine(replace(known, **changes))).candidates[0].waiting_s

    images = wanted.own_images
    assert waiting() == images / 2  # both cores compute
    rest = make_plan(wanted, machine(known)).candidates[0].step_s - images / 2
    assert waiting(threads=1) == pytest.approx((images - rest) / 2, rel=1e-12)
    assert waiting(loader_core_s=0.0) == 0.0
    assert waiting(threads=1, loader_core_s=0.0, loader_images_per_s=1.0) == pytest.approx(
        images - rest, rel=1e-12
    )


def test_mined_classes_are_told_with_their_lists_and_have_no_rows_outside():
    changes = ("head.sampling={rate: 0.1, hard_share: 0.2}",)
    plan, advice = planned(device("h100"), asked(1_000_000, 8, *changes))
    assert [each.kind for each in plan.candidates] == ["full", "sampled", "pool"]
    text = plan_text(plan, advice)
    assert "lists of near classes" in text
    assert "head: mining" in text
    assert "lists of near classes" not in plan_text(*planned(machine(), asked(1000, 1)))


def test_the_table_says_what_was_not_measured_and_has_units_everywhere():
    text = plan_text(*planned(device("h100"), asked(2_000_000, 8)))
    assert "NOT MEASURED" in text
    assert text.count("Recommended: ") == 1
    for line in text.splitlines():
        if line.startswith("  ") and line.split()[0] in ("centres", "head:", "together"):
            assert line.split()[-1] in ("GB", "MB", "kB", "B", "s", "ms", "us"), line


def test_a_backbone_that_was_not_measured_is_said_to_be_reckoned():
    text = plan_text(*planned(machine(), asked(10_000, 1, on_cpu=True)))
    assert "was not measured" in text
    known = BackboneCost(
        name="facenet_small",
        image_size=32,
        embedding_dim=128,
        precision="bf16",
        recompute=False,
        forward_s=1.0,
        backward_s=2.0,
        optimizer_s=3.0,
    )
    plan, advice = planned(machine(constants(backbones=(known,))), asked(10_000, 1, on_cpu=True))
    assert "was not measured" not in plan_text(plan, advice)
    assert plan.candidates[0].backbone_seconds.total == 128 * 3.0 + 3.0
    called = replace(known, forward_call_s=10.0, backward_call_s=20.0)
    changes = ("batch.micro_batches=4", "batch.micro_batch_size=32")
    wanted = asked(10_000, 2, *changes, on_cpu=True)
    plan, _ = planned(machine(constants(backbones=(called,))), wanted)
    assert plan.candidates[0].backbone_seconds.total == 64 * 3.0 + 3.0 + 2 * 30.0


def test_a_plan_as_json_has_every_number_and_no_other_things():
    plan, advice = planned(device("v100"), asked(1_000_000, 8))
    found = json.loads(json.dumps(as_json(plan, advice), allow_nan=False))
    assert found["recommended"] == advice.name
    assert {"head_bytes", "head_seconds", "days", "fits"} <= found["candidates"][0].keys()


def test_fewer_people_than_ranks_are_refused():
    with pytest.raises(RunError, match="use fewer ranks"):
        asked(3, 4)


@pytest.mark.parametrize("name", ["facenet_small", "mobilefacenet"])
def test_parameters_are_those_of_the_table(name: str):
    size = BACKBONES[name].image_size[0]
    wanted = request.make(
        None,
        (f"backbone.name={name}", f"data.image_size={size}"),
        identities=10,
        images=None,
        ranks=1,
        epochs=None,
        rate=None,
        pool_share=None,
        on_cpu=True,
    )
    assert parameters(wanted) == BACKBONES[name].parameters


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_the_bytes_that_autograd_keeps(precision: str):
    wanted = asked(10, 1, f"engine.precision={precision}", on_cpu=True)
    network = backbones.build("facenet_small", image_size=32)
    kept: dict[int, torch.UntypedStorage] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"),
    ):
        network(torch.zeros(16, 3, 32, 32))
    found = sum(storage.nbytes() for place, storage in kept.items() if place not in own)
    predicted = 16 * activation_bytes(wanted)
    # What is kept once, whatever the batch: statistics, and weights in two bytes where in bf16.
    assert 0 <= found - predicted <= 2.1 * parameters(wanted) * (precision == "bf16") + 40_000


def test_zero_cuts_what_it_promises():
    whole = backbone_bytes(asked(10, 1, "engine.zero_stage=0"), activations=0, gallery=False)
    assert whole.weights == 4 * 3 * parameters(asked(10, 1))
    adamw = asked(10, 1, "engine.zero_stage=0", "optimizer.name=adamw")
    assert backbone_bytes(adamw, activations=0, gallery=False).weights == whole.weights * 4 // 3
    at = [
        backbone_bytes(
            asked(1000, 64, f"engine.zero_stage={stage}"), activations=0, gallery=False
        ).weights
        for stage in (1, 2, 3)
    ]
    # A bucket for sums is as large as so small a network, and stage 3 has two.
    assert at[0] > at[1]
    assert at[0] > at[2]


def test_recomputing_holds_one_micro_batch():
    wanted = asked(10, 1, "batch.micro_batches=4")
    again = replace(
        wanted, run=replace(wanted.run, engine=replace(wanted.run.engine, recompute=True))
    )
    held = [
        backbone_bytes(each, activations=10, gallery=False).activations for each in (wanted, again)
    ]
    assert held == [4 * 128 * 10, 128 * 10]


def test_a_measurement_counts_for_the_network_with_the_same_layers_only():
    rule = "{what: depthwise, stages: [3], with: {kind: tvconv}}"
    plain, replaced = (
        network_name(asked(10, 1, f"backbone.replace={rules}", on_cpu=True).run)
        for rules in ("[]", f"[{rule}]")
    )
    assert replaced.startswith(f"{plain}; depthwise 3 ")
