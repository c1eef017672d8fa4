"""Paint what is around and before a drawn face: backdrop, body, hair, and what is in the way.

Hair and body keep to the upright coordinates of the pose (they are behind the surface), the fringe,
hats and glasses to the surface. The plain numbers are proportions of a cartoon, chosen by eye.
"""

import numpy as np

from data_pipeline.synthetic_canvas import Canvas, Colour, Plane, arch, block, ellipse
from data_pipeline.synthetic_look import SKIN, Look, mix, ramp
from data_pipeline.synthetic_pose import turned
from data_pipeline.synthetic_traits import Conditions

INK: Colour = (0.10, 0.07, 0.07)
GLASSES_SHARE = 0.14
SUNGLASSES_SHARE = 0.2  # of the glasses
HAT_SHARE = 0.08
COVER_SHARE = 0.12


def backdrop_colour(scene: Conditions) -> Colour:
    """The wall behind."""
    return (scene.backdrop_red, scene.backdrop_green, scene.backdrop_blue)


def paint_backdrop(canvas: Canvas, look: Look) -> None:
    """A disc or a slanted stripe on the wall, lighter or darker than it."""
    scene, pose = look.scene, look.pose
    x = pose.x - np.float32(scene.backdrop_x)
    y = pose.y - np.float32(scene.backdrop_y)
    if scene.backdrop_shape < 0.5:
        shape = ellipse(x, y, scene.backdrop_size, scene.backdrop_size)
    else:
        shape = block(*turned(x, y, 3 * scene.backdrop_shape - 2.2), 3.0, 0.5 * scene.backdrop_size)
    wall = backdrop_colour(scene)
    other = tuple(min(max(c + scene.backdrop_change, 0.0), 1.0) for c in wall)
    canvas.paint(canvas.coverage(shape), other)


def paint_hair_behind(canvas: Canvas, look: Look) -> Plane:
    """The mass of hair seen around the head; returns the coverage of its upper part."""
    person, pose = look.person, look.pose
    width = person.face_width + 0.03 + person.hair_width
    height = person.crown_height + person.hair_volume
    wobble = _wave(pose.y * np.float32(3.5)) * np.float32(person.hair_wave)
    x = np.abs(pose.x) + wobble
    dome = ellipse(x, pose.y, width, height)
    long = np.maximum(np.maximum(x - np.float32(width), -pose.y), pose.y - person.hair_length)
    short = np.maximum(dome, pose.y - np.float32(max(person.hair_length, -0.15)))
    canvas.paint(canvas.coverage(np.minimum(short, long)), mix(look.hair, INK, 0.25))
    return canvas.coverage(dome)


def paint_body(canvas: Canvas, look: Look) -> None:
    """Neck in the shadow of the chin, and a shirt."""
    person, scene, pose = look.person, look.scene, look.pose
    half = 0.55 * person.face_width
    neck = np.maximum(np.abs(pose.x) - np.float32(half), -pose.y)
    canvas.paint(canvas.coverage(neck), mix(look.skin, INK, 0.28))
    collar = 0.86 + 0.14 * scene.shirt_neck
    shoulders = arch(pose.x, pose.y - np.float32(1.5), 1.35, 1.5 - collar)
    shirt = (scene.shirt_red, scene.shirt_green, scene.shirt_blue)
    cut = ellipse(pose.x, pose.y - np.float32(collar - 0.05), half, 0.25 * scene.shirt_neck + 0.08)
    canvas.paint(canvas.coverage(np.maximum(shoulders, -cut)), shirt)


def paint_ears(canvas: Canvas, look: Look) -> None:
    """One on each side; the one that turns away hides behind the head."""
    person, pose = look.person, look.pose
    size = person.ear_size
    for side in (-1.0, 1.0):
        x = pose.x - np.float32(
            side * (person.face_width - 0.015) - 0.10 * side * side * pose.sin_yaw
        )
        y = pose.y - np.float32(person.ear_height + 0.02)
        ear = ellipse(x, y, 0.55 * size, size)
        canvas.paint(canvas.coverage(ear), mix(look.skin, INK, 0.10))
        canvas.paint(canvas.coverage(ear + np.float32(0.3 * size)), mix(look.skin, INK, 0.26))


def paint_skin(canvas: Canvas, look: Look) -> Plane:
    """The face itself, rounded by shading; returns its coverage."""
    person, scene, pose = look.person, look.scene, look.pose
    below = np.maximum(pose.y, np.float32(0))
    chin = person.chin_length * (1 - 0.25 * pose.sin_pitch) + 0.03 * max(scene.mouth_open, 0.0)
    down = np.minimum(pose.y, np.float32(0)) * np.float32(1 / person.crown_height)
    down += below * np.float32(1 / chin)
    below *= np.float32(1 / chin)
    narrowing = np.float32(1) - np.float32(person.jaw_taper) * below * below
    bulge = np.float32(1) + np.float32(person.cheekbone) * _bump(pose.y - np.float32(0.22))
    x = pose.x - np.float32(0.20 * pose.sin_yaw) * below
    across = np.abs(x) / (narrowing * bulge * np.float32(person.face_width))
    square_x, square_y = across * across, down * down
    round_one = np.sqrt(square_x + square_y)
    square_one = np.sqrt(np.sqrt(square_x * square_x + square_y * square_y))
    jaw = np.minimum(below * np.float32(1.5), np.float32(1)) * np.float32(person.jaw_squareness)
    distance = (round_one + jaw * (square_one - round_one) - 1) * np.float32(
        0.9 * person.face_width
    )
    face = canvas.coverage(distance)
    canvas.paint(face, look.skin)
    rim = canvas.coverage(distance + np.float32(0.05), softness=4.0)
    canvas.shade(1 - np.float32(0.16) * (face - rim * face))
    return face


