"""Evaluations that are not made again: told apart by all that they depend on, and never read from what is not one."""

from __future__ import annotations

import collections
import copy
import functools
import json
import os
import pickle
import subprocess
import sys
import threading
import types
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
    assert value_identity([()]) != value_identity(((),))
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


# -- what is read of a function, and what is not


def made(source: str, **names: Any) -> Any:
    """Run a module of its own and return its ``fn``."""
    namespace = {"__name__": "made", "functools": functools, "np": np, "torch": torch} | names
    exec(source, namespace)
    return namespace["fn"]


def identities(source: str, *numbers: object) -> set[bytes]:
    return {function_identity(made(source.replace("NUMBER", str(number)))) for number in numbers}


IN_THE_CODE = {
    "called through lru_cache": """
@functools.lru_cache
def helper(x): return x + NUMBER
def fn(x): return helper(x)""",
    "called through vectorize": """
@np.vectorize
def helper(x): return x + NUMBER
def fn(x): return helper(x)""",
    "called through a partial": """
def helper(k, x): return x + NUMBER
step = functools.partial(helper, 1)
def fn(x): return step(x)""",
    "called through a decorator of another module": """
@torch.no_grad()
def helper(x): return x + NUMBER
def fn(x): return helper(x)""",
    "called by name and by each other": """
def even(x, k=9): return x if k == 0 else odd(x, k - 1)
def odd(x, k): return x + NUMBER if k == 0 else even(x, k - 1)
def fn(x): return even(x)""",
    "class": """
class Model:
    def run(self, x): return x + NUMBER
def fn(x): return Model().run(x)""",
    "singledispatch": """
@functools.singledispatch
def helper(x): return x
@helper.register
def _(x: int): return x + NUMBER
def fn(x): return helper(x)""",
    "attribute of the function": """
def fn(x): return x + fn.shift
fn.shift = NUMBER""",
    "lru_cache": """
@functools.lru_cache
def fn(x): return x + NUMBER""",
    "vectorize": """
@np.vectorize
def fn(x): return x + NUMBER""",
    "frompyfunc": "fn = np.frompyfunc(lambda x: x + NUMBER, 1, 1)",
    "a class itself": """
class fn:
    def __new__(cls, x): return x + NUMBER""",
    "classmethod": """
class Model:
    shift = NUMBER
    @classmethod
    def run(cls, x): return x + cls.shift
fn = Model.run""",
    "inherited __call__": """
class Base:
    def __call__(self, x): return x + NUMBER
class Model(Base): pass
fn = Model()""",
    "method that __call__ calls": """
class Model:
    def __call__(self, x): return self.helper(x)
    def helper(self, x): return x + NUMBER
fn = Model()""",
    "method that a bound method calls": """
class Model:
    def run(self, x): return self.helper(x)
    def helper(self, x): return x + NUMBER
fn = Model().run""",
    "property": """
class Model:
    shift = property(lambda self: NUMBER)
    def __call__(self, x): return x + self.shift
fn = Model()""",
    "cached property": """
class Model:
    @functools.cached_property
    def shift(self): return NUMBER
    def __call__(self, x): return x + self.shift
fn = Model()""",
    "static method": """
class Model:
    @staticmethod
    def helper(x): return x + NUMBER
    def __call__(self, x): return self.helper(x)
fn = Model()""",
    "class attribute": """
class Model:
    shift = NUMBER
    def __call__(self, x): return x + self.shift
fn = Model()""",
    "metaclass": """
class Meta(type):
    def __call__(cls, x): return x + NUMBER
class fn(metaclass=Meta): pass""",
    "inherited forward": """
class Base(torch.nn.Module):
    def forward(self, x): return x + NUMBER
class Model(Base): pass
fn = Model()""",
    "forward inside a network": """
class Layer(torch.nn.Module):
    def forward(self, x): return x + NUMBER
fn = torch.nn.Sequential(torch.nn.ReLU(), Layer())""",
    "plain attribute of a network": """
fn = torch.nn.Sequential(torch.nn.ReLU())
fn[0].shift = NUMBER""",
    "attribute beside a function": """
class Model:
    def __call__(self, x): return x + self.shift
fn = Model()
fn.py_func, fn.shift = abs, NUMBER""",
    "attribute in slots": """
class Model:
    __slots__ = ("shift",)
    def __call__(self, x): return x + self.shift
fn = Model()
fn.shift = NUMBER""",
}


