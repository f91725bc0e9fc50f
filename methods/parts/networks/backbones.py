"""Backbones: any timm network by name, and some of this package, from photos to feature maps.

An encoder is a backbone that gives its feature maps of all resolutions, for a decoder.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whalebench import MissingError, WhalebenchError, one_line
from whalebench.benchmarks.core.photos import Size
from whalebench.benchmarks.core.usage import STARTING_WEIGHTS
from whalebench.methods.parts.networks import at_hand
from whalebench.methods.parts.networks.own import NARROW_RESNET, RIGHT_WHALE_NETWORKS, NarrowResNet
from whalebench.methods.parts.networks.weights import (
    COLOURS,
    HUB,
    LITE0,
    digest_weights,
    find_checkpoint,
    hub_file,
    lite0_weights,
    load_file,
    with_zeros,
)

OWN: dict[str, Callable[[int], nn.Module]] = {NARROW_RESNET: NarrowResNet, **RIGHT_WHALE_NETWORKS}
"""The networks that are not timm's: name -> function that builds one for a number of channels."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A network without its classifier, behind the normalisation of pixels that its weights expect."""

    def __init__(
        self, network: nn.Module, channels: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.network = network
        self.channels = channels
        """Of the feature map."""
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=True)
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1), persistent=True)

    def forward(self, pixels: Tensor) -> Tensor:
        """Feature map (photos, channels, height, width) from pixels (photos, 3, height, width) in [0, 1].

        The tokens of a transformer are put where their patches are, without its class tokens; where the
        network does not say where that is, the map is one token wide.
        """
        features: Tensor = self.network.forward_features(self.normalise(pixels))  # type: ignore[operator]
        if features.ndim == 3:
            prefix = int(getattr(self.network, "num_prefix_tokens", 0))
            tokens = features[:, prefix:].mT
            grid: tuple[int, ...] = getattr(getattr(self.network, "patch_embed", None), "grid_size", ())
            fits = len(grid) == 2 and math.prod(grid) == tokens.shape[-1]
            features = tokens.reshape(*tokens.shape[:2], *grid) if fits else tokens[..., None]
        elif features.shape[1] != self.channels:
            features = features.permute(0, 3, 1, 2)
        return features

    def pooled(self, pixels: Tensor) -> Tensor:
        """Features (photos, n) by the network's own pooling; by the average where it has none."""
        if not hasattr(self.network, "forward_head"):
            return self(pixels).mean(dim=(2, 3))  # type: ignore[no-any-return]
        features: Tensor = self.network(self.normalise(pixels))
        return features

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] less the mean, over the standard deviation, that the weights were learned with."""
        return (pixels - self.get_buffer("mean")) / self.get_buffer("std")


def build_backbone(
    name: str, pretrained: str, *sizes: Size, channels: int = 3, own_pooling: bool = False
) -> Backbone:
    """The network of that name for photos of sizes (height, width), built for the first of them.

    name is one of timm's, of a known checkpoint, of the hub (hf-hub:...) or of OWN; channels beyond the
    three colours enter the first convolution with weights of zero, so that the network starts as it would
    without them. own_pooling builds it with the pooling it was trained with, for `Backbone.pooled`.

    pretrained: "none" for a network from scratch, "timm" for timm's own weights (downloaded), the name
    "efficientnet-lite0" for the weights of that package, or the path of a safetensors file with the
    parameter names of timm or OWN. Raises WhalebenchError for an unknown name or weights that do not fit.
    """
    if name in OWN and pretrained == "timm":
        raise WhalebenchError(f"timm has no weights of '{name}': give pretrained=none, or a file.")
    colours = _create(name, pretrained == "timm", sizes[0], COLOURS, own_pooling)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if name not in OWN:
        mean, std = colours.pretrained_cfg["mean"], colours.pretrained_cfg["std"]
    if pretrained == LITE0:
        colours.load_state_dict(lite0_weights(name, colours))
        mean = std = (0.5, 0.5, 0.5)
    network = colours
    if channels != COLOURS:
        network = _with_channels(colours, name, sizes[0], channels, own_pooling)
    if pretrained not in ("none", "timm", LITE0):
        load_file(network, colours, Path(pretrained))
    extra = channels - COLOURS
    backbone = Backbone(network, int(network.num_features), (*mean, *[0.0] * extra), (*std, *[1.0] * extra))
    if pretrained != "none":
        weights = name if pretrained == "timm" else Path(pretrained).name
        setattr(backbone, STARTING_WEIGHTS, {weights: digest_weights(network)})
    for size in sizes:
        _try_size(backbone, name, size)
    return backbone


def _create(name: str, download: bool, size: Size, channels: int, own_pooling: bool = False) -> Any:
    """The network of that name for a number of channels, with timm's weights if they are to be downloaded."""
    if name in OWN:
        return OWN[name](channels)
    import timm

    if known := find_checkpoint(name):
        # The hub is needed for its weights only: the network itself is timm's.
        of_timm = known.layout == "timm" and known.repository
        name = f"{HUB}{known.repository}" if download and of_timm else known.architecture or name
    if not name.startswith(HUB) and not timm.is_model(name):
        close = difflib.get_close_matches(name[:80], [*OWN, *timm.list_models()], n=3)
        raise WhalebenchError(
            f"backbone '{name}' is not a network of timm {timm.__version__}: "
            + (f"did you mean {' or '.join(close)}?" if close else "see timm.list_models() for the names.")
        )
    foreign = known if known is not None and known.layout == "miewid" else None
    options: dict[str, Any] = {"pretrained": download and not foreign, "num_classes": 0}
    if not own_pooling:
        options["global_pool"] = ""
    if channels != COLOURS:
        options["in_chans"] = channels
    try:
        if download:
            _refuse_without_hub(foreign.repository if foreign else _repository(name))
        # Networks with a fixed input (most transformers) need the size; others refuse the argument.
        try:
            network = timm.create_model(name, **options, img_size=size)
        except TypeError:
            network = timm.create_model(name, **options)
        if download and foreign:
            load_file(network, network, hub_file(foreign.repository))
        for module in network.modules():
            if isinstance(module, nn.Hardswish | nn.SiLU):
                # In place they copy what they are given, for the gradient: as much memory, and more time.
                module.inplace = False
        return network
    except Exception as error:
        if not download:
            what = f"{size[0]} x {size[1]} px" + (f" in {channels} channels" if channels != COLOURS else "")
            raise WhalebenchError(f"backbone '{name}' cannot be built for {what}: {error}") from error
        why = one_line(f"{type(error).__name__}: {error}", 80)
        raise MissingError(
            f"weights of '{one_line(name, 60)}' cannot be had from timm's hub ({why}): check the network "
            f"connection, or give pretrained=none, or the path of a safetensors file."
        ) from error


