"""Paint what lies on a drawn face: eyes, brows, nose, mouth, beard and marks.

Each works in the surface coordinates of the pose, in the few pixels that it touches. The plain
numbers are proportions of a cartoon, chosen by eye.
"""

import numpy as np

from data_pipeline.synthetic_canvas import Canvas, Colour, Plane, arch, block, ellipse
from data_pipeline.synthetic_look import Look, mix
from data_pipeline.synthetic_pose import turned

INK: Colour = (0.10, 0.07, 0.07)
EYE_WHITE: Colour = (0.97, 0.96, 0.94)
TEETH: Colour = (0.96, 0.95, 0.91)
MOUTH: Colour = (0.30, 0.07, 0.08)
BLINK_SHARE = 0.06
NOSE_DEPTH = 0.13  # how far the nose stands out, in head units: it moves more when the head turns


def paint_eye(canvas: Canvas, look: Look, side: float) -> None:
    """White, iris, pupil, glint and the line of the upper lid."""
    person, scene, pose = look.person, look.scene, look.pose
    width = person.eye_width
    box = pose.box(side * person.eye_distance, person.eye_height, 1.3 * width)
    x, y = turned(
        (pose.u[box] - np.float32(side * person.eye_distance)) * np.float32(side),
        pose.v[box] - np.float32(person.eye_height),
        -person.eye_slant / 2,
    )
    openness = 0.04 if scene.blink < BLINK_SHARE else person.eye_openness * scene.squint
    upper = arch(x, y, width, 0.75 * width * openness)
    lower = arch(x, -y, width, 0.50 * width * openness)
    eye = np.maximum(upper, lower)
    canvas.shade(1 - np.float32(0.22) * canvas.coverage(eye - np.float32(0.03), softness=3.0), box)
    white = canvas.coverage(eye)
    canvas.paint(white, EYE_WHITE, box)

    radius = 0.52 * width * person.iris_size
    middle = x - np.float32(side * scene.gaze * 0.3 * width)
    distance = ellipse(middle, y + np.float32(0.06 * width), radius, radius)
    canvas.paint(white * canvas.coverage(distance), look.iris, box)
    pupil = canvas.coverage(distance + np.float32(0.52 * radius))
    canvas.paint(white * pupil, INK, box)
    glint = ellipse(
        middle * np.float32(side) + np.float32(0.3 * radius),
        y + np.float32(0.5 * radius),
        0.26 * radius,
        0.26 * radius,
    )
    canvas.paint(white * canvas.coverage(glint), (1.0, 1.0, 1.0), box)

    line = np.maximum(np.abs(upper) - np.float32(0.016), np.abs(x) - np.float32(1.08 * width))
    lid = canvas.coverage(line) * np.float32(0.35 + 0.6 * person.lid_darkness)
    canvas.paint(lid, INK, box)


def paint_brow(canvas: Canvas, look: Look, side: float) -> None:
    """A bar bent over the eye."""
    person, scene, pose = look.person, look.scene, look.pose
    across = side * person.eye_distance * person.brow_spread
    down = person.eye_height - person.brow_gap - scene.brow_raise
    box = pose.box(across, down, 1.35 * person.brow_length)
    x, y = turned(
        (pose.u[box] - np.float32(across)) * np.float32(side),
        pose.v[box] - np.float32(down),
        -person.brow_slope / 2,
    )
    bent = y + np.float32(person.brow_arch) * x * x
    thickness = person.brow_thickness
    brow = block(x, bent, person.brow_length, thickness, corner=0.9 * thickness)
    canvas.paint(canvas.coverage(brow) * np.float32(0.9), mix(look.hair, INK, 0.35), box)


def paint_nose(canvas: Canvas, look: Look) -> None:
    """Shadow beside the bridge, light on the tip, the line beneath it and two nostrils."""
    person, pose = look.person, look.pose
    box = pose.box(0.0, look.nose_y - 0.5 * person.nose_length, 0.65 * person.nose_length + 0.14)
    x = pose.u[box] - np.float32(NOSE_DEPTH * pose.sin_yaw)
    y = pose.v[box] - np.float32(look.nose_y + NOSE_DEPTH * pose.sin_pitch)
    width, tip = person.nose_width, person.nose_tip_height

    half = 0.5 * person.nose_length
    flare = y * np.float32((width - person.bridge_width) / (4 * half)) + np.float32(0.4 * width)
    beside = np.maximum(np.abs(x) - np.maximum(flare, person.bridge_width), np.abs(y + half) - half)
    shadow = canvas.coverage(beside, softness=3.0)
    ridge = canvas.coverage(block(x, y + half, 0.4 * person.bridge_width, half), softness=3.0)
    contrast = np.float32(person.bridge_contrast)
    canvas.shade(1 - contrast * shadow + np.float32(0.6) * contrast * ridge, box)

    ball = ellipse(x, y + np.float32(0.5 * tip), 0.62 * width, tip)
    canvas.shade(1 + np.float32(0.10) * canvas.coverage(ball, softness=3.0), box)
    under = np.abs(arch(x, -y, width, 0.55 * tip)) - np.float32(0.014)
    under = np.maximum(under, np.abs(x) - np.float32(width))
    canvas.paint(canvas.coverage(under) * np.float32(0.55), mix(look.skin, INK, 0.75), box)
    size = person.nostril_size
    hole = ellipse(np.abs(x) - np.float32(0.5 * width), y - np.float32(0.2 * tip), 1.5 * size, size)
    canvas.paint(canvas.coverage(hole) * np.float32(0.85), mix(look.skin, INK, 0.85), box)


