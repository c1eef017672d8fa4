"""How alike two aligned faces are, from a file that `facescale export` wrote.

    python compare_faces.py network.onnx first.jpg second.jpg

Prints the cosine of their embeddings: compare it with the threshold that `facescale verify` found.
Needs onnxruntime, numpy and pillow; nothing of facescale, and no torch.
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image


class Embedder:
    """The file in onnxruntime. Everything it needs to know of faces stands in the file."""

    def __init__(self, file: str, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(file, options)
        known = self.session.get_modelmeta().custom_metadata_map
        self.size = int(known["image_width"]), int(known["image_height"])
        if (known["channel_order"], known["pixel_normalisation"]) != (
            "RGB",
            "(x - 127.5) / 127.5",
        ):
            raise ValueError(f"{file} wants its faces in another form than this program makes")

    def __call__(self, faces: list[Image.Image]) -> np.ndarray:
        """A row of length 1 for each aligned face; any number of faces at once."""
        pixels = [np.asarray(face.convert("RGB").resize(self.size)) for face in faces]
        image = (np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
        (embedding,) = self.session.run(["embedding"], {"image": image})
        return embedding / np.linalg.norm(embedding, axis=1, keepdims=True)


def main(file: str, *paths: str) -> None:
    """Print the cosine of two faces."""
    first, second = Embedder(file)([Image.open(path) for path in paths])
    sys.stdout.write(f"{first @ second:.4f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