def paint_fringe(canvas: Canvas, look: Look, dome: Plane) -> None:
    """The hair in front: above the hairline, within the dome of the hair."""
    person, scene, pose = look.person, look.scene, look.pose
    line = (
        np.float32(person.hairline + scene.hair_mess)
        + np.float32(person.hairline_slant) * pose.u
        + np.float32(person.hairline_curve) * pose.u * pose.u
        + _wave(pose.u * np.float32(5)) * np.float32(1.5 * person.hair_wave)
    )
    fringe = pose.v - line
    hair = canvas.coverage(fringe) * dome
    canvas.paint(hair, look.hair)
    gloss = _bump((pose.v - np.float32(look.crown_y * 0.72)) * np.float32(2.2))
    canvas.shade(1 + np.float32(0.28) * gloss * hair)


def paint_hat(canvas: Canvas, look: Look) -> None:
    """A cap pulled down to a straight brim."""
    person, scene, pose = look.person, look.scene, look.pose
    width = person.face_width + 0.07 + 0.6 * person.hair_width
    height = person.crown_height + 0.12 + 0.5 * person.hair_volume
    cap = ellipse(pose.x, pose.y - np.float32(0.04), width, height)
    above = pose.v - np.float32(scene.hat_height)
    colour = (scene.hat_red, scene.hat_green, scene.hat_blue)
    canvas.paint(canvas.coverage(np.maximum(cap, above)), colour)
    brim = np.maximum(np.abs(above + np.float32(0.05)) - np.float32(0.05), cap - np.float32(0.02))
    canvas.paint(canvas.coverage(brim), mix(colour, INK, 0.45))


def paint_glasses(canvas: Canvas, look: Look) -> None:
    """Two rims and a bridge, now and then with dark lenses."""
    person, scene, pose = look.person, look.scene, look.pose
    size = scene.glasses_size
    box = pose.box(0.0, person.eye_height, person.eye_distance + 1.6 * size)
    u, y = pose.u[box], pose.v[box] - np.float32(person.eye_height + 0.01)
    x = np.abs(u) - np.float32(max(person.eye_distance, size + 0.02))
    lens = block(x, y, size, 0.8 * size, corner=0.5 * size)
    frame = mix(INK, (0.75, 0.55, 0.35), scene.glasses_tone)
    share = SUNGLASSES_SHARE * GLASSES_SHARE
    tint = 0.88 if scene.glasses < share else 0.06
    canvas.paint(canvas.coverage(lens) * np.float32(tint), (0.12, 0.13, 0.16), box)
    rims = np.abs(lens) - np.float32(0.016)
    bridge = block(u, y + np.float32(0.3 * size), max(person.eye_distance - size, 0.02), 0.014)
    canvas.paint(canvas.coverage(np.minimum(rims, bridge)), frame, box)


def paint_cover(canvas: Canvas, look: Look) -> None:
    """A bar, a ball or a hand before the face."""
    scene, pose = look.scene, look.pose
    x, y = turned(
        pose.x - np.float32(scene.cover_x), pose.y - np.float32(scene.cover_y), scene.cover_turn
    )
    size = scene.cover_size
    kind = scene.cover / COVER_SHARE
    if kind < 0.3:
        shape = block(x, y, 3.0, 0.55 * size)
        colour = mix((0.15, 0.2, 0.3), (0.9, 0.85, 0.7), scene.cover_tone)
    elif kind < 0.6:
        shape = ellipse(x, y, size, 1.15 * size)
        colour = mix((0.75, 0.2, 0.2), (0.2, 0.5, 0.75), scene.cover_tone)
    else:
        shape = ellipse(x, y, 0.62 * size, 0.75 * size)
        for finger in (-1.5, -0.5, 0.5, 1.5):
            along = y + np.float32(size * (1.15 - 0.12 * finger * finger))
            tip = block(
                x - np.float32(0.30 * finger * size),
                along,
                0.13 * size,
                0.75 * size,
                corner=0.13 * size,
            )
            shape = np.minimum(shape, tip)
        colour = ramp(SKIN, scene.cover_tone)
        canvas.paint(canvas.coverage(shape - np.float32(0.018)), mix(colour, INK, 0.5))
    canvas.paint(canvas.coverage(shape), colour)


def _wave(position: Plane) -> Plane:
    """A wave of period 1 between -1 and 1, without a sine: a parabola up, a parabola down."""
    place = (position - np.floor(position)) * np.float32(2) - np.float32(1)
    return np.float32(4) * place * (np.float32(1) - np.abs(place))


def _bump(position: Plane) -> Plane:
    """1 at 0, falling smoothly to nothing on both sides."""
    return np.float32(1) / (np.float32(1) + np.float32(16) * position * position)