def paint_mouth(canvas: Canvas, look: Look) -> None:
    """Two lips that bend with the smile, and what shows between them."""
    person, scene, pose = look.person, look.scene, look.pose
    width = person.mouth_width * (1 + 0.10 * scene.smile)
    opening = max(scene.mouth_open, 0.0) ** 2 * 0.10
    box = pose.box(0.0, look.mouth_y + 0.02, 1.15 * width + 0.10)
    x = pose.u[box] - np.float32(0.05 * pose.sin_yaw)
    y = pose.v[box] - np.float32(look.mouth_y)
    bend = person.mouth_curve + scene.smile
    y = y + np.float32(bend) * (x * x - np.float32(0.35 * width * width))

    upper = arch(x, y, width, person.upper_lip + 0.35 * opening)
    lower = arch(x, -y, width, person.lower_lip + opening)
    dip = np.float32(0.35 * person.upper_lip) - np.abs(x)  # Cupid's bow
    upper = np.maximum(upper, (dip + (-y - np.float32(0.62 * person.upper_lip + 0.35 * opening))))
    lips = canvas.coverage(np.maximum(upper, lower))
    canvas.paint(lips, look.lips, box)
    light = ellipse(
        x, y - np.float32(0.55 * person.lower_lip + opening), 0.45 * width, 0.3 * person.lower_lip
    )
    canvas.shade(1 + np.float32(0.13) * canvas.coverage(light, softness=2.0), box)

    inner = 0.88 * width
    line = np.maximum(np.abs(y) - np.float32(0.011), np.abs(x) - np.float32(width))
    canvas.paint(canvas.coverage(line) * np.float32(0.8), mix(look.lips, INK, 0.7), box)
    if opening > 0.004:
        gap = np.maximum(arch(x, y, inner, 0.35 * opening), arch(x, -y, inner, opening))
        inside = canvas.coverage(gap)
        canvas.paint(inside, MOUTH, box)
        teeth = canvas.coverage(y - np.float32(0.22 * opening)) * inside
        canvas.paint(teeth, TEETH, box)


def paint_beard(canvas: Canvas, look: Look, face: Plane) -> None:
    """A beard below a curve that rises to the ears, and a moustache; most people have neither."""
    person, pose = look.person, look.pose
    colour = mix(look.hair, look.skin, 0.15)
    if person.beard > 0:
        top = look.mouth_y - 0.02 + person.beard_height - 0.25
        rising = np.float32(top) - np.float32(1.1) * pose.u * pose.u - pose.v
        beard = canvas.coverage(rising, softness=3.0) * face
        canvas.paint(beard * np.float32(0.35 + 0.6 * person.beard), colour)
    if person.moustache > 0:
        height = 0.5 * (look.mouth_y + look.nose_y) + 0.03
        width = 0.9 * person.mouth_width + 0.05
        box = pose.box(0.0, height, 1.3 * width)
        x = pose.u[box] - np.float32(0.05 * pose.sin_yaw)
        y = pose.v[box] - np.float32(height) - np.float32(0.9) * x * x
        hair = block(x, y, width, 0.055, corner=0.05)
        canvas.paint(canvas.coverage(hair) * np.float32(0.3 + 0.65 * person.moustache), colour, box)


def paint_marks(canvas: Canvas, look: Look) -> None:
    """Blush, freckles and a mole."""
    person, pose = look.person, look.pose
    height = 0.5 * (look.nose_y + look.mouth_y) - 0.04
    for side in (-1.0, 1.0):
        box = pose.box(side * 0.62 * person.face_width, height, 0.22)
        x = pose.u[box] - np.float32(side * 0.62 * person.face_width)
        y = pose.v[box] - np.float32(height)
        cheek = canvas.coverage(ellipse(x, y, 0.13, 0.10), softness=5.0)
        canvas.paint(cheek * np.float32(person.blush), (0.95, 0.34, 0.35), box)
    if person.freckles > 0:
        box = pose.box(0.0, height - 0.12, 0.42)
        x, y = pose.u[box], pose.v[box] - np.float32(height - 0.12)
        x, y = x * np.float32(11), y * np.float32(11)
        column, row = np.floor(x), np.floor(y)
        stray = column * np.float32(0.7549) + row * np.float32(0.5698)  # a dot's place in its cell
        stray = (stray - np.floor(stray) - np.float32(0.5)) * np.float32(0.5)
        dot = ellipse(
            x - column - np.float32(0.5) - stray, y - row - np.float32(0.5) + stray, 0.2, 0.2
        )
        cheeks = canvas.coverage(
            ellipse(x * np.float32(1 / 11), y * np.float32(1 / 11), 0.36, 0.11), softness=3.0
        )
        dots = canvas.coverage(dot * np.float32(1 / 11)) * cheeks
        canvas.paint(dots * np.float32(0.2 + 0.5 * person.freckles), mix(look.skin, INK, 0.45), box)
    if person.mole_size > 0.012:
        box = pose.box(person.mole_across, person.mole_down, 2 * person.mole_size)
        x = pose.u[box] - np.float32(person.mole_across)
        y = pose.v[box] - np.float32(person.mole_down)
        mole = canvas.coverage(ellipse(x, y, person.mole_size, person.mole_size))
        canvas.paint(mole * np.float32(0.85), mix(look.skin, INK, 0.8), box)
