"""Named sets of augmentation strengths; any of them may be changed with `dataclasses.replace`.

What a published recipe does is followed as far as parameters that are looked up allow: colours
change in one fixed order and around mid-grey, and a window that does not fit is cut to the picture
instead of drawn again. A set that has been in a release is not changed, because runs that name it
would go on with other pixels; a better one gets another name.
"""

from collections.abc import Mapping
from types import MappingProxyType

from data_pipeline.augment import Augmentation

PRESETS: Mapping[str, Augmentation] = MappingProxyType(
    {
        "none": Augmentation(),
        "flip": Augmentation(flip=0.5),
        # insightface's arcface_torch, `dali_aug` in dataset.py. Its blurs have 3 or 5 taps, which
        # is a sigma of 0.8 or 1.1; its hue and saturation only grow, here they go either way.
        "arcface": Augmentation(
            flip=0.5,
            low_resolution=0.1,
            low_resolution_sides=(0.5, 0.8),
            blur=0.2,
            blur_sigmas=(0.8, 1.1),
            recolour=0.2,
            saturation=0.2,
            hue_deg=20.0,
            grey=0.1,
        ),
        # arXiv:2204.00964, section 4.1, and dataset/augmenter.py of its code, which also draws
        # the filters of the low resolution (and has one more, over areas).
        "adaface": Augmentation(
            flip=0.5,
            blackout=0.2,
            low_resolution=0.2,
            low_resolution_sides=(0.2, 1.0),
            recolour=0.2,
            brightness=0.5,
            contrast=0.5,
            saturation=0.5,
        ),
        # The next three are this project's own and no accuracy has been measured with them. Only
        # the first crops, which resamples every face: more work than all the rest together.
        "cropped": Augmentation(flip=0.5, crop=0.15),
        "masked": Augmentation(
            flip=0.5, mask=0.3, recolour=0.2, brightness=0.3, contrast=0.3, saturation=0.3
        ),
        "strong": Augmentation(
            flip=0.5,
            blackout=0.1,
            occlusion=0.1,
            mask=0.1,
            low_resolution=0.2,
            blur=0.1,
            jpeg=0.2,
            recolour=0.3,
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
            hue_deg=10.0,
            grey=0.05,
        ),
    }
)
