"""`facescale data browse`: looking at a dataset, on this machine and by one person."""

import json as json_text
import sys
from pathlib import Path

from tyro.conf import Positional

from cluster.console import errors_in_one_line
from cluster.errors import ClusterError, Exit


@errors_in_one_line
def browse(
    dataset: Positional[Path],
    /,
    *,
    names: bool = False,
    image_size: int | None = None,
    port: int = 0,
    json: bool = False,
) -> int:
    """Show a dataset in the browser: identities, images, and what training makes of them.

    Prints a link that works once, in one browser of this machine, and serves until Ctrl-C. From
    another machine, forward the port first: `ssh -L PORT:127.0.0.1:PORT HOST`.

    Args:
        dataset: a dataset that `pack`, `index` or `synth` made, or a verification set
        names: show the names of identities, and search by them
        image_size: side of the faces that the network sees; by default the dataset's own, or 112
        port: to listen on, on 127.0.0.1; by default a free one
        json: print the link as JSON
    """
    from cluster.browse.server import serve
    from data_pipeline.addresses import is_address

    if is_address(str(dataset)) and not dataset.exists():
        raise ClusterError(
            "an address cannot be shown; make a dataset of what lies there first: "
            "facescale data index ADDRESS FOLDER"
        )
    if image_size is not None and not 16 <= image_size <= 512:
        raise ClusterError(f"--image-size is {image_size}; it must be from 16 to 512")
    if not 0 <= port <= 65535:
        raise ClusterError(f"--port is {port}; it must be from 0 to 65535")

    def ready(link: str) -> None:
        text = json_text.dumps({"link": link}) if json else f"{link}\nOpen it; Ctrl-C ends it."
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    serve(dataset, port=port, with_names=names, image_size=image_size, ready=ready)
    return Exit.OK
