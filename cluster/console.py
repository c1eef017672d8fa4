"""How verbs speak: results as text or JSON on stdout, one line of error on stderr."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec

from cluster.errors import ClusterError, Exit
from data_pipeline.errors import DataError
from trainer.errors import RunError, RunFileError

P = ParamSpec("P")


def errors_in_one_line(verb: Callable[P, int]) -> Callable[P, int]:
    """Turn the errors that a user can mend into one line on stderr and an exit code."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return verb(*args, **kwargs)
        except ClusterError as error:
            return complain(error, code=error.code)
        except RunFileError as error:
            return complain(error, code=Exit.USAGE)
        except (DataError, RunError) as error:
            return complain(error, code=Exit.FAILED)

    return run


def complain(error: Exception, *, code: int) -> int:
    """Say what is wrong on stderr; the exit code."""
    sys.stderr.write(f"facescale: {error}\n")
    return code


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result: JSON for scripts, aligned names and values for people."""
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    width = max(map(len, result), default=0)
    for name, value in result.items():
        sys.stdout.write(f"{name.replace('_', ' '):<{width}}  {_text(value)}\n")


def _text(value: Any) -> str:
    match value:
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return ", ".join(map(_text, value)) or "none"
        case dict():
            return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or "none"
        case None | "":
            return "-"
        case _:
            return str(value)
