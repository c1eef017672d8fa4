"""One door for all kinds of verification sets."""

from pathlib import Path
from typing import Literal, TypedDict

from data_pipeline.alignment import Alignment
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.verification_sets.bin_file import pack_bin
from data_pipeline.verification_sets.ijb import read_ijb
from data_pipeline.verification_sets.pair_lists import ListForm, pack_pair_list
from data_pipeline.verification_sets.probe_set import pack_megaface
from data_pipeline.verification_sets.template_set import pack_templates
from data_pipeline.verification_sets.ytf import read_ytf

Kind = Literal[ListForm, "bin", "ytf", "ijb", "megaface"]


def import_verification_set(
    kind: Kind,
    source: Path | str,
    dest: Path | str,
    *,
    images: Path | str | None = None,
    alignment: Alignment | None = None,
    seed: int = 0,
    workers: int = 1,
    show_progress: bool = False,
) -> tuple[Dataset, dict[str, int]]:
    """Pack a set; the dataset written, and how many pairs, templates or probes go with it.

    `images` is the folder that paths are relative to, the one above `source` if it is None. An
    `alignment` brings faces upright; it must keep those without landmarks, for a set is fixed.

    Raises:
        DataError: the set cannot be read or packed, or one that holds its images is given `images`,
            or one that holds upright ones an `alignment`.
    """
    source = Path(source)
    options: _Options = {"seed": seed, "workers": workers, "show_progress": show_progress}
    if kind in ("bin", "megaface") and images is not None:
        raise DataError(f"a set of the kind {kind} holds its images; name no folder of images")
    if kind == "bin" and alignment is not None:
        raise DataError("a .bin holds faces that are upright already; name no landmarks")
    folder = source.resolve().parent if images is None else Path(images)
    match kind:
        case "bin":
            pairs = pack_bin(source, dest, **options)
        case "megaface":
            probes = pack_megaface(source, dest, alignment=alignment, **options)
            return probes.dataset, {
                "probes": len(probes.probe),
                "distractors": len(probes.distractor),
            }
        case "ytf" | "ijb":
            protocol = read_ijb(source) if kind == "ijb" else read_ytf(source, folder)
            templates = pack_templates(protocol, folder, dest, alignment=alignment, **options)
            return templates.dataset, {
                "templates": len(templates.names),
                "template_pairs": len(templates.same),
            }
        case _:
            pairs = pack_pair_list(source, kind, folder, dest, alignment=alignment, **options)
    return pairs.dataset, {"pairs": len(pairs.same)}


class _Options(TypedDict):
    seed: int
    workers: int
    show_progress: bool
