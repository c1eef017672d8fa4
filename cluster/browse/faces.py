"""The page of one image: where it lies, and what training makes of it, epoch by epoch."""

from bisect import bisect_right

from cluster.browse.layout import cards, choice_field, heading, neighbours, number_field, picture
from cluster.browse.links import Treatment
from cluster.browse.shown import Shown
from data_pipeline.browse_changes import changes, parameters_of
from data_pipeline.errors import DataError
from data_pipeline.jpeg import UnreadableImage
from data_pipeline.presets import PRESETS
from data_pipeline.shards import BadSampleError
from trainer.report_html import Html, section, tag
from trainer.report_tables import size

EPOCHS = 12  # beside each other
REASONS = {
    "read": "its file cannot be read",
    "crc": "its bytes changed since it was packed",
    "label": "its label does not exist",
    "decode": "it is no image that can be decoded",
    "oversized": "it has too many pixels",
    "shard": "its shard cannot be read",
}


def face(shown: Shown, sample: int, treatment: Treatment) -> bytes:
    """An image as it is stored, in the epochs of a run, and with every preset."""
    shard, number = _place(shown, sample)
    label = int(shown.dataset.members(shard)["label"][number])
    exists = 0 <= label < shown.dataset.num_identities
    up = [tag("a", "Identities", href=shown.links.identities())]
    if exists:
        up.append(tag("a", shown.caption(label), href=shown.links.identity(label)))
    facts = [
        ("Identity", shown.caption(label) if exists else f"{label}, which does not exist"),
        ("Lies in", f"shard {shard}, number {number} there"),
    ]
    try:
        read = shown.pictures.read(sample)
    except (BadSampleError, DataError) as error:
        return shown.frame.page(
            f"Image {sample}",
            heading(f"Image {sample}", path=up),
            tag("p", f"This image cannot be used: {reason(error)}.", class_="panel bad"),
            _facts(facts),
        )
    height, width, _ = read.pixels.shape
    facts += [("Height x width", f"{height} x {width}"), ("Stored", size(float(read.stored_bytes)))]
    return shown.frame.page(
        f"Image {sample}",
        heading(f"Image {sample}", path=up),
        tag(
            "div",
            picture(shown.links.thumbnail(sample), f"Image {sample} as it is stored"),
            _facts(facts),
            class_="stored",
        ),
        _others(shown, sample, label, treatment) if exists else Html(),
        section("As the network sees it", _form(shown, sample, treatment)),
        _epochs(shown, sample, treatment),
        section(f"With every preset, in epoch {treatment.epoch}"),
        _presets(shown, sample, treatment),
    )


def reason(error: BadSampleError | DataError) -> str:
    """Why an image cannot be shown, in words that have nothing of the dataset's names."""
    if isinstance(error, BadSampleError):
        return REASONS[error.reason]
    return REASONS["decode" if isinstance(error, UnreadableImage) else "shard"]


def _place(shown: Shown, sample: int) -> tuple[int, int]:
    """The shard of a sample, and its number there."""
    shards = shown.dataset.shards
    number = bisect_right(shards, sample, key=lambda shard: shard.first_sample) - 1
    return number, sample - shards[number].first_sample


def _others(shown: Shown, sample: int, label: int, treatment: Treatment) -> Html:
    """The way to the identity's images before and after."""
    samples = shown.album.samples(label).tolist()
    place = samples.index(sample)
    before, after = samples[:place][-1:], samples[place + 1 :][:1]
    return neighbours(
        "Image",
        shown.links.face(before[0], treatment) if before else None,
        shown.links.face(after[0], treatment) if after else None,
    )


def _facts(facts: list[tuple[str, str | Html]]) -> Html:
    rows = [part for name, value in facts for part in (tag("dt", name), tag("dd", value))]
    return tag("dl", *rows, class_="panel")


def _form(shown: Shown, sample: int, treatment: Treatment) -> Html:
    presets = [(name, name) for name in PRESETS]
    return tag(
        "form",
        choice_field("Augmentation", "preset", presets, treatment.preset),
        number_field("From epoch", "epoch", treatment.epoch),
        number_field("Seed", "seed", treatment.seed),
        tag("button", "Show"),
        action=shown.links.face(sample),
        class_="panel",
    )


def _epochs(shown: Shown, sample: int, treatment: Treatment) -> Html:
    epochs = range(treatment.epoch, treatment.epoch + EPOCHS)
    return cards(
        [
            _view(shown, sample, treatment._replace(epoch=epoch), f"Epoch {epoch}")
            for epoch in epochs
        ],
        width="roomy",
    )


def _presets(shown: Shown, sample: int, treatment: Treatment) -> Html:
    views = [_view(shown, sample, treatment._replace(preset=name), name) for name in PRESETS]
    return cards(views, width="roomy")


def _view(shown: Shown, sample: int, treatment: Treatment, title: str) -> Html:
    done = changes(parameters_of(sample, **treatment._asdict())) or ["unchanged"]
    description = f"Preset {treatment.preset}, epoch {treatment.epoch}: {', '.join(done)}"
    return tag(
        "div",
        picture(shown.links.view(sample, treatment), description),
        tag("p", tag("b", title), *(tag("span", words, class_="change") for words in done)),
        class_="card",
    )
