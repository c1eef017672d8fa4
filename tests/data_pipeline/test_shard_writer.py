import io

from webdataset.writer import TarWriter

from data_pipeline.shard_writer import ShardWriter
from tests.data_pipeline.pictures import contents

SIZES = (0, 1, 511, 512, 513, 7_000, 100_000)


def samples(count):
    for number in range(count):
        yield bytes([number % 251]) * SIZES[number % len(SIZES)], 10 ** (number % 10)


def test_a_shard_is_byte_for_byte_what_webdataset_writes(tmp_path):
    with ShardWriter(tmp_path, shard_bytes=1 << 30) as writer:
        for content, label in samples(30):
            writer.add(content, label=label)
    theirs = io.BytesIO()
    tar = TarWriter(
        theirs, user="facescale", group="facescale", encoder=False, mtime=0, compress=False
    )
    for number, (content, label) in enumerate(samples(30)):
        tar.write({"__key__": f"{number:09d}", "cls": str(label).encode(), "jpg": content})
    tar.close()
    assert (tmp_path / "shard-000000.tar").read_bytes() == theirs.getvalue()


def test_a_writer_that_goes_on_after_finished_shards_writes_the_same_files(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        folder.mkdir()
    done = []
    with ShardWriter(
        whole,
        shard_bytes=150_000,
        on_complete=lambda shard: done.append((shard, writer.num_samples)),
    ) as writer:
        for content, label in samples(30):
            writer.add(content, label=label)
    assert [shard for shard, _ in done] == writer.shards
    first = [shard for shard, _ in done[:2]]
    for shard in first:
        for name in shard.files():
            (halves / name).write_bytes((whole / name).read_bytes())
    with ShardWriter(halves, shard_bytes=150_000, finished=first) as second:
        for content, label in list(samples(30))[done[1][1] :]:
            second.add(content, label=label)
    assert second.shards == writer.shards
    assert contents(halves) == contents(whole)
