"""Compiled updates: torch's bits for every optimizer, dtype and width; a build nobody can spoil."""

import ctypes
import logging
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sharded_fc import native, native_code
from sharded_fc.initial import initial_rows
from sharded_fc.native_build import SWITCH, Native
from sharded_fc.native_code import HEAD, library
from sharded_fc.optimizer import Optimizer
from sharded_fc.storage import RowSlice
from tests.sharded_fc.test_optimizer import OPTIMIZERS, as_bytes, rows_of, step_once


@pytest.fixture
def compiled(monkeypatch) -> ctypes.CDLL:
    monkeypatch.delenv(SWITCH, raising=False)
    code = library()
    if code is None:
        pytest.skip("no compiler, so no native code")
    return code


@pytest.fixture
def small(tmp_path) -> Native:
    """Sources that compile at once."""
    source = tmp_path / "small.cpp"
    source.write_text('extern "C" int answer() { return 42; }')
    return Native(name="small", user="the test runs", sources=(source,), headers=HEAD.headers)


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache folder of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "facescale"


def train(
    optimizer: Optimizer,
    centre_dtype: torch.dtype,
    state_dtype: torch.dtype,
    *,
    num_rows: int = 60,
    dim: int,
    along: bool = True,
) -> RowSlice:
    generator = torch.Generator().manual_seed(dim)
    centre = torch.randn(num_rows, dim, generator=generator).mul_(0.01).to(centre_dtype)
    rows = rows_of(optimizer, centre, state_dtype)
    for number in range(3):
        gradient = torch.randn(num_rows, dim, generator=generator)
        part = torch.randn(num_rows, generator=generator) if along else None
        step_once(optimizer, rows, gradient, along=part, step=torch.tensor(number))
    return rows


