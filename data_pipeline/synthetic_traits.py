"""What is drawn: the lasting traits of a made-up person, and the passing conditions of one picture.

Both are frozen records of plain floats, drawn from counter-based numbers: traits from (seed,
identity), conditions from (seed, identity, image). A field's number is its place in its record, so
a field added at the end moves no other. Lengths are in head units: the head is about 1.3 wide and
1.6 high, x to the viewer's right, y down, the origin between the eyes and the nose tip.
Nothing here knows about pixels.
"""

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np

from data_pipeline import keyed

_Record = TypeVar("_Record")


def _flat(low: float, high: float) -> Any:
    """A field drawn evenly from [low, high)."""
    return field(metadata={"low": low, "high": high, "peaked": False})


def _peaked(low: float, high: float) -> Any:
    """A field drawn from [low, high), most often near the middle (a triangle)."""
    return field(metadata={"low": low, "high": high, "peaked": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """A person: everything that stays the same from picture to picture."""

    face_width: float = _flat(0.52, 0.69)
    crown_height: float = _flat(0.66, 0.86)
    chin_length: float = _flat(0.66, 0.94)
    jaw_taper: float = _flat(0.02, 0.36)
    jaw_squareness: float = _flat(0.0, 1.0)

    eye_distance: float = _flat(0.20, 0.335)
    eye_height: float = _flat(-0.16, 0.06)
    eye_width: float = _flat(0.105, 0.175)
    eye_openness: float = _flat(0.40, 0.95)
    eye_slant: float = _flat(-0.24, 0.24)
    iris_size: float = _flat(0.55, 0.95)
    iris_colour: float = _flat(0.0, 1.0)
    iris_brightness: float = _flat(0.35, 1.0)
    lid_darkness: float = _flat(0.2, 1.0)

    brow_gap: float = _flat(0.135, 0.27)
    brow_length: float = _flat(0.12, 0.23)
    brow_thickness: float = _flat(0.018, 0.062)
    brow_slope: float = _flat(-0.32, 0.32)
    brow_arch: float = _flat(-0.2, 2.6)
    brow_spread: float = _flat(0.92, 1.18)

    nose_length: float = _flat(0.20, 0.40)
    nose_width: float = _flat(0.075, 0.185)
    nose_tip_height: float = _flat(0.045, 0.10)
    bridge_width: float = _flat(0.02, 0.10)
    bridge_contrast: float = _flat(0.03, 0.26)
    nostril_size: float = _flat(0.014, 0.036)

    mouth_drop: float = _flat(0.15, 0.29)
    mouth_width: float = _flat(0.13, 0.29)
    upper_lip: float = _flat(0.018, 0.07)
    lower_lip: float = _flat(0.025, 0.085)
    mouth_curve: float = _flat(-0.5, 0.7)
    lip_redness: float = _flat(0.1, 1.0)
    lip_darkness: float = _flat(0.0, 1.0)

    ear_size: float = _flat(0.10, 0.21)
    ear_height: float = _flat(-0.08, 0.10)

    hairline: float = _flat(-0.62, -0.30)
    hairline_curve: float = _flat(-0.75, 0.75)
    hairline_slant: float = _flat(-0.35, 0.35)
    hair_volume: float = _flat(0.02, 0.20)
    hair_width: float = _flat(0.0, 0.18)
    hair_length: float = _flat(-0.5, 1.35)
    hair_wave: float = _flat(0.0, 0.05)
    hair_tone: float = _flat(0.0, 1.0)
    hair_warmth: float = _flat(0.0, 1.0)

    skin_tone: float = _flat(0.0, 1.0)
    skin_warmth: float = _flat(0.0, 1.0)
    blush: float = _flat(0.0, 0.6)
    cheekbone: float = _flat(0.0, 0.20)

    beard: float = _flat(-1.6, 1.0)
    beard_height: float = _flat(0.0, 0.35)
    moustache: float = _flat(-1.6, 1.0)
    freckles: float = _flat(-1.5, 1.0)
    mole_across: float = _flat(-0.42, 0.42)
    mole_down: float = _flat(0.10, 0.62)
    mole_size: float = _flat(-0.03, 0.042)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """One picture of that person: pose, expression, light, camera and what is in the way.

    Rotations are tangents of half the angle, so that sines and cosines are fractions of them and no
    trigonometric function, which differs from machine to machine, is needed.
    """

    yaw_half_tan: float = _peaked(-0.24, 0.24)
    pitch_half_tan: float = _peaked(-0.13, 0.13)
    roll_half_tan: float = _peaked(-0.12, 0.12)
    shift_x: float = _peaked(-0.14, 0.14)
    shift_y: float = _peaked(-0.13, 0.13)
    scale: float = _peaked(0.86, 1.16)

    smile: float = _peaked(-0.9, 1.3)
    mouth_open: float = _flat(-1.0, 1.0)
    brow_raise: float = _peaked(-0.05, 0.07)
    squint: float = _peaked(0.55, 1.15)
    blink: float = _flat(0.0, 1.0)
    gaze: float = _peaked(-0.45, 0.45)

    light_x: float = _flat(-1.0, 1.0)
    light_y: float = _flat(-1.0, 0.4)
    light_strength: float = _flat(0.0, 0.42)
    exposure: float = _flat(0.75, 1.22)
    contrast: float = _flat(0.75, 1.2)
    cast_red: float = _flat(0.83, 1.17)
    cast_green: float = _flat(0.87, 1.13)
    cast_blue: float = _flat(0.78, 1.22)
    saturation: float = _flat(0.45, 1.2)

    backdrop_red: float = _flat(0.1, 0.95)
    backdrop_green: float = _flat(0.1, 0.95)
    backdrop_blue: float = _flat(0.1, 0.95)
    backdrop_change: float = _flat(-0.6, 0.6)
    backdrop_x: float = _flat(-1.0, 1.0)
    backdrop_y: float = _flat(-1.0, 0.6)
    backdrop_size: float = _flat(0.2, 0.9)
    backdrop_shape: float = _flat(0.0, 1.0)
    shirt_red: float = _flat(0.05, 0.95)
    shirt_green: float = _flat(0.05, 0.95)
    shirt_blue: float = _flat(0.05, 0.95)
    shirt_neck: float = _flat(0.0, 1.0)

    hair_mess: float = _peaked(-0.06, 0.06)
    glasses: float = _flat(0.0, 1.0)
    glasses_size: float = _flat(0.13, 0.20)
    glasses_tone: float = _flat(0.0, 1.0)
    hat: float = _flat(0.0, 1.0)
    hat_height: float = _flat(-0.56, -0.36)
    hat_red: float = _flat(0.05, 0.95)
    hat_green: float = _flat(0.05, 0.95)
    hat_blue: float = _flat(0.05, 0.95)
    cover: float = _flat(0.0, 1.0)
    cover_x: float = _flat(-0.85, 0.85)
    cover_y: float = _flat(-0.75, 0.85)
    cover_size: float = _flat(0.10, 0.26)
    cover_turn: float = _flat(-0.4, 1.0)
    cover_tone: float = _flat(0.0, 1.0)

    blur: float = _flat(-1.0, 0.7)
    noise: float = _flat(0.0, 0.03)


def traits(seed: int, identity: int) -> Traits:
    """The person with this number."""
    return _draw(Traits, ("face traits", seed, identity))


def conditions(seed: int, identity: int, image: int) -> Conditions:
    """The circumstances of this person's picture with this number."""
    return _draw(Conditions, ("face conditions", seed, identity, image))


def _draw(record: type[_Record], key: tuple[keyed.Key, ...]) -> _Record:
    columns = fields(record)  # pyright: ignore[reportArgumentType]  # only dataclasses are passed
    number = np.arange(2 * len(columns)).reshape(len(columns), 2)
    drawn = keyed.uniform(*key, number).tolist()
    values = {}
    for column, (first, second) in zip(columns, drawn, strict=True):
        low, high = column.metadata["low"], column.metadata["high"]
        place = (first + second) / 2 if column.metadata["peaked"] else first
        values[column.name] = low + place * (high - low)
    return record(**values)
