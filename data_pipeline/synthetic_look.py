"""The colours and heights that several parts of one drawn face share."""

from dataclasses import dataclass

from data_pipeline.synthetic_canvas import Colour
from data_pipeline.synthetic_pose import Pose
from data_pipeline.synthetic_traits import Conditions, Traits

# Ramps of colour; a trait in [0, 1) is a place on its ramp.
SKIN = (
    (0.99, 0.87, 0.77),
    (0.95, 0.76, 0.60),
    (0.80, 0.57, 0.41),
    (0.57, 0.37, 0.25),
    (0.37, 0.23, 0.16),
)
HAIR = (
    (0.08, 0.07, 0.09),
    (0.24, 0.15, 0.10),
    (0.45, 0.28, 0.15),
    (0.74, 0.54, 0.27),
    (0.94, 0.82, 0.55),
    (0.80, 0.80, 0.82),
)
IRIS = (
    (0.28, 0.15, 0.06),
    (0.50, 0.35, 0.12),
    (0.25, 0.52, 0.25),
    (0.20, 0.48, 0.82),
    (0.52, 0.60, 0.66),
)
LIPS = ((0.82, 0.52, 0.46), (0.84, 0.20, 0.30))


@dataclass(frozen=True, slots=True)
class Look:
    """One person in one picture, with what follows from both."""

    person: Traits
    scene: Conditions
    pose: Pose
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    nose_y: float
    mouth_y: float
    chin_y: float
    crown_y: float


def look(person: Traits, scene: Conditions, pose: Pose) -> Look:
    """Mix the colours and stack the heights."""
    skin = ramp(SKIN, person.skin_tone)
    warmth = 0.12 * (person.skin_warmth - 0.5)
    skin = (skin[0] * (1 + warmth), skin[1], skin[2] * (1 - 1.5 * warmth))
    hair = ramp(HAIR, person.hair_tone)
    warmth = 0.30 * person.hair_warmth
    hair = (min(hair[0] * (1 + 1.2 * warmth) + 0.4 * warmth, 1.0), hair[1], hair[2] * (1 - warmth))
    red = mix(LIPS[0], LIPS[1], person.lip_redness)
    lips = mix(skin, tuple(c * (1 - 0.45 * person.lip_darkness) for c in red), 0.72)
    iris = tuple(c * person.iris_brightness for c in ramp(IRIS, person.iris_colour))
    nose_y = person.eye_height + person.nose_length
    return Look(
        person=person,
        scene=scene,
        pose=pose,
        skin=skin,
        hair=hair,
        iris=iris,
        lips=lips,
        nose_y=nose_y,
        mouth_y=nose_y + person.mouth_drop,
        chin_y=person.chin_length,
        crown_y=-person.crown_height,
    )


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of the second colour in the first."""
    return tuple(a + share * (b - a) for a, b in zip(first, second, strict=True))


def ramp(colours: tuple[Colour, ...], place: float) -> Colour:
    """The colour at a place in [0, 1) of evenly spaced ones."""
    position = place * (len(colours) - 1)
    left = min(int(position), len(colours) - 2)
    return mix(colours[left], colours[left + 1], position - left)