def in_both(monkeypatch, *arguments, **named) -> tuple[RowSlice, RowSlice]:
    made = []
    for switch in "10":
        monkeypatch.setenv(SWITCH, switch)
        made.append(train(*arguments, **named))
    return made[0], made[1]


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dim", [64, 511, 5])
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("centre_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_three_updates_have_torchs_bits(monkeypatch, optimizer, centre_dtype, state_dtype, dim):
    in_code, in_torch = in_both(monkeypatch, optimizer, centre_dtype, state_dtype, dim=dim)
    assert as_bytes(in_code) == as_bytes(in_torch)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gradient_without_a_part_along_the_row_has_torchs_bits(monkeypatch, optimizer):
    dtypes = (torch.bfloat16, torch.bfloat16)
    in_code, in_torch = in_both(monkeypatch, optimizer, *dtypes, dim=33, along=False)
    assert as_bytes(in_code) == as_bytes(in_torch)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("switch", ["1", "0"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gradient_of_two_bytes_is_taken_as_the_number_it_is(monkeypatch, optimizer, switch):
    monkeypatch.setenv(SWITCH, switch)
    gradient = torch.randn(40, 33).bfloat16()
    kept = []
    for given in (gradient, gradient.float()):
        centre = torch.linspace(-0.02, 0.02, 40 * 33).view(40, 33)
        rows = rows_of(optimizer, centre, torch.float32)
        step_once(optimizer, rows, given.clone(), along=torch.linspace(-1.0, 1.0, 40))
        kept.append(as_bytes(rows))
    assert kept[0] == kept[1]


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_at_the_edges_of_a_dtype_have_torchs_bits(monkeypatch, dtype):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    finite = every[every.isfinite()][: 32 * 1900].view(1900, 32)
    kept = []
    for switch in "10":
        monkeypatch.setenv(SWITCH, switch)
        rows = rows_of(OPTIMIZERS[0], finite.clone(), torch.float32)
        # Halves of units in the last place, subnormals of both kinds, sums past the largest.
        gradient = finite.float() * torch.linspace(-2e-2, 2e-2, 32)
        step_once(OPTIMIZERS[0], rows, gradient, learning_rate=0.7)
        kept.append(as_bytes(rows))
    assert kept[0] == kept[1]


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_that_are_none_stay_such(dtype):
    rows = rows_of(OPTIMIZERS[0], torch.zeros(1, 4).to(dtype), torch.float32)
    gradient = torch.tensor([[float("nan"), float("inf"), float("-inf"), 1.0]])
    step_once(OPTIMIZERS[0], rows, gradient, learning_rate=0.5)
    assert rows.centre[0, 0].isnan()
    assert rows.centre[0, 1:].tolist() == [float("-inf"), float("inf"), -0.5]


@pytest.mark.usefixtures("compiled")
def test_first_values_have_torchs_bits(monkeypatch):
    for start, dim in ((0, 512), (2**40, 7), (12345, 1)):
        made = []
        for switch in "10":
            monkeypatch.setenv(SWITCH, switch)
            made.append(
                initial_rows(
                    start, start + 200, embedding_dim=dim, seed=9, device=torch.device("cpu")
                )
            )
        assert torch.equal(*made)


@pytest.mark.usefixtures("compiled")
def test_the_number_of_threads_changes_no_bit():
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            rows = train(OPTIMIZERS[4], torch.bfloat16, torch.bfloat16, num_rows=301, dim=256)
            made.append(as_bytes(rows))
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1] == made[2]


@pytest.mark.usefixtures("compiled")
def test_rows_that_code_cannot_take_are_left_to_torch():
    centre, gradient = torch.zeros(4, 8), torch.ones(4, 16)[:, ::2]
    operands = native.Operands([centre], [0], 0, gradient, None)
    assert not native.update("sgd", operands, (0.1, 0.0, 0.0, 0.0))
    assert not centre.any()


def test_the_switch_turns_everything_off(monkeypatch):
    monkeypatch.setenv(SWITCH, "0")
    operands = native.Operands([torch.zeros(4, 8)], [0], 0, torch.ones(4, 8), None)
    assert library() is None
    assert not native.update("sgd", operands, (0.1, 0.0, 0.0, 0.0))
    number = torch.arange(2)
    assert not native.initial_rows(torch.empty(2, 3), number=number, seed_key=1, scale=1.0)


@pytest.mark.usefixtures("compiled")
def test_builders_at_once_leave_one_private_library_that_is_then_kept(small, cache):
    with ThreadPoolExecutor(2) as builders:
        built_at_once = list(builders.map(lambda _: small.load(), range(2)))
    assert [code and code.answer() for code in built_at_once] == [42, 42]
    (built,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(built.stat().st_mode) == 0o700
    written = built.stat().st_mtime_ns
    assert small.load() is not None
    assert built.stat().st_mtime_ns == written


def test_the_version_names_the_library_and_is_none_without_it(monkeypatch, compiled):
    assert Path(compiled._name).stem == f"head-{native_code.version()}"
    monkeypatch.setenv(SWITCH, "0")
    assert native_code.version() is None


def test_no_second_thread_library_is_loaded(compiled):
    linked = subprocess.run(
        ["readelf", "-d", compiled._name], check=True, capture_output=True, text=True
    ).stdout
    named = {line for line in linked.splitlines() if "NEEDED" in line and "omp" in line}
    maps = Path("/proc/self/maps").read_text()
    loaded = {line.split()[-1] for line in maps.splitlines() if "/libgomp" in line}
    assert len(named) == 1
    assert len(loaded) == 1


def refusals(small, caplog) -> list[str]:
    with caplog.at_level(logging.INFO, logger="sharded_fc.native_build"):
        assert small.load() is None
    return [record.getMessage() for record in caplog.records]


def test_without_a_compiler_one_line_says_so(small, cache, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(cache))
    assert refusals(small, caplog) == [
        "the test runs in torch alone: no native code, it takes g++ on Linux"
    ]


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(small, cache, monkeypatch, caplog):
    binaries = cache.parent / "bin"
    binaries.mkdir()
    (binaries / "g++").write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    (binaries / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", str(binaries))
    assert refusals(small, caplog) == [
        "the test runs in torch alone: no native code, no space left"
    ]
    assert not list(cache.iterdir())


@pytest.mark.usefixtures("compiled")
def test_a_folder_that_others_can_write_is_refused(small, cache, caplog):
    cache.mkdir()
    cache.chmod(0o777)
    (line,) = refusals(small, caplog)
    assert "is not this user's alone; chmod 700 it, or set XDG_CACHE_HOME" in line


@pytest.mark.usefixtures("compiled")
def test_a_link_to_a_folder_is_refused(small, cache, tmp_path, caplog):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.symlink_to(tmp_path / "elsewhere")
    (line,) = refusals(small, caplog)
    assert "is not this user's alone" in line
