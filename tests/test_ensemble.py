"""Finished runs become one: by every rule, on one ground, and never from what they have learned from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from whalebench.benchmarks.workspace import Workspace

Cli = Callable[..., Any]
RULES = ("mean", "vote", "logistic", "lightgbm")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with two finished runs of fold 0 of `tiny`, whose valid has known and new photos."""


    raise NotImplementedError
