"""Where a network starts: from a finished run's weights, or from photos that it looks at without labels.

A run's weights are taken up by a network of the same kind that is as wide and as deep, or more so, without
changing what comes out (Net2Net, Chen et al. 2016). Photos without labels teach a backbone that two views of
one photo belong together (VICReg, Bardes et al. 2022). Both were wishes of the system that came second in the
Right Whale competition (Lau 2016, 7.3 and 7.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from whalebench import WhalebenchError
from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.photos import Batch, Photos, Size
from whalebench.benchmarks.core.usage import STARTING_WEIGHTS
from whalebench.methods.method import Harness
from whalebench.methods.parts.losses.margins import SoftmaxLoss
from whalebench.methods.parts.networks.weights import COLOURS, grow, widened
from whalebench.methods.parts.training.config import ScheduleConfig, TrainingConfig
from whalebench.methods.parts.training.samplers import Shuffled

Learn = Callable[..., tuple[nn.Module, nn.Module]]
"""`train_network`, which begins here."""

PRETRAIN_EPOCHS = 30


class StartConfig(TrainingConfig):
    """Fields of where a network starts from that tells individuals apart."""

    start_from: str = ""
    """A finished run of this fold, by its name or how that begins, whose network this one starts from: of the
    same kind, as wide and as deep or more so."""
    pretrain: Literal["none", "train", "test"] = "none"
    """The photos on which the backbone learns first, without labels: of train, or test's bare photos beside
    them, which is transductive and ranked apart."""
    pretrain_epochs: Annotated[int, Field(ge=1)] = PRETRAIN_EPOCHS
    """Passes over these photos, each seen twice in a pass."""

    @model_validator(mode="after")
    def _epochs_of_a_pre_training(self) -> Self:
        if self.pretrain == "none" and self.pretrain_epochs != PRETRAIN_EPOCHS:
            raise ValueError(
                f"pretrain_epochs={self.pretrain_epochs} is of a pre-training, and there is none; set "
                f"pretrain=train, or leave it out"
            )
        return self


TRIED, SAME = 8, 1e-4
"""Pictures of noise on which a grown network is held against the one before; by how much it may miss it."""
STARTED = "started"
"""The attribute of a network that has begun to learn, and goes on in a second training from where it is."""


def begin(
    network: nn.Module, loss: nn.Module, train: Photos, config: StartConfig, harness: Harness, learn: Learn
) -> None:
    """Puts a network that has not learned, and its loss, where the configuration says it starts."""
    if getattr(network, STARTED, False):
        return
    setattr(network, STARTED, True)
    if config.start_from:
        take_up(network, loss, config, harness)
    if config.pretrain != "none":
        pretrain(network, harness.unlabelled or train, config, harness, learn)


PROTOTYPES = {"identity.centres": "prototypes"}
"""The name in a run's weights of what a loss calls otherwise."""


def take_up(network: nn.Module, loss: nn.Module, config: StartConfig, harness: Harness) -> None:
    """Grows the network out of the one that a run's weights hold, and the loss where that is the same.

    Raises WhalebenchError for what are no weights of one network, of another kind of network, or of one that
    this cannot grow out of without answering otherwise.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(config.start_from)
    name = file.parent.name
    harness.starting(name)
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise WhalebenchError(f"start_from={file} cannot be read ({error}): give a finished run.") from error
    learned, of_loss = _of_one_network(weights, name)
    generator = torch.Generator().manual_seed(harness.seed)
    try:
        deeper = grow(network, learned, generator)
    except ValueError as error:
        raise WhalebenchError(
            f"start_from={name} holds a network that this one is no wider or deeper kind of ({error}): give "
            f"a backbone of that kind, or leave start_from out."
        ) from error
    if deeper and harness.device.type == "cuda":
        harness.warn("Blocks were added to the starting network, which in bf16 pass features on inexactly.")
    _take_up_loss(loss, of_loss, generator)
    setattr(network, STARTING_WEIGHTS, {name: digest_file(file)})
    _refuse_other_answers(network, learned, config, harness, classifies=isinstance(loss, SoftmaxLoss))


def _refuse_other_answers(
    network: nn.Module,
    learned: Mapping[str, Tensor],
    config: StartConfig,
    harness: Harness,
    *,
    classifies: bool,
) -> None:
    """Raises WhalebenchError where the grown network makes something else of noise than the run's own did."""
    name = Path(config.start_from).parent.name
    try:
        before = _as_it_was(network, learned, config)
    except (TypeError, ValueError, RuntimeError):  # a network of somebody else's, made in another way
        harness.warn(
            f"Whether the network does what that of {name} did was not tried: it cannot be made again."
        )
        return
    channels = getattr(config, "channels", lambda: COLOURS)()
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(TRIED, channels, *config.size_at(config.epochs), generator=generator)
    was_learning = network.training
    with torch.inference_mode():
        old, new = before.eval()(noise), network.eval()(noise)
    network.train(was_learning)
    expected = old[:, torch.arange(new.shape[1]) % old.shape[1]]  # a head shares its weights out among copies
    off = float((new - expected).abs().max() / expected.abs().max())
    if not classifies:  # by cosines, in which each copy counts
        old, new = F.normalize(old), F.normalize(new)
        off = max(off, float((new @ new.T - old @ old.T).abs().max()))
    if not off <= SAME:
        raise WhalebenchError(
            f"start_from={name}: this network would not do what that one does, but miss it by "
            f"{100 * off:.2g} %: take its grid, its dimensions or a multiple of them, and a backbone whose "
            f"wider channels are not grouped, joined or normalised together."
        )