@pytest.mark.parametrize("what", IN_THE_CODE)
def test_an_edit_is_seen(what: str) -> None:
    assert len(identities(IN_THE_CODE[what], 1, 2, 1)) == 2


def test_an_edit_of_a_compiled_function_is_seen() -> None:
    pytest.importorskip("numba")
    compiled = """
from numba import njit
@njit
def helper(x): return x + NUMBER
def fn(x): return helper(x)"""
    assert len(identities(compiled, 1, 2, 1)) == 2


@pytest.mark.parametrize("pair", [("x * 12 + 3", "x * 1 + 23"), ("1.25 * x + 3.0", "1.2 * x + 53.0")])
def test_numbers_in_the_code_do_not_run_into_each_other(pair: tuple[str, str]) -> None:
    assert len({function_identity(made(f"def fn(x): return {formula}")) for formula in pair}) == 2


def test_the_object_of_a_builtin_method_is_part_of_it() -> None:
    arrays = [np.arange(4.0), np.arange(4.0) + 1]
    methods = [
        get(array)
        for get in (lambda a: a.dot, lambda a: torch.tensor(a).dot, lambda a: a.__add__)
        for array in arrays
    ]
    assert len({function_identity(method) for method in methods}) == 6
    assert len({function_identity(made("def fn(x): return G(x)", G=method)) for method in methods}) == 6
    assert function_identity(arrays[0].dot) == function_identity(np.arange(4.0).dot)


@dataclass
class Config:
    gain: float = 1.0


@dataclass
class Other:
    gain: float = 1.0


@pytest.mark.parametrize(
    "pair",
    [
        (np.float32(1), np.float32(2)),
        (np.int64(1), np.int64(2)),
        ({1}, {2}),
        (frozenset((1,)), frozenset((2,))),
        (range(3), range(4)),
        (bytearray(b"1"), bytearray(b"2")),
        (np.dtype("f4"), np.dtype("f8")),
        (torch.float32, torch.float64),
        (functools.partial(pow, 2), functools.partial(pow, 3)),
        (np.sin, np.cos),
        (torch.sin, torch.cos),
        (abs, round),
        (black_boxes.point, black_boxes.steps),
        (scaled(1.0), scaled(2.0)),
        (Config, Other),
        (Config(1.0), Config(2.0)),
        (Config(), Other()),
        (types.SimpleNamespace(k=1), types.SimpleNamespace(k=2)),
        (np.array([Config(1.0), "a"], dtype=object), np.array([Config(2.0), "a"], dtype=object)),
        (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[0, 0])),
        (np.zeros(1, [("a", "f4")]), np.zeros(1, [("b", "f4")])),
        (torch.ones(2), torch.ones(2, dtype=torch.bfloat16)),
        (torch.eye(2), torch.eye(2).to_sparse()),
    ],
)
def test_what_a_function_names_is_part_of_it(pair: Any) -> None:
    seen = [function_identity(made("def fn(x): return NAMED and x", NAMED=value)) for value in pair]
    assert len(set(seen)) == 2
    assert seen[0] == function_identity(made("def fn(x): return NAMED and x", NAMED=copy.deepcopy(pair[0])))


def test_attributes_of_the_same_name_as_a_global_are_not_read() -> None:
    a, b = (function_identity(made("def fn(x): return x.real", real=value)) for value in (1, 2))
    assert a == b


def test_functions_of_other_modules_count_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for factor in (1.0, 2.0):
        monkeypatch.setitem(sys.modules, "elsewhere", types.ModuleType("elsewhere"))
        exec(f"def helper(x): return {factor} * x", sys.modules["elsewhere"].__dict__)
        helper = sys.modules["elsewhere"].helper
        seen.append(function_identity(made("def fn(x): return helper(x)", helper=helper)))
    assert seen[0] == seen[1]


def test_objects_met_twice() -> None:
    a, b, c = [None, ()], [None, ()], (1, (2,))
    assert value_identity([a, b, a]) != value_identity([a, b, b])
    assert value_identity([c, c]) == value_identity([c, (1, (*[2],))])


def test_a_call_does_not_change_what_a_function_is() -> None:
    box = wrap("memory", np.vectorize(lambda x: x + 1, otypes=[float]), interface="numpy")
    box(rows())
    assert_close(box(rows()), rows() + 1)
    assert box.num_cached == 4


