from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from applications.lv_dp import evaluate, train
from applications.lv_dp.__main__ import main as command_line
from applications.lv_dp.config import EvaluateConfig, TrainConfig
from applications.lv_dp.data import SliceSet
from applications.lv_dp.data.preprocess import prepare
from applications.lv_dp.errors import UsageError
from applications.lv_dp.release import ExportConfig, export, open_model
from applications.lv_dp.runs import checkpoint_path, open_run

METHODS = ["unet", "edpcnn"]


@pytest.fixture(scope="module", params=METHODS)
def run(request: pytest.FixtureRequest, png_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    data = f"png:{png_folder}"
    config = TrainConfig(out, request.param, data=data, num_train=6, profile="smoke", iterations=3)
    train.main(config)
    return out


@pytest.fixture
def release(run: Path, tmp_path: Path) -> Path:
    export(ExportConfig(run, tmp_path / "release"))
    return tmp_path / "release"


def test_released_weights_predict_the_same(run: Path, release: Path, phantom: SliceSet) -> None:
    before, after = open_run(run), open_model(release)
    assert not after.model.training
    batch = prepare(phantom.slices, before.model.settings.crop)
    for name, predict in evaluate.predictions(before).items():
        expected, found = predict(before.model, batch), evaluate.predictions(after)[name](after.model, batch)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(
        after.model.unet(batch.images), before.model.unet(batch.images), rtol=0, atol=0
    )


def test_evaluating_released_weights_gives_the_same_scores(
    run: Path, png_folder: Path, tmp_path: Path
) -> None:
    export(ExportConfig(run, tmp_path / "r", name_patients=True))
    both = [
        evaluate.main(EvaluateConfig(path, f"png:{png_folder}", tmp_path / "e.json", subset="held_out"))
        for path in (run, tmp_path / "r")
    ]
    assert both[0]["methods"] == both[1]["methods"]
    assert both[0]["iteration"] == both[1]["iteration"] == 3
    known, released = (results["count_trained_on"] for results in both)
    assert (known, released) == (0, None)  # released weights do not name the slices


def test_the_description_says_where_the_weights_come_from(run: Path, tmp_path: Path) -> None:
    config = ExportConfig(run, tmp_path, trained_on="drawn hearts", licence_note="do what you like")
    export(config)
    found = json.loads((tmp_path / "model.json").read_text())
    source = open_run(run).config
    assert (found["trained_on"], found["licence_note"]) == ("drawn hearts", "do what you like")
    assert found["settings"] == source["settings"]
    assert found["training"]["slices"] == 6
    assert {"versions", "device"} <= found["provenance"].keys()
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["written_by"] == found["format"]


def test_no_path_and_no_patient_goes_out_unasked(run: Path, release: Path, png_folder: Path) -> None:
    text = (release / "model.json").read_text() + (release / "model.safetensors").read_bytes().decode(
        "latin-1"
    )
    for word in ("phantom-", str(png_folder), str(run), str(png_folder.parent)):
        assert word not in text
    assert json.loads((release / "model.json").read_text())["trained_on"] == f"png ({png_folder.name})"


def test_only_the_network_goes_out(release: Path) -> None:
    names = load_file(release / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"down", "up", "head"}


def describe(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def settings(folder: Path, **changes: Any) -> None:
    describe(folder, settings=json.loads((folder / "model.json").read_text())["settings"] | changes)


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors, with a checksum that fits: what an attacker, not an accident, does."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    describe(folder, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def bytes_of(folder: Path, change: Callable[[bytes], bytes]) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code of the file was executed')",)


def huge_header(data: bytes) -> bytes:
    return (2**63 - 1).to_bytes(8, "little") + data[8:]


def outside_offsets(data: bytes) -> bytes:
    header = b'{"head.weight":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    return len(header).to_bytes(8, "little") + header + b"1234"


HEAD = "head.weight"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: bytes_of(f, lambda d: d[: len(d) // 2]), "model.safetensors: is damaged"),
    "truncated header": (lambda f: bytes_of(f, lambda d: d[:20]), "model.safetensors: is damaged"),
    "empty": (lambda f: bytes_of(f, lambda d: b""), "model.safetensors: is damaged"),
    "huge header": (lambda f: bytes_of(f, huge_header), "model.safetensors: is damaged"),
    "outside offsets": (lambda f: bytes_of(f, outside_offsets), "model.safetensors: is damaged"),
    "pickle": (lambda f: bytes_of(f, lambda d: pickle.dumps(Bomb())), "model.safetensors: is damaged"),
    "flipped bit": (lambda f: bytes_of(f, lambda d: d[:-1] + bytes([d[-1] ^ 1])), "sha256 differs"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: no such file"),
    "no description": (lambda f: (f / "model.json").unlink(), "model.json: no such file"),
    "shape": (
        lambda f: weights(f, lambda t: t.update({HEAD: torch.zeros(1, 5, 1, 1)})),
        r"head.weight must be float32 \(1, 4, 1, 1\) by model.json's settings, got float32 \(1, 5, 1, 1\)",
    ),
    "type": (lambda f: weights(f, lambda t: t.update({HEAD: t[HEAD].half()})), "got float16"),
    "missing": (lambda f: weights(f, lambda t: t.pop(HEAD)), "lacks tensor 'head.weight'; 1 names differ"),
    "surplus": (lambda f: weights(f, lambda t: t.update(a=torch.zeros(1))), "holds a surplus tensor 'a'"),
    "not finite": (lambda f: weights(f, lambda t: t[HEAD].fill_(torch.nan)), "head.weight holds values that are not"),
    "other settings": (lambda f: settings(f, base_channels=8), "must be float32"),
    "other depth": (lambda f: settings(f, levels=3), "lacks tensor"),
    "enormous": (lambda f: settings(f, levels=60), r"levels must be in 1 \.\. 8, got 60"),
    "enormous crop": (lambda f: settings(f, crop=10**9), "crop must be in"),
    "word for number": (lambda f: settings(f, crop="large"), "crop must be of type int, got 'large'"),
    "truth for number": (lambda f: settings(f, crop=True), "crop must be of type int, got True"),
    "not a number": (lambda f: settings(f, step=float("nan")), "is not readable JSON"),
    "other word": (lambda f: settings(f, norm="layer"), "norm must be one of"),
    "list for word": (lambda f: settings(f, norm=["batch"]), "norm must be one of"),
    "even window": (lambda f: settings(f, smoothing=4), "smoothing must be odd"),
    "unknown setting": (lambda f: settings(f, colour=1), "settings hold 'colour'"),
    "no settings": (lambda f: describe(f, settings=None), "settings must be an object"),
    "other method": (lambda f: describe(f, method="magic"), "method must be one of unet, .*edpcnn, got 'magic'"),
    "other format": (lambda f: describe(f, format="x"), "its format must be"),
    "next version": (lambda f: describe(f, version=2), "needs version 1 of the format, got 2"),
    "radius": (lambda f: describe(f, mean_radius="9"), "mean_radius must be a number"),
    "radius nan": (lambda f: describe(f, mean_radius=float("nan")), "is not readable JSON"),
    "iteration": (lambda f: describe(f, iteration=None), "iteration must be an integer"),
    "patients": (lambda f: describe(f, held_out_patients=[3]), "held_out_patients must be a list of names"),
    "spacing": (lambda f: describe(f, spacing="1.4"), "spacing must be a positive number of millimetres or null"),
    "spacing zero": (lambda f: describe(f, spacing=0.0), "spacing must be a positive number"),
    "no json": (lambda f: (f / "model.json").write_text("{"), "model.json: is not readable JSON"),
    "binary json": (lambda f: (f / "model.json").write_bytes(b"\xff\xfe"), "model.json: is not readable JSON"),
    "deep json": (lambda f: (f / "model.json").write_text("[" * 99999), "model.json: is not readable JSON"),
    "list json": (lambda f: (f / "model.json").write_text("[]"), "is not a description of released weights"),
}  # fmt: skip


@pytest.fixture(scope="module")
def pristine(png_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pristine")
    config = TrainConfig(
        out / "run", "unet", data=f"png:{png_folder}", num_train=6, profile="smoke", iterations=1
    )
    train.main(config)
    export(ExportConfig(out / "run", out / "release"))
    return out / "release"


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_and_hostile_files_are_one_line(name: str, pristine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pristine, folder)
    open_model(folder)
    damage, words = DAMAGE[name]
    damage(folder)
    with pytest.raises(UsageError, match=words) as caught:
        open_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_settings_of_before_a_setting_existed_have_its_default(pristine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pristine, folder)
    old = json.loads((folder / "model.json").read_text())["settings"]
    describe(folder, settings={name: value for name, value in old.items() if name != "fit_steps"})
    assert open_model(folder).model.settings.fit_steps == 5


def test_a_damaged_checkpoint_is_one_line(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    path = checkpoint_path(tmp_path / "copy")
    for data in (b"", b"hello", path.read_bytes()[:5000], pickle.dumps(Bomb())):
        path.write_bytes(data)
        with pytest.raises(UsageError, match=r"checkpoint\.pt: is damaged or no checkpoint"):
            open_model(tmp_path / "copy")


def test_the_command_exports(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert command_line(["export", "--run", str(run), "--out", str(out), "--trained-on", "hearts"]) == 0
    assert "trained on hearts" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "model.json"}
    assert command_line(["export", "--run", str(out), "--out", str(tmp_path / "again")]) == 2
    error = capsys.readouterr().err
    assert f"{out}: is exported already; copy it, or type --run with a folder that train wrote" in error
    assert error.count("\n") == 1
    assert command_line(["export", "--run", str(tmp_path), "--out", str(out)]) == 2
    assert "checkpoint.pt: no such file" in capsys.readouterr().err