def _repository(name: str) -> str:
    """The repository on the hub of timm's weights of that name; empty where they come from elsewhere."""
    import timm

    if name.startswith(HUB):
        return name.removeprefix(HUB).partition("@")[0]
    facts = timm.get_pretrained_cfg(name)
    return (facts.hf_hub_id or "") if facts else ""


def _refuse_without_hub(repository: str) -> None:
    """Raises ConnectionError for weights that are not here while the hub does not answer.

    timm would find out, too, but after its retries, which take a minute.
    """
    if repository and not at_hand.can_be_had(repository):
        raise ConnectionError("it does not answer")


def _with_channels(colours: nn.Module, name: str, size: Size, channels: int, own_pooling: bool) -> Any:
    """The network with more channels than colours: zeros for these, and else the same weights."""
    # What is drawn here is thrown away: whatever is drawn next must not depend on the channels.
    with torch.random.fork_rng(devices=[]):
        network = _create(name, False, size, channels, own_pooling)
    state, old = network.state_dict(), colours.state_dict()
    try:
        network.load_state_dict({key: with_zeros(old[key], state[key]) for key in state})
    except (KeyError, ValueError) as error:
        raise WhalebenchError(
            f"backbone '{name}' cannot see {channels} channels ({one_line(error, 80)}): set another backbone."
        ) from error
    return network


def _try_size(backbone: Backbone, name: str, size: Size) -> None:
    """Raises WhalebenchError for a size that the network takes when it is built, but not when it is used."""
    try:
        with torch.inference_mode():
            backbone.eval()(torch.zeros(1, backbone.get_buffer("mean").shape[1], *size))
    except (AssertionError, RuntimeError) as error:
        why = one_line(error, 120)
        raise WhalebenchError(
            f"backbone '{name}' cannot see photos of {size[0]} x {size[1]} px ({why}): set another size."
        ) from error
    backbone.train()


class Encoder(nn.Module):
    """A backbone that gives the last feature map of every resolution; its weights keep their names."""

    def __init__(self, backbone: Backbone, size: Size) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.inference_mode():
            maps = self._stages(torch.zeros(1, backbone.get_buffer("mean").shape[1], *size))
        # A transformer's blocks all have one resolution, and some networks two stages of the same.
        last = {tuple(each.shape[-2:]): stage for stage, each in enumerate(maps)}
        self.stages = sorted(last.values())
        self.channels = [maps[stage].shape[1] for stage in self.stages]
        """Of the feature maps, fine to coarse."""

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps (photos, channels, h, w), fine to coarse, of pixels (photos, 3, h, w) in [0, 1]."""
        maps = self._stages(pixels)
        return [maps[stage] for stage in self.stages]

    def _stages(self, pixels: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.backbone.network.forward_intermediates(  # type: ignore[operator]
            self.backbone.normalise(pixels), intermediates_only=True
        )
        return maps


def build_encoder(name: str, pretrained: str, *sizes: Size, channels: int = 3) -> Encoder:
    """The backbone of that name as an encoder for photos of sizes (height, width).

    pretrained and channels as in `build_backbone`. Raises WhalebenchError for a network that gives its last
    feature map only.
    """
    backbone = build_backbone(name, pretrained, *sizes, channels=channels)
    if not hasattr(backbone.network, "forward_intermediates"):
        raise WhalebenchError(
            f"backbone '{name}' does not hand out its stages, and more than the last is needed: choose "
            f"another, for example resnet18."
        )
    encoder = Encoder(backbone.eval(), sizes[0])
    return encoder.train()
