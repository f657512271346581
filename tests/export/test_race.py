"""The race of an artifact's forms: which one is written, and what is remembered of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest

import networks
import quantised
from mattebox_export import race
from mattebox_export.race import Form, fastest
from mattebox_export.wrap import wrap
from mattebox_server.engine.config import ProviderName, ProviderUnavailable
from mattebox_server.engine.plan import Device
from mattebox_server.engine.providers import find_device

DEVICE = Device("cpu", "a processor", {"onnxruntime": "1"})


def forms(count: int) -> list[Form]:
    """Artifacts that differ in one weight."""
    found: list[Form] = []
    for index in range(count):
        model: onnx.ModelProto = networks.joined_network((1, 1), bias=False, seed=index)
        spec = quantised.saliency_spec().model_copy(update={"kind": "semantic", "labels": networks.COLOUR_LABELS})
        found.append(Form(wrap(quantised.core_of(model), spec), spec, f"form {index}"))
    return found


class Races:
    """Takes the place of the race: it counts the races, and gives the times in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *times_s: list[float]) -> None:
        self.times_s, self.count, self.device = list(times_s), 0, DEVICE
        monkeypatch.setattr(race, "_race", self.run)
        monkeypatch.setattr(race, "find_device", self.find)

    def run(self, entered: Sequence[Form], device: Device) -> list[float]:
        assert (len(entered), device) == (len(self.times_s[0]), self.device)
        self.count += 1
        return self.times_s.pop(0)

    def find(self, _: ProviderName) -> Device:
        return self.device


@pytest.mark.parametrize(
    ("times_s", "chosen"),
    [
        ([0.3, 0.2, 0.1], 2),
        ([0.1, 0.2, 0.3], 0),
        ([0.2, 0.1, 0.3], 1),
        ([0.1, 0.1, 0.1], 0),
        ([0.100, 0.098, 0.096], 2),  # the third is 4 % faster than the first, though only 2 % than the second
        ([0.100, 0.098, 0.0975], 0),
        ([0.100, 0.0965, 0.0940], 1),
    ],
)
def test_the_fastest_is_chosen_and_of_equals_the_earlier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times_s: list[float], chosen: int
) -> None:
    Races(monkeypatch, times_s)
    entered = forms(3)
    form, line = fastest(entered, "cpu", tmp_path)
    assert form is entered[chosen]
    assert line.startswith(f"form {chosen}, as the fastest here: form 0 ")
    for index, taken_s in enumerate(times_s):
        assert f"form {index} {taken_s * 1000:.0f} ms" in line


def test_times_are_remembered_for_the_same_forms_on_the_same_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    races = Races(monkeypatch, [0.2, 0.1], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2])
    cache = tmp_path / "not yet" / "there"
    entered = forms(3)
    first = fastest(entered[:2], "cpu", cache)
    assert first[0] is entered[1]
    assert fastest(entered[:2], "cpu", cache) == first
    assert races.count == 1
    assert fastest(entered[1:], "cpu", cache)[0] is entered[1]  # other forms
    assert races.count == 2
    races.device = Device("cpu", "another processor", {"onnxruntime": "1"})
    assert fastest(entered[:2], "cpu", cache)[0] is entered[0]
    races.device = Device("cpu", "a processor", {"onnxruntime": "2"})
    assert fastest(entered[:2], "cpu", cache)[0] is entered[0]
    assert races.count == 4
    races.device = DEVICE
    assert fastest(entered[:2], "cpu", cache) == first  # nothing was overwritten
    assert [path.name for path in cache.iterdir()] == ["races.json"]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "null", "\xff", '{"KEY": "fast"}', '{"KEY": [0.1]}', '{"KEY": null}']
)
def test_a_damaged_file_of_times_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    races = Races(monkeypatch, [0.2, 0.1], [0.2, 0.1])
    entered = forms(2)
    first = fastest(entered, "cpu", tmp_path)
    (key,) = json.loads((tmp_path / "races.json").read_text())
    (tmp_path / "races.json").write_text(damage.replace("KEY", key), encoding="latin-1")
    assert fastest(entered, "cpu", tmp_path) == first
    assert json.loads((tmp_path / "races.json").read_text()) == {key: [0.2, 0.1]}
    assert races.count == 2


def test_a_cache_that_cannot_be_written_to_does_not_stop_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    races = Races(monkeypatch, [0.2, 0.1])
    assert fastest(forms(2), "cpu", tmp_path / "a file")[0].about == "form 1"
    assert races.count == 1


def test_without_the_targets_provider_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    races = Races(monkeypatch)

    def absent(_: ProviderName) -> Device:
        raise ProviderUnavailable("no NVIDIA GPU")

    monkeypatch.setattr(race, "find_device", absent)
    entered = forms(2)
    form, line = fastest(entered, "cuda", tmp_path)
    assert form is entered[0]
    assert line == "form 0 (not measured, as this machine can't run it: no NVIDIA GPU)"
    assert races.count == 0
    assert not list(tmp_path.iterdir())


def test_one_form_needs_no_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    races = Races(monkeypatch)
    (form,) = forms(1)
    assert fastest([form], "cpu", tmp_path) == (form, "form 0")
    assert races.count == 0


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_real_race(tmp_path: Path, target: ProviderName) -> None:
    try:
        find_device(target)
    except ProviderUnavailable as error:
        pytest.skip(str(error))
    entered = forms(2)
    form, line = fastest(entered, "cpu" if target == "cpu" else "openvino", tmp_path)
    assert form in entered
    assert "as the fastest here" in line
    (times_s,) = json.loads((tmp_path / "races.json").read_text()).values()
    assert len(times_s) == 2
    assert all(math.isfinite(taken_s) and taken_s > 0 for taken_s in times_s)
