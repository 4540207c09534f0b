"""Evaluations that are not made again: told apart by all that they depend on, and never read from what is not one."""

from __future__ import annotations

import copy
import functools
import json
import os
import pickle
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import black_boxes
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import ndgrad
from ndgrad.execution import cache_file
from ndgrad.execution.identity import function_identity, value_identity

n = 3


def rows(count: int = 4) -> Tensor:
    return torch.linspace(-1, 1.5, count * n, dtype=torch.float64).reshape(count, n)


def counted(x: Any) -> Any:
    return np.sin(x).sum(1)


def wrap(cache: Any, fn: Any = counted, **options: Any) -> ndgrad.BlackBox:
    return ndgrad.wrap(fn, cache=cache, estimator=ndgrad.FiniteDifference(eps=0.1), **options)


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_no_row_is_evaluated_twice(where: str, tmp_path: Path) -> None:
    box = wrap("memory" if where == "memory" else tmp_path)
    x = rows().requires_grad_()
    grads = []
    for _ in range(2):
        y = box(x)
        grads.append(torch.autograd.grad(y.sum(), x)[0])
        assert_close(y.detach(), x.detach().sin().sum(1))
    assert torch.equal(*grads)
    assert (box.num_evaluations, box.num_cached) == (4 * 7, 4 * 7)
    mixed = torch.cat([rows()[2:], rows() + 9])
    assert_close(box(mixed), mixed.sin().sum(1))
    assert (box.num_evaluations, box.num_cached) == (4 * 8, 4 * 7 + 2)
    assert wrap(tmp_path)(x).shape == (4,)  # another module on the same folder


