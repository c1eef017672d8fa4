"""In words, what an augmentation does to a face in an epoch."""

from dataclasses import replace

import numpy as np

from data_pipeline.augment import Parameters
from data_pipeline.presets import PRESETS


def parameters_of(sample: int, *, preset: str, epoch: int, seed: int) -> Parameters:
    """What happens to a sample in an epoch of a run with this preset and seed: one row."""
    augmentation = replace(PRESETS[preset], seed=seed)
    return augmentation.parameters(np.array([epoch], np.int64), np.array([sample], np.int64))


def changes(parameters: Parameters) -> list[str]:
    """What one row of parameters does, in the order in which it is done; empty for nothing."""
    window = float((parameters.window_stop - parameters.window_start)[0, 0])
    grey = parameters.saturation[0] == 0
    colours = {
        name: float(getattr(parameters, name)[0]) - 1
        for name in ("saturation", "brightness", "contrast")
    }
    said = {
        f"{window:.0%} of each side": window < 1,
        "partly covered": parameters.covered[0],
        f"{parameters.shrunk_side[0]:.0%} resolution": parameters.shrunk[0],
        f"blurred by {parameters.blur_sigma[0]:.1f} px": parameters.blurred[0],
        f"JPEG quality {parameters.jpeg_quality[0]}": parameters.compressed[0],
        "grey": grey,
        f"hue {parameters.hue_deg[0]:+.0f}°": abs(parameters.hue_deg[0]) >= 0.5 and not grey,
        **{
            f"{name} {change:+.0%}": abs(change) >= 0.005 and not (grey and name == "saturation")
            for name, change in colours.items()
        },
        "mirrored": parameters.flip[0],
    }
    return [words for words, happens in said.items() if happens]
