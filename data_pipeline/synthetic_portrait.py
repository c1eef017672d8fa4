"""Paint one portrait from the back to the front, and photograph it."""

import numpy as np
from jaxtyping import UInt8

from data_pipeline.synthetic_camera import photograph
from data_pipeline.synthetic_canvas import Canvas
from data_pipeline.synthetic_features import (
    paint_beard,
    paint_brow,
    paint_eye,
    paint_marks,
    paint_mouth,
    paint_nose,
)
from data_pipeline.synthetic_look import look
from data_pipeline.synthetic_pose import Pose
from data_pipeline.synthetic_scene import (
    COVER_SHARE,
    GLASSES_SHARE,
    HAT_SHARE,
    backdrop_colour,
    paint_backdrop,
    paint_body,
    paint_cover,
    paint_ears,
    paint_fringe,
    paint_glasses,
    paint_hair_behind,
    paint_hat,
    paint_skin,
)
from data_pipeline.synthetic_traits import Conditions, Traits


def portray(
    person: Traits, scene: Conditions, *, size: int, noise_key: tuple[int, ...]
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """This person under these conditions, painted from the back to the front."""
    pose = Pose(scene, size=size)
    canvas = Canvas(size, pixel=pose.pixel, colour=backdrop_colour(scene))
    face_look = look(person, scene, pose)
    paint_backdrop(canvas, face_look)
    dome = paint_hair_behind(canvas, face_look)
    paint_body(canvas, face_look)
    paint_ears(canvas, face_look)
    skin = paint_skin(canvas, face_look)
    paint_marks(canvas, face_look)
    paint_beard(canvas, face_look, skin)
    for side in (-1.0, 1.0):
        paint_eye(canvas, face_look, side)
        paint_brow(canvas, face_look, side)
    paint_nose(canvas, face_look)
    paint_mouth(canvas, face_look)
    paint_fringe(canvas, face_look, dome)
    if scene.glasses < GLASSES_SHARE:
        paint_glasses(canvas, face_look)
    if scene.hat < HAT_SHARE:
        paint_hat(canvas, face_look)
    if scene.cover < COVER_SHARE:
        paint_cover(canvas, face_look)
    return photograph(canvas, pose, scene, key=noise_key)
