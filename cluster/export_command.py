"""`facescale export`: a trained network as an ONNX file."""

from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from cluster.console import errors_in_one_line, show
from cluster.errors import Exit


@errors_in_one_line
def export(
    source: Positional[str],
    dest: Positional[Path],
    /,
    *,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    normalise: bool = False,
    faces: Path | None = None,
    most_faces: int = 256,
    weights: Path | None = None,
    image_size: int | None = None,
    embedding_dim: int | None = None,
    threads: int = 1,
    json: bool = False,
) -> int:
    """Write a network as an ONNX file for any batch size, and check it with onnxruntime.

    BatchNorm is folded, and how faces are to be given stands in the file. Nothing is written unless
    its embeddings are those of torch, within 1e-4 in cosine distance (fp16 1e-3; what int8 costs is
    printed).

    Args:
        source: a run folder, one of its checkpoints, or the name of a backbone
        dest: the file to write; must not exist yet
        precision: of weights and maps; int8 is static quantisation, calibrated with faces
        normalise: give embeddings the length 1
        faces: a dataset or verification set to compare on and to calibrate int8 with, if not the
            run's own training set
        most_faces: how many of its faces are read
        weights: of a backbone given by name: a safetensors file; unset draws first weights
        image_size: of a backbone given by name: side of its faces
        embedding_dim: of a backbone given by name: numbers in an embedding
        threads: CPU threads
        json: print the result as JSON
    """
    from trainer.errors import RunError, RunFileError

    if min(most_faces, threads) < 1:
        raise RunFileError("--most-faces and --threads are at least 1")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise RunError(
            f"{error.name} is not installed; install facescale with its export packages: "
            "pip install 'facescale[export]'"
        ) from error
    from tqdm import tqdm

    from data_pipeline.index import Dataset
    from trainer.export.export import STAGES, export
    from trainer.export.source import from_name, from_run

    if "/" in source and not Path(source).is_dir():
        raise RunError(f"there is no folder {source}; give a run folder or a backbone's name")
    if Path(source).is_dir():
        if not (weights is image_size is embedding_dim is None):
            raise RunFileError(
                "--weights, --image-size and --embedding-dim are for a backbone given by name; "
                f"{source} is a folder"
            )
        chosen = from_run(Path(source))
    else:
        chosen = from_name(
            source, weights=weights, image_size=image_size, embedding_dim=embedding_dim
        )
    with tqdm(total=STAGES, bar_format="{desc}", disable=None, leave=False) as bar:
        result = export(
            chosen,
            dest,
            precision=precision,
            unit=normalise,
            dataset=None if faces is None else Dataset.open(faces),
            most_faces=most_faces,
            threads=threads,
            progress=bar.set_description_str,
        )
    show(result if json else _for_a_terminal(result), as_json=json)
    return Exit.OK


def _for_a_terminal(result: dict[str, Any]) -> dict[str, Any]:
    distances = {
        f"cosine distance to torch, {found['images']} of {name}": (
            f"mean {found['mean']:.1e}, worst {found['worst']:.1e}"
        )
        for name, found in result["cosine_distance"].items()
    }
    size = f"{result['bytes'] / 1e6:.2f} MB"
    kept = {n: v for n, v in result.items() if n not in ("bytes", "cosine_distance", "precision")}
    return {**kept, "size": size, **distances}
