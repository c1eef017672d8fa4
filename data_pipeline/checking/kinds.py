"""The kinds of faults that a check can find: how bad each is, what it means, what to do about it.

An *error* stops a run, costs it a sample, or shows that files are not what they were; a *warning*
is something to know that training survives.
"""

from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Kind(NamedTuple):
    """One kind of fault, in words."""

    severity: Severity
    meaning: str
    remedy: str


_COPY = "copy the file again, or repair with --fix"
_PACK = "leave the image out or replace it; --fix leaves it out"
_NAME = "write the tar again with one image and one label a key; --fix leaves the sample out"

KINDS: dict[str, Kind] = {
    # a dataset's files
    "index_damaged": Kind("error", "index.json cannot be used", "copy it again, or index anew"),
    "missing_file": Kind("error", "a file is not there", _COPY),
    "size_changed": Kind("error", "a file has another size than the index names", _COPY),
    "content_changed": Kind("error", "a file has another sha256 than the index names", _COPY),
    "records_damaged": Kind("error", "a shard's records of its members cannot be used", _COPY),
    "unreadable_file": Kind("error", "a file cannot be read", "look at its disk and permissions"),
    "stray_file": Kind("warning", "a file of a shard that the index does not name", "remove it"),
    # a tar
    "damaged_tar": Kind("error", "a tar is cut, damaged, compressed or none", _COPY),
    "no_samples": Kind("warning", "a tar without one usable sample", "leave it out"),
    "directories": Kind("warning", "directories in a tar, passed over", "none needed"),
    "links": Kind("warning", "links in a tar, never followed", "store the files themselves"),
    "devices": Kind("warning", "devices in a tar, never opened", "find out who made this tar"),
    "others": Kind("warning", "members of unknown types in a tar, passed over", "none needed"),
    "unequal_shards": Kind(
        "warning", "shards of very unequal size", "pack again for shards of one size"
    ),
    # the members of a sample
    "dotted_name": Kind(
        "error",
        "names with several dots: all after the first counts as the suffix, so they are not read",
        "rename them; --fix --to writes them with other characters instead of dots",
    ),
    "repeated_member": Kind("error", "a key has two members of one kind", _NAME),
    "several_images": Kind("error", "a key has several images", _NAME),
    "no_image": Kind("error", "a label without an image", _NAME),
    "no_label": Kind("error", "an image without a label", _NAME),
    "duplicate_key": Kind("error", "one key for samples apart in one tar", _NAME),
    "duplicate_key_across": Kind(
        "warning", "the same keys in several tars", "see whether a tar is there twice"
    ),
    # labels
    "bad_label": Kind("error", "a label that is no number and no name", _PACK),
    "negative_label": Kind("error", "a negative label", _PACK),
    "label_out_of_range": Kind("error", "a label that the dataset does not have", _PACK),
    "label_differs": Kind("error", "a tar names another label than the index", _COPY),
    "mixed_labels": Kind(
        "warning", "some labels are numbers and some names", "write all of them in one way"
    ),
    # images
    "not_an_image": Kind("error", "no JPEG, PNG or WebP", _PACK),
    "undecodable": Kind("error", "an image that cannot be decoded", _PACK),
    "oversized": Kind("error", "an image too large to be decoded", _PACK),
    "too_large": Kind("error", "a file too large to be an image of a face", _PACK),
    "unreadable": Kind("error", "an image that cannot be read", _PACK),
    "crc": Kind("error", "the bytes of an image have changed since it was packed", _COPY),
    "size_differs": Kind(
        "error", "an image of another size than the dataset's", "pack again; --fix leaves it out"
    ),
    "cmyk": Kind("warning", "images in CMYK, whose colours are a guess", "pack them: RGB"),
    "sixteen_bit": Kind("warning", "images of more than 8 bits a channel", "pack them: 8 bits"),
    # index and tar
    "misplaced": Kind("error", "no member begins where the index says", "index again, or --fix"),
    "unindexed": Kind("warning", "samples of a tar that the index does not name", "index again"),
    "left_out": Kind("warning", "samples that the index has left out already", "none needed"),
    # tables
    "identities_disagree": Kind(
        "error", "identities.parquet disagrees with the index", "copy it again, or --fix"
    ),
    "empty_identity": Kind(
        "warning", "identities without an image", "pack again to be rid of them"
    ),
    "tables_disagree": Kind("error", "a table that names samples cannot be used", "import again"),
    # a folder of images
    "folder_refused": Kind("error", "a folder that cannot be packed", "do what its line says"),
    "ignored_files": Kind("warning", "files that are passed over", "none needed"),
    "empty_folders": Kind("warning", "folders without an image", "none needed"),
}
