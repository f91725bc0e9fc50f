"""Known checkpoints: licence, the data they were trained on, and whether a benchmark's photos are among it.

Tensors are not touched here and nothing heavy is imported, so that any record can say what its weights saw.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from whalebench.methods.method import MethodConfig

HUB = "hf-hub:"
"""What timm writes before the name of a network on the hub."""
MEGADESCRIPTOR_DATA = (
    "AAUZebraFish", "AerialCattle2017", "ATRW", "BelugaID", "BirdIndividualID", "Cows2021", "CTai", "CZoo",
    "FriesianCattle2015", "FriesianCattle2017", "Giraffes", "GiraffeZebraID", "HappyWhale", "HumpbackWhaleID",
    "HyenaID2022", "IPanda50", "LeopardID2022", "LionData", "MacaqueFaces", "NDD20", "NOAARightWhale",
    "NyalaData", "OpenCows2020", "SealID", "SeaTurtleIDHeads", "SMALST", "StripeSpotter", "WhaleSharkID",
    "ZindiTurtleRecall",
)  # fmt: skip
"""The 29 sets of Čermák et al. 2024, as the baselines of wildlife-tools list them."""
TAGS = {
    "in1k": "ImageNet-1k", "in12k": "ImageNet-12k", "in21k": "ImageNet-22k", "in22k": "ImageNet-22k",
    "lvd142m": "LVD-142M", "lvd1689m": "LVD-1689M", "openai": "WIT-400M", "laion2b": "LAION-2B",
    "laion400m": "LAION-400M", "datacompxl": "DataComp-XL", "webli": "WebLI", "inat21": "iNaturalist 2021",
}  # fmt: skip
"""What the words of timm's tags (the part of a name after the dot) mean."""
ALIASES = {
    "NOAARightWhale": ("rightwhale", "rightwhales", "noaarightwhalerecognition"),
    "HumpbackWhaleID": ("humpback", "humpbackwhale", "humpbackwhaleidentification"),
    "HappyWhale": ("happywhaleanddolphin",),
}
"""Other names of public sets, as competitions call them; small letters and digits only."""


@dataclass(frozen=True)
class Checkpoint:
    """What is known of published weights."""

    name: str
    licence: str
    """Of the weights; empty where nothing is said."""
    data: tuple[str, ...]
    """The sets it was trained on, by the names that their papers use."""
    complete: bool = True
    """Whether these are all: where they are not, that a benchmark is not among them says nothing."""
    architecture: str = ""
    """timm's name of the network, for weights of the hub."""
    repository: str = ""
    """On the hub."""
    layout: Literal["timm", "miewid"] = "timm"
    """How the weights are laid out: as timm's, or as MiewID's with a pooling and a normalisation behind."""


def _mega(size: str, architecture: str) -> Checkpoint:
    name = f"MegaDescriptor-{size}"
    return Checkpoint(
        name, "CC-BY-NC-4.0", (*MEGADESCRIPTOR_DATA, "ImageNet"), True, architecture, f"BVRA/{name}"
    )


def _miew(version: str) -> Checkpoint:
    # The card names Wildbook's platforms, Happywhale's competition and "publicly available datasets".
    name, data = f"miewid-{version}", ("Wildbook", "HappyWhale", "ImageNet-1k")
    hub = f"conservationxlabs/{name}"
    return Checkpoint(name, "", data, False, "efficientnetv2_rw_m", hub, "miewid")


KNOWN = (
    _mega("T-224", "swin_tiny_patch4_window7_224"),
    _mega("S-224", "swin_small_patch4_window7_224"),
    _mega("B-224", "swin_base_patch4_window7_224"),
    _mega("L-224", "swin_large_patch4_window7_224"),
    _mega("L-384", "swin_large_patch4_window12_384"),
    _miew("msv2"),
    _miew("msv3"),
    Checkpoint("efficientnet-lite0", "Apache-2.0", ("ImageNet-1k",)),
)
"""Weights with a name of their own; timm's are read from timm, by their tags."""


def find_checkpoint(name: str) -> Checkpoint | None:
    """The known checkpoint of that name, with or without `hf-hub:` and its owner; None for all others."""
    wanted = name.removeprefix(HUB).rpartition("/")[2].lower()
    return next((known for known in KNOWN if known.name.lower() == wanted), None)


def pretraining(config: MethodConfig, benchmark: str, dataset: str = "") -> dict[str, Any]:
    """By checkpoint that a method starts from: licence, data, whether complete, and the set seen or nothing.

    dataset is the public set that the benchmark is said to be; where nothing is said, its name is gone by.
    Empty for a method that starts from nothing, or from weights of which nothing is known.
    """
    found = [
        checkpoint for name in _starts(config) if (checkpoint := find_checkpoint(name) or _of_timm(name))
    ]
    return {
        each.name: {
            "licence": each.licence,
            "data": list(each.data),
            "complete": each.complete,
            "seen": _seen(each.data, benchmark, dataset),
        }
        for each in found
    }


def _starts(config: BaseModel) -> Iterator[str]:
    """The weights that the configuration and its parts name: a network, or a file by its stem."""
    start, backbone = getattr(config, "pretrained", "none"), str(getattr(config, "backbone", ""))
    # A file on a network known by its checkpoint's name holds that checkpoint: what else would fit it?
    if start == "timm" or (start != "none" and find_checkpoint(backbone)):
        # Recipes of several networks join their names.
        yield from backbone.split("+")
    elif start != "none":
        yield Path(start).stem if Path(start).suffix else start
    parts = [getattr(config, name) for name in type(config).model_fields]
    within = config.within() if isinstance(config, MethodConfig) else ()
    for part in (*parts, *within):
        if isinstance(part, BaseModel):
            yield from _starts(part)


def _of_timm(name: str) -> Checkpoint | None:
    """What timm says of its own weights of that name."""
    import timm  # noqa: PLC0415  (seconds to import; whoever starts from its weights has done so)

    if name.startswith(HUB) or not timm.is_model(name):
        return None
    facts = timm.get_pretrained_cfg(name)
    tag, licence = (facts.tag or "", facts.license or "") if facts else ("", "")
    words = tag.split("_")
    data = tuple(dict.fromkeys(TAGS[word] for word in words if word in TAGS))
    full = name if "." in name or not tag else f"{name}.{tag}"
    # Of what was gathered on the web nobody can say what is not in it; ImageNet is known photo by photo.
    complete = bool(data) and all(each.startswith("ImageNet") for each in data)
    return Checkpoint(full, licence, data, complete)


def _seen(data: tuple[str, ...], benchmark: str, dataset: str) -> str:
    """The set among the data that the benchmark is said to be, or whose name its own begins with."""
    name = re.sub(r"[^a-z0-9]", "", (dataset or benchmark).lower())
    for each in data:
        for alias in (each.lower(), *ALIASES.get(each, ())):
            if name == alias or (not dataset and len(alias) > len("humpback") and name.startswith(alias)):
                return each
    return ""
