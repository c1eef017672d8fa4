import numpy as np
import pytest

from data_pipeline.align import FACE_112
from data_pipeline.alignment import Alignment
from data_pipeline.errors import DataError
from data_pipeline.pairs import PairSet
from data_pipeline.verification_sets.importing import import_verification_set
from data_pipeline.verification_sets.template_set import TemplateSet
from tests.data_pipeline.pictures import jpeg


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate("123"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(seed, 200))
    return tmp_path


def points(scale: float) -> str:
    return " ".join(f"{value:.3f}" for value in (FACE_112 * scale).ravel())


def test_a_list_is_aligned_and_a_face_without_points_stays(folder):
    (folder / "list.txt").write_text("1 1.jpg 2.jpg\n0 1.jpg 3.jpg\n")
    (folder / "points.txt").write_text(f"1.jpg {points(1.5)} 1\n2.jpg {points(1.0)} 1\n")
    alignment = Alignment.of_file(folder / "points.txt", without_landmarks="keep")
    dataset, counts = import_verification_set(
        "flagged", folder / "list.txt", folder / "set", alignment=alignment
    )
    assert (dataset.image_size, dataset.num_samples, counts) == ((112, 112), 3, {"pairs": 2})
    assert np.array_equal(PairSet.open(folder / "set").same, [True, False])


def test_the_file_of_scores_of_ijb_is_its_file_of_landmarks(folder):
    meta = folder / "meta"
    meta.mkdir()
    (meta / "ijbb_face_tid_mid.txt").write_text("1.jpg 1 1\n2.jpg 1 2\n3.jpg 2 3\n")
    scores = "".join(f"{i}.jpg {points(1.2)} 0.9\n" for i in (1, 2, 3))
    (meta / "ijbb_name_5pts_score.txt").write_text(scores)
    (meta / "ijbb_template_pair_label.txt").write_text("1 2 0\n")
    alignment = Alignment.of_file(
        meta / "ijbb_name_5pts_score.txt", crop="112x96", without_landmarks="keep"
    )
    dataset, counts = import_verification_set(
        "ijb", meta, folder / "set", images=folder, alignment=alignment
    )
    assert dataset.image_size == (112, 96)
    assert counts == {"templates": 2, "template_pairs": 1}
    assert TemplateSet.open(folder / "set").template.tolist() == [0, 0, 1]


def test_a_set_refuses_to_lose_faces_and_a_bin_to_be_aligned(folder):
    (folder / "points.txt").write_text(f"1.jpg {points(1.5)} 1\n")
    (folder / "list.txt").write_text("1 1.jpg 2.jpg\n")
    drops = Alignment.of_file(folder / "points.txt", without_landmarks="drop")
    keeps = Alignment.of_file(folder / "points.txt", without_landmarks="keep")
    with pytest.raises(DataError, match="keeps images without landmarks"):
        import_verification_set("flagged", folder / "list.txt", folder / "set", alignment=drops)
    with pytest.raises(DataError, match=r"a \.bin holds faces that are upright already"):
        import_verification_set("bin", folder / "x.bin", folder / "set", alignment=keeps)
