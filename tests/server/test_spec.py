"""What a model's spec refuses."""

from typing import Any

import pytest
from pydantic import ValidationError

from fakes import spec
from mattebox_server.spec import MAX_LABELS, METADATA_KEY, ModelSpec, ShortSide, SpecError

GOOD = spec("good").model_dump()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"labels": ("background", "thing", "thing")}, "labels repeat"),
        ({"labels": ("thing", "other")}, "a semantic model needs a label 'background'"),
        ({"labels": ()}, "labels"),
        ({"labels": ("background", *map(str, range(MAX_LABELS)))}, "labels"),
        ({"kind": "saliency"}, "a saliency model has exactly one label"),
        ({"name": "../model"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"resize": {"policy": "short_side", "short_side_px": 9, "max_long_side_px": 8}}, "below short_side_px"),
        ({"resize": {"policy": "stretch", "width_px": 0, "height_px": 8}}, "width_px"),
        ({"resize": {"policy": "crop"}}, "resize"),
        ({"weights": {"source": "test", "sha256": "0" * 63, "trained": False}}, "sha256"),
    ],
)
def test_wrong_specs_are_refused_with_the_reason(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ModelSpec.model_validate({**GOOD, **changed})


def test_the_bounds_themselves_are_allowed() -> None:
    labels = ("background", *map(str, range(MAX_LABELS - 1)))
    resize = ShortSide(short_side_px=8, max_long_side_px=8).model_dump()
    model = ModelSpec.model_validate({**GOOD, "labels": labels, "name": "x" * 64, "resize": resize})
    assert model.foreground_classes == frozenset(range(1, MAX_LABELS))


def test_a_spec_without_the_networks_answer_is_refused() -> None:
    with pytest.raises(SpecError, match="doesn't say what its network should answer"):
        ModelSpec.from_metadata({METADATA_KEY: spec("new").model_copy(update={"expectation": None}).to_json()})
