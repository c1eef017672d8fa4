"""What DRConv, TVConv and whole networks take on a card."""

from tests.benchmarks.record import Cell
from tests.gpu_check.plan import Plan, measure
from tests.gpu_check.results import Results


def layers(plan: Plan, results: Results) -> None:
    """The tables of bench_drconv and bench_tvconv, a process for each layer's size."""
    note = (
        f"Milliseconds at batch {plan.layer_batch}; +: a step with its gradients. Of best: what "
        "the layer's operations take at the library's rate, or reading the image and writing the "
        "output at the rate of a copy, whichever is longer, of the forward's time."
    )
    results.section("Layers", note)
    sizes = [("drconv", side, channels, 1) for side, channels in plan.drconv_sizes]
    sizes += [
        ("tvconv", side, channels, stride)
        for side in plan.tvconv_sides
        for channels in plan.tvconv_channels
        for stride in (1, 2)
    ]
    for layer, side, channels, stride in sizes:
        for dtype in plan.layer_dtypes:
            size: dict[str, Cell] = {"side": side, "channels": channels, "stride": stride}
            size |= {"batch": plan.layer_batch, "dtype": dtype}
            for compiled in plan.compiled:
                row = measure(plan, layer, **size, compiled=compiled)
                manner = "compiled" if compiled else "eager"
                results.row({"layer": layer, **size, "manner": manner, **row})


def whole(plan: Plan, results: Results) -> None:
    """Images a second of the networks of bench_backbones."""
    from tests.benchmarks.bench_backbones import NETWORKS

    size = {"batch": plan.network_batch, "image_size": plan.image_size}
    results.section("Networks", f"Images a second, channels-last, mixed precision, {size}.")
    for name in plan.networks or tuple(NETWORKS):
        for compiled in plan.compiled:
            row = measure(plan, "network", name=name, **size, compiled=compiled)
            results.row({"network": name, "manner": "compiled" if compiled else "eager", **row})
