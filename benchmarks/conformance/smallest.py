"""The settings under which any method is quick, for trying it out and not for its scores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from whalebench import WhalebenchError
from whalebench.methods.method import Method
from whalebench.methods.registry import configure, fields_of, find_method

SMALLEST = {
    "pretrained": "none",  # nothing is downloaded
    "backbone": "test_resnet",
    "size": "32",
    "crop_source": "64",
    "small_epochs": "0",  # before epochs, which may not be fewer
    "checkpoints": "1",  # the same
    "epochs": "1",
    "batch_size": "8",
    "dimensions": "16",
    "member_settings": "pretrained=none,backbone=test_resnet,size=32,epochs=1,batch_size=8,dimensions=16",
    "confidence": "0.01",  # so that some test photos are learned from, of which hardly anything is known yet
}
"""By the name of a field, or of a part's field after the dot: what it is set to where that can be."""
ELSE = {"epochs": tuple(map(str, range(2, 9)))}
"""What is tried next where that cannot be: every cycle of a schedule has an epoch."""


def smallest_settings(method: type[Method], settings: Sequence[str] = ()) -> tuple[str, ...]:
    """The settings given, and beside them those that make the method quick, as `key=value`.

    A field of one of these names that cannot be set so (`scale` is a factor elsewhere) keeps its default.
    Those of a method within are made quick, too. Raises WhalebenchError where the settings given cannot be.
    """
    given = {setting.partition("=")[0] for setting in settings}
    names = [name for name, _ in fields_of(method.Config)]
    chosen = list(settings)
    if "scale" in names and "scale" not in given and _possible(method, [*chosen, "scale=small"]):
        chosen.append("scale=small")  # before all else, because it says what is set within
    config = configure(method, chosen)
    for name in names:
        if f"{name}_settings" in names and (within := getattr(config, name)):
            own = [each for each in getattr(config, f"{name}_settings").split(",") if each]
            if f"{name}_settings" not in given:
                own = [each for each in own if each.partition("=")[0].rpartition(".")[2] not in SMALLEST]
            chosen.append(f"{name}_settings={','.join(smallest_settings(find_method(within), own))}")
    fields = [name for name in names if name not in given]
    for leaf, value in SMALLEST.items():
        for name in fields:
            if name.rpartition(".")[2] == leaf:
                tried = (f"{name}={each}" for each in (value, *ELSE.get(leaf, ())))
                chosen += islice((each for each in tried if _possible(method, [*chosen, each])), 1)
    return tuple(chosen)


def _possible(method: type[Method], settings: Sequence[str]) -> bool:
    try:
        configure(method, settings)
    except WhalebenchError:
        return False
    return True