@pytest.mark.parametrize("fn", [lambda x: np.sin(x), lambda x: {"a": x, "b": [x[:, 0], (x.sum(1), 1.0 * x)]}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_containers_and_dtypes_come_back_in_another_module(
    fn: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    x = rows().to(dtype)
    first, second = (
        wrap(tmp_path, fn, interface="torch") if fn.__code__.co_consts[-1:] == (1.0,) else wrap(tmp_path, fn)
        for _ in range(2)
    )
    expected, actual = first(x), second(x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert second.num_evaluations == 0
    assert type(actual) is type(expected)


@dataclass
class Result:
    total: Any


def test_containers_that_cannot_be_written_down_cost_one_evaluation(tmp_path: Path) -> None:
    first, second = (wrap(tmp_path, lambda x: Result(x.sum(1))) for _ in range(2))
    assert_close(first(rows()).total, rows().sum(1))
    with pytest.raises(AssertionError):
        assert second(rows()).total.shape == (0,)
    assert second.num_evaluations == 4
    assert_close(second(rows()).total, rows().sum(1))
    assert second.num_evaluations == 4


def test_points_seeds_and_shared_arguments_are_part_of_the_key() -> None:
    point = ndgrad.wrap(black_boxes.point, batched=False, vectorize=True, cache="memory")
    assert torch.equal(point(rows())["b"], point(rows())["b"])
    assert (point.num_evaluations, point.num_cached) == (4, 4)
    seeded = ndgrad.wrap(black_boxes.seeded_point, batched=False, vectorize=True, cache="memory")
    torch.manual_seed(0)
    first, other = seeded(rows()), seeded(rows())
    torch.manual_seed(0)
    assert torch.equal(seeded(rows()), first)
    assert not torch.equal(first, other)
    assert (seeded.num_evaluations, seeded.num_cached) == (8, 4)
    table, targets = torch.ones(n, 2, dtype=torch.float64), np.arange(8.0).reshape(4, 2)
    box = ndgrad.wrap(black_boxes.with_table, cache="memory", in_dims={"targets": 0}, interface="numpy")
    for change in (1.0, 2.0):
        box(rows(), table, targets, scale=change, name="a name")
        box(rows(), change * table, targets, scale=1.0, name="a name")
        box(rows(), table, change * targets, scale=1.0, name="a name")
    # the three calls with change = 1 are one; a target of 0 stays what it was, in one number but not in all of a row
    assert box.num_evaluations == 4 * 4
    with pytest.raises(ndgrad.FunctionError):
        box(rows(), table, targets, scale=1.0, name="another")


def test_numbers_take_the_dtype_that_they_were_asked_for_with() -> None:
    index = torch.arange(2)
    wrapped = ndgrad.wrap(lambda i: [3] * len(i), cache="memory")
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            assert wrapped(index).dtype == dtype
        finally:
            torch.set_default_dtype(torch.float32)
    assert wrapped.num_cached == 0


def test_failures_are_not_kept() -> None:
    calls: list[int] = []

    def fn(x: Any) -> Any:
        calls.append(len(x))
        return np.where((x[:, 0] > 0) & (len(calls) == 1), np.nan, x[:, 0])

    box = wrap("memory", fn, on_error="retry", cache_key="fn")
    assert_close(box(rows()), rows()[:, 0])
    assert calls == [4, 1, 1]
    box(rows())
    assert calls == [4, 1, 1]


def test_with_workers(tmp_path: Path) -> None:
    box = wrap(tmp_path, black_boxes.steps, executor=1, chunk_size=3)
    first = box(rows())
    assert torch.equal(box(rows()), first)
    assert (box.num_evaluations, box.num_cached) == (4, 4)
    assert torch.equal(wrap(tmp_path, black_boxes.steps)(rows()), first)
    box.close()


def test_a_copy_shares_the_memory() -> None:
    box = wrap("memory")
    box(rows())
    other = copy.deepcopy(box)
    other(rows())
    assert other.num_evaluations == 4
    assert other.num_cached == 4
    assert box.num_cached == 0


# -- what a function is


def scaled(factor: float) -> Callable[[Any], Any]:
    return lambda x: factor * x


def helped(x: Any) -> Any:
    return helper(x)


def helper(x: Any) -> Any:
    return CONSTANT * x


CONSTANT = 2.0


def recursive() -> Any:
    def inner(x: Any, k: int = 3) -> Any:  # its closure holds itself
        return x if k == 0 else inner(x, k - 1)

    return inner


class Simulator:
    def __init__(self, gain: float) -> None:
        self.gain = gain

    def __call__(self, x: Any) -> Any:
        return self.gain * x


def test_functions_that_differ_have_different_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Linear(2, 2)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.weight.add_(1e-3)
    functions: list[Any] = [
        scaled(1.0), scaled(2.0), lambda x: x + 1, lambda x: x + 2, lambda x: x - 1,
        lambda x, k=1: x * k, lambda x, k=2: x * k,
        lambda x: [y for y in x if y in {"a", "b"}], lambda x: np.sin(x), lambda x: np.cos(x), np.sin, np.cos,
        torch.round,
        functools.partial(counted, x=1), functools.partial(counted, x=2), counted, helped, recursive(), Simulator(1.0),
        Simulator(2.0), Simulator(1.0).__call__, Simulator(2.0).__call__, network, other,
        scaled(np.arange(3.0)), scaled(np.arange(3.0).astype(np.float32)), scaled(torch.arange(3)), scaled({"a": 1}),
        scaled({"a": 2}), scaled(torch.ones(2, dtype=torch.bfloat16)), scaled(np),
    ]  # fmt: skip
    identities = [function_identity(fn) for fn in functions]
    assert len(set(identities)) == len(identities)
    assert identities == [function_identity(fn) for fn in functions]
    assert function_identity(scaled(1.0)) == identities[0]
    monkeypatch.setitem(globals(), "CONSTANT", 3.0)
    assert function_identity(helped) != identities[functions.index(helped)]
    network.eval()
    assert function_identity(network) != identities[-8]


def test_values_that_differ_have_different_identities() -> None:
    values: list[Any] = [
        0,
        0.0,
        False,
        "0",
        None,
        (0,),
        [0],
        np.zeros(1),
        np.zeros((1, 1)),
        np.zeros(2, np.int64),
    ]
    assert len({value_identity(value) for value in values}) == len(values)
    assert value_identity([torch, np]) != value_identity([np, torch])
    assert value_identity(np.zeros((2, 3)).T) == value_identity(np.zeros((3, 2)))


def test_what_cannot_be_told_apart_asks_for_a_key() -> None:
    lock = threading.Lock()

    def fn(x: Any) -> Any:
        with lock:
            return x

    with pytest.raises(ValueError, match=r"a lock cannot be pickled.*cache_key="):
        wrap("memory", fn)(rows())
    box = wrap("memory", fn, cache_key="identity, version 1")
    assert_close(box(rows()), rows())
    box(rows())
    assert box.num_cached == 4


def test_keys_name_functions(tmp_path: Path) -> None:
    wrap(tmp_path, lambda x: x, cache_key="a")(rows())
    assert_close(wrap(tmp_path, lambda x: 2 * x, cache_key="b")(rows()), 2 * rows())
    trusted = wrap(tmp_path, lambda x: 3 * x, cache_key="a")
    assert_close(trusted(rows()), rows())


# -- files


def the_file(folder: Path) -> Path:
    (path,) = folder.rglob("*.safetensors")
    return path


def test_files_are_safetensors_without_leftovers(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    wrap(tmp_path)(rows(1))
    assert_close(load_file(the_file(tmp_path))["0"], rows(1).sin().sum(1))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [the_file(tmp_path)]


def corrupt(content: bytes, how: str) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])

    def with_header(changed: Any) -> bytes:
        head = json.dumps(changed).encode()
        return len(head).to_bytes(8, "little") + head + content[8 + size :]

    entry, metadata = header["0"], header["__metadata__"]
    return {
        "empty": lambda: b"",
        "torn": lambda: content[:-3],
        "torn in the header": lambda: content[:40],
        "flipped": lambda: content[:-1] + bytes([content[-1] ^ 1]),
        "huge": lambda: (2**62).to_bytes(8, "little") + content[8:],
        "text": lambda: b"not a cached evaluation at all",
        "pickle": lambda: b"\x80\x04\x95" + content,
        "a list": lambda: with_header([1]),
        "deep": lambda: (20000).to_bytes(8, "little") + b"[" * 20000,
        "no metadata": lambda: with_header({"0": entry}),
        "other key": lambda: with_header({"0": entry, "__metadata__": metadata | {"key": "x"}}),
        "other format": lambda: with_header({"0": entry, "__metadata__": metadata | {"format": "x"}}),
        "other structure": lambda: with_header({"0": entry, "__metadata__": metadata | {"structure": '{"eval": 1}'}}),
        "shape": lambda: with_header({"0": entry | {"shape": [10**12]}, "__metadata__": metadata}),
        "negative": lambda: with_header({"0": entry | {"shape": [-1, -1]}, "__metadata__": metadata}),
        "dtype": lambda: with_header({"0": entry | {"dtype": "object"}, "__metadata__": metadata}),
        "places": lambda: with_header({"0": entry | {"data_offsets": [0]}, "__metadata__": metadata}),
        "renamed": lambda: with_header({"1": entry, "__metadata__": metadata}),
    }[how]()  # fmt: skip


HOW = ["empty", "torn", "torn in the header", "flipped", "huge", "text", "pickle", "a list", "deep", "no metadata",
       "other key", "other format", "other structure", "shape", "negative", "dtype", "places", "renamed"]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_a_torn_or_foreign_file_is_left_out_with_a_warning(how: str, tmp_path: Path) -> None:
    wrap(tmp_path)(rows(1))
    path = the_file(tmp_path)
    good = path.read_bytes()
    path.write_bytes(corrupt(good, how))
    box = wrap(tmp_path)
    with pytest.warns(UserWarning, match="is no cached evaluation, and is left out"):
        assert_close(box(rows(1)), rows(1).sin().sum(1))
    assert (box.num_evaluations, box.num_cached) == (1, 0)
    assert path.read_bytes() == good
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrap(tmp_path)(rows(1))


@pytest.mark.parametrize(
    "structure", ["{", "1", '{"tuple": [0, 0]}', '{"tuple": []}', '{"eval": [0]}', "[" * 9000]
)
def test_a_structure_that_is_none_is_left_out(structure: str, tmp_path: Path) -> None:
    wrap(tmp_path)(rows(1))
    path = the_file(tmp_path)
    cache_file.write(path, path.stem, structure, (torch.ones(1),))
    with pytest.warns(UserWarning, match="is no cached evaluation"):
        assert_close(wrap(tmp_path)(rows(1)), rows(1).sin().sum(1))


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_a_file_without_end_is_left_out(kind: str, tmp_path: Path) -> None:
    wrap(tmp_path)(rows(1))
    path = the_file(tmp_path)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    with pytest.warns(UserWarning, match=r"is no cached evaluation.*(ordinary file|holds more than)"):
        assert_close(wrap(tmp_path)(rows(1)), rows(1).sin().sum(1))
    assert path.is_file()


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    wrap(tmp_path)(rows(1))
    path = the_file(tmp_path)
    path.unlink()
    path.mkdir()
    with (
        pytest.warns(UserWarning, match="is no cached evaluation"),
        pytest.raises(OSError, match="directory"),
    ):
        wrap(tmp_path)(rows(1))
    assert not list(tmp_path.rglob("*.partial"))


def test_a_file_of_another_key_is_not_believed(tmp_path: Path) -> None:
    leaves = (torch.tensor([1.5]), torch.zeros(0, 2), torch.ones(1, 2, dtype=torch.bfloat16))
    cache_file.write(tmp_path / "a", "a", "0", leaves)
    structure, back = cache_file.read(tmp_path / "a", "a") or ("", ())
    assert structure == "0"
    torch.testing.assert_close(back, leaves, rtol=0, atol=0)
    assert cache_file.read(tmp_path / "none", "a") is None
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(cache_file.NotOurs, match="another evaluation"):
        cache_file.read(tmp_path / "b", "b")


def _write_often(folder: str, value: float) -> None:
    for _ in range(200):
        cache_file.write(Path(folder) / "entry", "key", "0", (torch.full((1000,), value),))


def test_concurrent_writers_leave_one_of_their_files_whole(tmp_path: Path) -> None:
    writers = [threading.Thread(target=_write_often, args=(str(tmp_path), value)) for value in (1.0, 2.0)]
    for writer in writers:
        writer.start()
    found = set()
    while any(writer.is_alive() for writer in writers):
        back = cache_file.read(tmp_path / "entry", "key")
        if back is not None:
            found.add(tuple(back[1][0].unique().tolist()))
    for writer in writers:
        writer.join()
    assert found <= {(1.0,), (2.0,)}
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cache": 3}, TypeError, "cache must be None, 'memory' or a folder"),
        ({"cache": __file__}, ValueError, "is a file"),
        ({"cache_key": "a"}, ValueError, "cache_key names the function in a cache"),
        ({"cache": "memory", "cache_key": 1}, TypeError, "cache_key must be text"),
    ],
)
def test_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ndgrad.wrap(np.sin, **options)


def test_a_module_that_caches_other_containers_can_be_pickled() -> None:
    box = ndgrad.wrap(in_result, cache="memory", estimator="finite_difference")
    first = box(rows())
    for other in (copy.deepcopy(box), pickle.loads(pickle.dumps(box))):
        assert torch.equal(other(rows()).total, first.total)
        assert (other.num_evaluations, other.num_cached) == (4, 4)


def in_result(x: Any) -> Result:
    return Result(np.sin(x).sum(1))


SETTING: Any = None


def set_by_hand(x: Any) -> Any:
    return SETTING


@pytest.mark.parametrize(
    "pair",
    [
        (np.arange(3.0), np.arange(3.0) + 1e-9),
        (torch.arange(3), torch.arange(1, 4)),
        ((1, 2), (1, 3)),
        ([1.0], [2.0]),
        ({"a": 1}, {"b": 1}),
        (torch.nn.PReLU(init=0.25), torch.nn.PReLU(init=0.26)),
    ],
)
def test_constants_of_the_functions_module_are_part_of_it(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    identities = []
    for value in pair:
        monkeypatch.setitem(globals(), "SETTING", value)
        identities.append(function_identity(set_by_hand))
    assert len(set(identities)) == 2


def test_a_constant_that_is_changed_in_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SETTING", torch.ones(4, dtype=torch.float64))
    box = wrap("memory", set_by_hand)
    assert torch.equal(box(rows()), torch.ones(4, dtype=torch.float64))
    SETTING.mul_(3)
    assert torch.equal(box(rows()), torch.full((4,), 3.0, dtype=torch.float64))


def test_a_closure_that_is_not_filled_yet() -> None:
    def fn(x: Any) -> Any:
        return x if early else later

    early, box = True, wrap("memory", fn)
    assert torch.equal(box(rows()), rows())
    later = 0
