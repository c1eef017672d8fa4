"""`check`: looks through whatever faces lie at a path, as a run or a pack would meet them."""

from pathlib import Path

from data_pipeline.addresses import is_address
from data_pipeline.checking.datasets import check_dataset
from data_pipeline.checking.report import Report
from data_pipeline.checking.sets import check_folder, check_tars
from data_pipeline.errors import DataError
from data_pipeline.index import INDEX, Dataset
from data_pipeline.index_file import read_index
from data_pipeline.reindex import tars_of
from data_pipeline.remote import Remote


def check(
    source: str,
    *,
    workers: int = 1,
    remote: Remote | None = None,
    show_progress: bool = False,
) -> Report:
    """Check a dataset, tars (a folder, a list, an address) or a folder of images.

    Args:
        source: a path, or an address that `facescale data index` understands
        workers: processes that read and decode
        remote: opens addresses; by default as this machine is set up
        show_progress: whether to draw a bar on a terminal

    Raises:
        DataError: there is nothing to check at `source`.
    """
    remote = remote or Remote.of_node()
    if is_address(source) or not Path(source).is_dir():
        tars = tars_of(source, remote=remote)
        return check_tars(tars, source, remote=remote, workers=workers, show_progress=show_progress)
    folder = Path(source)
    damaged: str | None = None
    if (folder / INDEX).exists():
        try:
            dataset = Dataset(path=folder, **read_index(folder))
        except DataError as error:
            damaged = str(error)
        else:
            return check_dataset(dataset, workers=workers, show_progress=show_progress)
    if any(folder.glob("*.tar")):
        tars = tars_of(source, remote=remote)
        report = check_tars(
            tars, source, remote=remote, workers=workers, show_progress=show_progress
        )
    elif damaged is None:
        report = check_folder(source, workers=workers, show_progress=show_progress)
    else:
        report = Report(path=source, form="dataset")
    if damaged is not None:
        report.findings.add("index_damaged", str(folder / INDEX), detail=damaged)
    return report