@pytest.mark.parametrize(
    "pair",
    [
        ({1: 5.0, 2: 1.0}, {2: 5.0, 1: 1.0}),
        (collections.OrderedDict(a=5.0), collections.OrderedDict(b=5.0)),
        (collections.OrderedDict(a=5.0), {"a": 5.0}),
        (collections.defaultdict(float, a=5.0), collections.defaultdict(float, b=5.0)),
        (collections.defaultdict(float, a=5.0), collections.defaultdict(int, a=5.0)),
        ({"cfg": Config(), "alpha": 2.0}, {"cfg": Config(), "beta": 2.0}),
        ({(0, 1): torch.ones(2)}, {(1, 1): torch.ones(2)}),
        ({1: torch.ones(2)}, {True: torch.ones(2)}),
        ([Config()], [Other()]),
        ([Config()], (Config(),)),
        ({1, 2}, {3, 4}),
        ([1.0, 2.0], (1.0, 2.0)),
        ([[1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0]]),
    ],
)
def test_containers_and_keys_of_arguments_are_part_of_the_key(pair: Any) -> None:
    box = ndgrad.wrap(lambda x, given: x.sum(1), cache="memory")
    for given in pair:
        box(rows(), given)
    assert (box.num_evaluations, box.num_cached) == (8, 0)
    box(rows(), copy.deepcopy(pair[0]))
    assert (box.num_evaluations, box.num_cached) == (8, 4)


def test_networks_with_equal_numbers_are_equal() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    other = copy.deepcopy(network)
    assert function_identity(other) == function_identity(network)
    other[1].eval()
    assert function_identity(other) != function_identity(network)


IN_A_PROCESS = """
import enum, hashlib
from dataclasses import dataclass
import numpy as np, torch
from ndgrad.execution.identity import function_identity

class Color(enum.Enum):
    RED, BLUE = "red", "blue"

@dataclass(frozen=True)
class Point:
    name: str

class Node:
    def __init__(self, parent): self.parent, self.children = parent, set()

class Model:
    def __init__(self, held): self.held = held
    def __call__(self, x): return x

tree = Node(None)
tree.children = {Node(tree), Node(tree)}
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LSTM(2, 2))
text = {"a", "b", "c", "d"}
pairs = frozenset(frozenset(pair) for pair in ("ab", "bc", "cd"))
held = [torch.ones(3), text, {Color.RED, Color.BLUE}, {Point("a"), Point("b")}, {str, int, len, Model}, pairs, tree]
held += [{("a", 1), ("b", None)}, np.random.default_rng(0), torch.float32, network]
for fn in [network, lambda x: network(x), lambda x: x in {"a", "b", "c"}, *map(Model, held)]:
    print(hashlib.sha256(function_identity(fn)).hexdigest())
"""


def test_identities_are_the_same_in_another_process() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", IN_A_PROCESS],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate(timeout=50)[0].split() for process in processes)
    assert len(set(first)) == 14
    assert first == second


def test_what_holds_itself_or_is_deep_is_told_apart() -> None:
    def chain(depth: int, end: float) -> Any:
        first: Any = types.SimpleNamespace(gain=end)
        for _ in range(depth):
            first = types.SimpleNamespace(next=first, all=[first])
        return first

    def ring(gain: float) -> Any:
        one, two = Simulator(gain), Simulator(1.0)
        one.other, two.other, one.every = two, one, {one, two}
        return one

    for make in (ring, functools.partial(chain, 3000)):
        assert function_identity(make(1.0)) == function_identity(make(1.0))
        assert function_identity(make(1.0)) != function_identity(make(2.0))
    cell: list[Any] = []
    cell.append(cell)
    assert value_identity(cell) != value_identity([[]])


@pytest.mark.parametrize("source", ["def fn(x): return LOCK and x", "def fn(x, lock=LOCK): return x"])
def test_what_a_function_names_and_cannot_be_told_apart_asks_for_a_key(source: str) -> None:
    with pytest.raises(ValueError, match=r"a lock cannot be pickled.*cache_key="):
        wrap("memory", made(source, LOCK=threading.Lock()))(rows())


def test_a_tensor_without_numbers_asks_for_a_key() -> None:
    with pytest.raises(ValueError, match=r"a Tensor cannot be pickled.*cache_key="):
        function_identity(scaled(torch.ones(2, device="meta")))