def _as_it_was(network: nn.Module, learned: Mapping[str, Tensor], config: StartConfig) -> nn.Module:
    """The network of the run that the configuration starts from, with what it learned."""
    from whalebench.benchmarks.core.record import read_record

    stored = read_record(Path(config.start_from).parent).config
    fields = {field: stored[field] for field in type(config).model_fields if field in stored}
    before: nn.Module = cast(Any, type(network))(type(config).model_validate(fields).without_download())
    before.load_state_dict(learned)
    return before


def _of_one_network(weights: Mapping[str, Tensor], name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's weights and all others of the method that has it, by their names there."""
    methods = {begin for key in weights if (begin := _method_of(key)) is not None}
    if len(methods) != 1:
        raise WhalebenchError(
            f"start_from={name} holds {len(methods) or 'no'} networks that tell individuals apart, not "
            f"one: give a run of one network, in one cycle and without bags."
        )
    (start,) = methods
    own = {key[len(start) :]: value for key, value in weights.items() if key.startswith(start)}
    network = {key[len("network.") :]: value for key, value in own.items() if key.startswith("network.")}
    return network, own


def _method_of(key: str) -> str | None:
    """What stands before `network.`: nothing, or a member's number; None for a weight of something else."""
    start, found, _ = key.partition("network.")
    return start if found and (not start or start[:-1].isdecimal()) else None


def _take_up_loss(loss: nn.Module, learned: Mapping[str, Tensor], generator: torch.Generator) -> None:
    """Puts the head where it was, as wide as features are; it stays as drawn for other individuals."""
    state = dict(loss.named_parameters())
    known = {name: learned.get(PROTOTYPES.get(name, f"loss.{name}")) for name in state}
    if any(value is None or value.shape[:1] != state[name].shape[:1] for name, value in known.items()):
        return
    try:
        grown = {
            name: _widened_head(value, state[name], loss, generator)
            for name, value in known.items()
            if value is not None
        }
    except ValueError:
        return
    loss.load_state_dict(grown, strict=False)


def _widened_head(value: Tensor, like: Tensor, loss: nn.Module, generator: torch.Generator) -> Tensor:
    """A head's weights for wider features: shared out among copies, or where cosines count each a copy."""
    if isinstance(loss, SoftmaxLoss) or value.ndim < 2 or value.shape[:-1] != like.shape[:-1]:
        return widened(value, like, generator)
    return value[..., torch.arange(like.shape[-1]) % value.shape[-1]]


@dataclass(frozen=True, eq=False)
class Beside:
    """A lens through which the photos of several parts are seen as those of one."""

    parts: tuple[Photos, ...]
    part: NDArray[np.int64]
    """(photos,) in which part each is,"""
    place: NDArray[np.int64]
    """(photos,) and where there."""

    def select(self, indices: NDArray[np.int64]) -> Beside:
        """The lens for the photos at some places, in that order."""
        return Beside(self.parts, self.part[indices], self.place[indices])

    def look(self, behind: Photos, indices: NDArray[np.int64], size: Size, device: torch.device) -> Batch:
        """The pixels of some of the photos, each as its part shows it."""
        del behind
        part, place = self.part[indices], self.place[indices]
        looks = [
            (at, each.batch(place[at], size, device).pixels)
            for number, each in enumerate(self.parts)
            if len(at := np.flatnonzero(part == number))
        ]
        pixels = torch.empty((len(indices), *looks[0][1].shape[1:]), device=device)
        for at, seen in looks:
            pixels[torch.from_numpy(at).to(device)] = seen
        return Batch(pixels)


def beside(*parts: Photos) -> Photos:
    """Bare photos of several parts, one part after the other, each as it is shown."""
    bare = tuple(each.bare() for each in parts)
    behind = Photos(
        images=sum((each.images for each in bare), ()),
        digests=sum((each.digests for each in bare), ()),
        identities=(),
        store=bare[0].store,
        rows=np.concatenate([each.rows for each in bare]),
        shapes=np.concatenate([each.shapes for each in bare]),
    )
    part = np.repeat(np.arange(len(bare)), [len(each) for each in bare])
    place = np.concatenate([np.arange(len(each)) for each in bare])
    return behind.through(Beside(bare, part, place))


class TwoViews(Shuffled):
    """Every photo once an epoch, all of a step twice: two views, as augmentation draws for each."""

    def epoch(self, generator: torch.Generator) -> list[NDArray[np.int64]]:
        """The photos of each step, and the same once more."""
        return [np.tile(step, 2) for step in super().epoch(generator)]


EXPANDED = 512
"""Dimensions in which views are compared; the author of VICReg has 8192, for ImageNet."""
INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0
"""Weights of the three terms, as published."""


class Vicreg(nn.Module):
    """Views of a photo alike, photos apart, dimensions that say different things (Bardes et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expander = nn.Sequential(
            *(nn.Linear(channels, EXPANDED), nn.BatchNorm1d(EXPANDED), nn.ReLU()),
            *(nn.Linear(EXPANDED, EXPANDED), nn.BatchNorm1d(EXPANDED), nn.ReLU()),
            nn.Linear(EXPANDED, EXPANDED),
        )

    def forward(self, features: Tensor, _: object) -> Tensor:
        """The loss of features (2 x photos, channels), of the first view of all and then of the second."""
        with torch.autocast(features.device.type, enabled=False):
            views = self.expander(features.float()).chunk(2)
            alike = F.mse_loss(*views)
            apart = sum(F.relu(1 - (view.var(dim=0) + 1e-4).sqrt()).mean() for view in views) / 2
            different = sum(_off_diagonal(view) for view in views)
            return INVARIANCE * alike + VARIANCE * apart + COVARIANCE * different


def _off_diagonal(view: Tensor) -> Tensor:
    """The sum of the squared covariances of two dimensions each, over the dimensions."""
    covariance = view.T.cov()
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / len(covariance)


class MeanFeatures(nn.Module):
    """A backbone and the mean of its last feature map."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (photos, channels) of pixels (photos, channels, height, width)."""
        maps: Tensor | list[Tensor] = self.backbone(pixels)
        return (maps[-1] if isinstance(maps, list) else maps).mean(dim=(2, 3))


def pretrain(network: nn.Module, photos: Photos, config: StartConfig, harness: Harness, learn: Learn) -> None:
    """Has the network's backbone learn from photos without labels; a part of the run's lineage."""
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise WhalebenchError(
            f"pretrain={config.pretrain} is for a network with a backbone, which this has not: leave it out."
        )
    averaged = MeanFeatures(backbone)
    with torch.inference_mode():
        channels = averaged.eval()(torch.zeros(1, _channels(backbone), *config.size)).shape[1]
    changed: dict[str, Any] = {"epochs": config.pretrain_epochs, "small_epochs": 0, "average": "ema"}
    changed |= {"augment": "heavy", "start_from": "", "pretrain": "none", "schedule": ScheduleConfig()}
    changed["watch_train"] = False  # its loss is of two views
    stage = harness.at_stage
    with harness.scope("pretrain"):
        harness.stage("train")
        learned, _ = learn(
            averaged,
            Vicreg(channels),
            photos.bare(),
            config.model_copy(update=changed),
            harness,
            lambda network, loss: None,
            target=lambda batch: None,
            artefact="backbone",
            sampler=TwoViews(len(photos), config.batch_size),
        )
    backbone.load_state_dict(learned.backbone.state_dict())  # type: ignore[union-attr]
    harness.stage(stage)


def _channels(backbone: nn.Module) -> int:
    """Of the photos that the backbone sees."""
    return next(value.shape[1] for name, value in backbone.named_buffers() if name.endswith("mean"))
