"""The part of BentoML that a peer of the load benchmark uses."""

from collections.abc import Callable
from typing import TypeVar

from bentoml import validators as validators
from pydantic import BaseModel

_Model = TypeVar("_Model", bound=BaseModel)
_Thing = TypeVar("_Thing")

def use_arguments(schema: type[_Model]) -> _Model: ...
def service(*, threads: int, traffic: dict[str, int]) -> Callable[[_Thing], _Thing]: ...
def api(*, route: str) -> Callable[[_Thing], _Thing]: ...
