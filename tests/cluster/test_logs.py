import json

from cluster.logs import Line, Sources, write


def test_lines_come_once_and_only_when_whole(tmp_path):
    (tmp_path / "logs").mkdir()
    driver, rank = tmp_path / "logs" / "driver.log", tmp_path / "logs" / "rank-00000.log"
    sources = Sources(tmp_path, rank=None)
    assert not sources.any()
    assert sources.new_lines() == []
    driver.write_text("attempt 0\n")
    rank.write_text("step 1\nstep")
    assert sources.any()
    assert sources.new_lines() == [Line("driver", "attempt 0"), Line("rank 0", "step 1")]
    rank.write_text("step 1\nstep 2\n")
    assert sources.new_lines() == [Line("rank 0", "step 2")]


def test_one_rank_s_log_is_read_alone(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "driver.log").write_text("attempt 0\n")
    (tmp_path / "logs" / "rank-00012.log").write_bytes(b"caf\xe9\n")
    assert Sources(tmp_path, rank=12).new_lines() == [Line("rank 12", "caf�")]


def test_a_line_is_printed_with_its_source(capsys):
    write(Line("rank 3", "step 1"), as_json=False)
    write(Line("rank 3", 'a "b"'), as_json=True)
    text, as_json = capsys.readouterr().out.splitlines()
    assert text == "rank 3 | step 1"
    assert json.loads(as_json) == {"source": "rank 3", "text": 'a "b"'}
