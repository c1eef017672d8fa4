import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import local, processes
from cluster.errors import ClusterError
from cluster.local import NAMED_PORTS, LocalCluster

PORTS: dict[str, int] = dict(zip(NAMED_PORTS, range(20_000, 20_100), strict=False))


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("FACESCALE_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def cluster(tmp_path):
    """A record of a cluster whose processes have ended and whose pids are reused: by us."""
    me = processes.find(os.getpid())
    assert me is not None
    reused = replace(me, started=me.started - 1)
    (tmp_path / "session").mkdir()
    return LocalCluster(
        keeper=reused,
        daemons=(reused,),
        ports=PORTS,
        token_path=str(tmp_path / "token"),
        session=str(tmp_path / "session"),
        cpus=2,
        gpus=0,
        started=1.5,
    )


def test_the_state_reads_back(cluster):
    assert local.current() is None
    local._save(cluster)
    assert local.current() == cluster


def test_state_and_token_are_for_their_owner_only(cluster, state):
    local._save(cluster)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "local.json").stat().st_mode) == 0o600


def test_the_state_folder_follows_xdg_where_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("FACESCALE_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert local.state_folder() == tmp_path / "xdg" / "facescale"


def test_down_after_a_reboot_ends_nothing_of_what_has_the_pids_now(cluster, state):
    local._save(cluster)
    assert local.down() == []
    assert local.current() is None
    assert not Path(cluster.session).exists()


def test_down_without_a_cluster_is_no_error():
    assert local.down() == []


def test_a_cluster_whose_processes_are_gone_is_not_healthy(cluster):
    assert not cluster.healthy()


def test_a_token_that_was_removed_says_what_to_do(cluster):
    with pytest.raises(ClusterError, match="cluster down"):
        local.read_token(cluster)


def test_ray_is_kept_on_loopback_by_every_door(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    told = local.environment(PORTS, tmp_path / "token")
    assert told["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert told["RAY_AUTH_MODE"] == "token"
    assert told["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert told["RAY_USAGE_STATS_ENABLED"] == "0"
    assert "RAY_ADDRESS" not in told
    words = local.command(PORTS, range(20_100, 20_110), cpus=3, gpus=0, session=tmp_path)
    assert "--node-ip-address=127.0.0.1" in words
    assert "--dashboard-host=127.0.0.1" in words
    assert "--min-worker-port=20100" in words
    assert "--max-worker-port=20109" in words
    assert "--num-cpus=3" in words
    for name, port in PORTS.items():
        told_as = [w for w in [*words, *told.values()] if w.split("=")[-1] == str(port)]
        assert told_as, f"the port of {name} is Ray's default"
