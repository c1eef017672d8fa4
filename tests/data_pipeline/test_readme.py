"""The README's example runs as it stands, and what it says of the files is enough to read them."""

import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

from pyarrow import parquet

from data_pipeline.pack import pack
from tests.data_pipeline.pictures import people, write_folder

ROOT = Path(__file__).parents[2]

ENDING = """
        assert image.shape == (64, 3, 112, 112) and str(image.dtype) == "torch.float32"
        assert image.isfinite().all() and 0.2 < image.std() < 2  # not 0..255, not all one grey
        assert label.shape == sample.shape == (64,)
    break
loader.close()
import sys
print(sorted({name.partition(".")[0] for name in sys.modules} & {"trainer", "cluster", "ray"}))
"""


def test_the_example_iterates_batches_with_data_pipeline_alone(tmp_path):
    code = re.search(
        r"```python\n(.*?)```", (ROOT / "data_pipeline" / "README.md").read_text(), re.S
    )
    assert code is not None
    assert len(code[1].splitlines()) <= 16
    main = code[1].replace("        ...\n", ENDING).replace("workers=8", "workers=1")
    (tmp_path / "example.py").write_text(main)
    write_folder(tmp_path / "faces", people({"ann": 40, "bob": 30}).images)
    answer = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (0, "[]\n"), answer.stderr


def test_a_reader_that_knows_only_the_table_finds_every_face(tmp_path):
    source = people({"ann": 5, "bob": 4})
    pack(source, tmp_path / "packed", shard_bytes=8_000)
    index = json.loads((tmp_path / "packed" / "index.json").read_text())
    found = []
    for shard in index["shards"]:
        tar = (tmp_path / "packed" / f"{shard['name']}.tar").read_bytes()
        records = (tmp_path / "packed" / f"{shard['name']}.members").read_bytes()
        for offset, size, crc32, label in struct.iter_unpack("<QIIq", records):
            content = tar[offset : offset + size]
            assert zlib.crc32(content) == crc32
            found.append((label, content))
    table = parquet.read_table(tmp_path / "packed" / "identities.parquet").to_pylist()
    names = {row["label"]: row["name"] for row in table}
    assert sorted((names[label], content) for label, content in found) == sorted(
        (identity, content) for (identity, _), content in source.images.items()
    )
    assert {row["name"]: row["images"] for row in table} == {"ann": 5, "bob": 4}
