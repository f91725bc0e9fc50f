"""What every method is: a frozen configuration and two verbs, learn and score."""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from whalebench.benchmarks.core.checkpoint import Stateful
    from whalebench.benchmarks.core.photos import LabelledPhotos, Photos


@dataclass(frozen=True)
class Search:
    """The range in which tuning looks for a field's value; written beside the field."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """The words among which tuning looks for a field's value; written beside the field."""

    values: tuple[str, ...]


FieldValue = float | str | bool
"""What a field that is tuned may hold."""
NewRule = Literal["column", "second"]
NEW_FIELDS = ("new_rule", "new_share")
"""The fields of every method that say how *new* is told."""


class PartConfig(BaseModel):
    """Base of every configuration, also of a part within another: frozen, typed, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    former: ClassVar[dict[str, str]] = {}
    """Fields that older records have, which changed no score, and why there are none any more."""

    @model_validator(mode="before")
    @classmethod
    def _without_former(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if name not in cls.former}

    def tunable(self) -> dict[str, FieldValue]:
        """The fields worth tuning as it is configured, each with the value that it stands for.

        Those with a Search or a Choice beside them, of parts after their names and a dot. A subclass leaves
        out what has no effect, and says what None stands for.
        """
        values: dict[str, FieldValue] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, PartConfig):
                values |= {f"{name}.{inner}": start for inner, start in value.tunable().items()}
            elif any(isinstance(mark, Search | Choice) for mark in field.metadata) and value is not None:
                values[name] = value
        return values


class MethodConfig(PartConfig):
    """Base of every method's configuration: what the harness asks each of them."""

    new_rule: NewRule = "column"
    """Where *new* stands among the candidates: column, before all scores below one threshold; second, first
    where the best score is below the threshold, else second (26th place of Happywhale)."""
    new_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of *new* photos to expect: the threshold is chosen as if valid had it; unless given, as it is."""

    bags: Annotated[int, Field(ge=1, le=50)] = 1
    """Inner folds of train: as many networks, each taught without one and chosen by it, answer together."""
    bags_joined: Literal["scores", "votes"] = "scores"
    """How they do: by their mean scores, or by votes of 1 / rank."""

    @model_validator(mode="after")
    def _joined_are_several(self) -> Self:
        if self.bags == 1 and self.bags_joined == "votes":
            raise ValueError("bags_joined=votes joins bags, and there are none; set bags=5, or leave it out")
        return self

    def inner_folds(self) -> frozenset[tuple[int, ...]]:
        """In how many inner folds it, or what is within, has train cut: (5,) and (5, 2) for five in two each.

        Behind the number of its own are those of what is left while one of them is held back.
        """
        own = (self.bags,) if self.bags > 1 else ()
        return frozenset({own, *((*own, *cut) for cut in self.inner_folds_within())} - {()})

    def inner_folds_within(self) -> frozenset[tuple[int, ...]]:
        """The same of its parts and of the methods within, each by itself."""
        return frozenset(cut for member in self.within() for cut in member.inner_folds())

    def sees_annotations(self) -> bool:
        """Whether it asks for the boxes, landmarks and masks of the photos it scores: an *oracle*."""
        return False

    def sees_viewpoints(self) -> bool:
        """Whether it asks for the viewpoints of all photos, those it scores, too: its track says so."""
        return any(member.sees_viewpoints() for member in self.within())

    def adapts_by(self) -> str:
        """The setting by which it learns from bare test photos, as pretrain=test: its run is transductive.

        Empty where there is none; a method that learns from them however it is set says so itself.
        """
        return next(filter(None, (member.adapts_by() for member in self.within())), "")

    def inner(self) -> MethodConfig | None:
        """The configuration of the method within, for one that wraps another."""
        return None

    def within(self) -> tuple[MethodConfig, ...]:
        """The configurations of all methods within: that of the inner one, for one made of several theirs."""
        inner = self.inner()
        return () if inner is None else (inner,)


@dataclass(frozen=True)
class Epoch:
    """What a method tells the harness after each epoch."""

    number: int
    """From 1."""
    of: int
    loss: float
    """Mean over the epoch's photos."""
    learning_rate: float
    photos: int
    """Photos learned from in this epoch."""
    seconds: float
    """Spent on learning, without validation."""
    valid_scores: NDArray[np.float32] | None = None
    """(valid photos, identities) as after this epoch, or None where the epoch was not validated."""
    watched: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """`train_loss` and `valid_loss` after this epoch, in evaluation mode, where the training is watched."""


@dataclass(frozen=True)
class Located:
    """Where a method says the animals are, in shares of each photo's width and height; None where unsaid."""

    boxes: NDArray[np.float32] | None = None
    """(photos, 4), x0, y0, x1, y1."""
    landmarks: NDArray[np.float32] | None = None
    """(photos, landmarks, 2), x, y, in the order of the catalog's names."""
    masks: NDArray[np.float32] | None = None
    """(photos, height, width) of any one size, over the whole photo; in [0, 1], 1 on the animal."""
    fallback: NDArray[np.bool_] | None = None
    """(photos,) where the whole photo was used instead, because what was found made no sense."""


class Cycle(Protocol):
    """One of several cycles, each of which trains all networks anew from where the one before left them."""

    def begin(self, parts: Mapping[str, Stateful], done: int) -> None:
        """Puts the parts of the next training where it goes on from, unless so many epochs of it are done."""

    def end(self, parts: Mapping[str, Stateful]) -> None:
        """Keeps the parts as they are after the last epoch, from which the next cycle goes on."""


class RateSearch(Protocol):
    """A range test (Smith 2017): each training is tried at growing learning rates instead of being done."""

    @property
    def rates(self) -> Sequence[float]:
        """One a step, at the peak of the schedule; groups of weights keep their factors."""

    def begin(self, artefact: str, config: PartConfig) -> Callable[[float], bool] | None:
        """What takes the loss of each step and says whether to go on; None where the training is left out."""


class Harness(Protocol):
    """What the runner gives a learning method, and how the method reports back."""

    seed: int
    device: torch.device
    at_stage: str
    """The name of the phase of the work, as it was announced."""
    cycle: Cycle | None
    """The cycle at work, where there are several; `train_network` begins and ends its trainings by it."""
    rate_search: RateSearch | None
    """What looks for learning rates, in `whalebench lr-find`; then `train_network` trains nothing."""
    unlabelled: Photos | None
    """The photos that a backbone may learn from without labels, as the method is shown them; None unless it
    is configured to."""

    def scope(
        self, name: str, cycle: Cycle | None = None, *, same_photos: bool = False
    ) -> AbstractContextManager[None]:
        """While it lasts, stages, choices, warnings and parts are written down as `name.stage`.

        So the trainings of a run are told apart. The parts that are fitted in a cycle, or by one of several
        networks, keep their names: all of them learn from the same photos.
        """

    def inner_folds(self, count: int) -> Mapping[str, int]:
        """By the id of each photo of train the inner fold, of so many, that it is in; -1 for one in none.

        Whole encounters, and of each individual never all of them, are in one inner fold. While photos are
        held back, what is left is cut.
        """

    def held_back(self, photos: LabelledPhotos) -> AbstractContextManager[None]:
        """While it lasts, these photos of train are valid: what is chosen is chosen by them.

        Nothing may be fitted on them then; `fitted` refuses it.
        """

    def stage(self, name: str) -> None:
        """Announces the next phase of the work; its seconds are in the record under this name."""

    def epoch(self, epoch: Epoch) -> None:
        """Takes note of an epoch: the curve, the progress shown, the validation score."""

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """Epochs of the training about to begin that are done already, 0 unless the run was stopped there.

        Then the parts are put back as they were after them. They are kept after the epochs from now on, with
        the random states of torch, numpy and Python; a training is known again by its turn among those of
        the run.
        """

    def kept(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """The network, which never learns: what it makes of the same pixels is made once for all runs.

        It is kept in the workspace's cache; what is taken from there counts as a look.
        """

    def valid_map_at_5(self, scores: NDArray[np.float32]) -> float:
        """MAP@5 of scores (valid photos, identities) at the best threshold of *new* there: to choose by."""

    def valid_log_loss(self, scores: NDArray[np.float32]) -> float:
        """The log loss of scores (valid photos, identities) of known photos at the best temperature there.

        NaN where no valid photo is known.
        """

    def confidence(
        self, valid_scores: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """How probable (photos,) the best candidate of each photo is, from scores (photos, identities).

        By the temperature, and 0 below the threshold of *new*, that valid chooses for its own scores.
        """

    def choose(self, name: str, value: float | None) -> None:
        """Writes down what was chosen on valid, for the record."""

    def warn(self, sentence: str) -> None:
        """Writes down what a reader of the scores should know, for the record."""

    def fitted(self, artefact: str, photos: Photos) -> None:
        """Writes down the photos a part was fitted on; raises RunFailedError for any outside train.

        While `adapt` is at work, and from then on, the photos it was handed are as good as those of train.
        """

    def starting(self, run: str) -> None:
        """Raises RunFailedError where a network is to start from a run that knows photos held back."""


class Value:
    """A single tensor with a state, as networks have one; it has no name of its own."""

    def __init__(self, get: Callable[[], Tensor], put: Callable[[Tensor], object]) -> None:
        self.get, self.put = get, put

    def state_dict(self) -> dict[str, Tensor]:
        """The tensor."""
        return {"": self.get()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Hands over the tensor."""
        self.put(state[""])


def attribute(owner: object, name: str, dtype: torch.dtype | None = None) -> Value:
    """The owner's attribute, a tensor, a number or a tuple of numbers, as something with a state."""
    import torch

    def put(stored: Tensor) -> None:
        value: Any = stored if isinstance(getattr(owner, name, None), torch.Tensor) else stored.tolist()
        if isinstance(value, float):  # in single precision 0.3 is 0.30000001
            value = round(value, 6)
        setattr(owner, name, tuple(value) if isinstance(value, list) else value)

    return Value(lambda: torch.as_tensor(getattr(owner, name), dtype=dtype), put)


def text_tensor(lines: Sequence[str]) -> Tensor:
    """Lines of text, none of which is empty, as bytes: weights are tensors."""
    import torch

    return torch.tensor(list("\n".join(lines).encode()), dtype=torch.uint8)


def tensor_text(stored: Tensor) -> tuple[str, ...]:
    """The lines that `text_tensor` was given."""
    return tuple(filter(None, bytes(stored.tolist()).decode().split("\n")))


Components: TypeAlias = "Mapping[str, Stateful | Restorable]"


class Restorable:
    """Base of what is stored as weights and restored from them, component by component."""

    def components(self) -> Components:
        """What was learned, by name: networks, galleries, numbers, methods within.

        The names of a component's weights follow its name and a dot; where it is empty, they stand alone.
        """
        return {}

    def rebuild(self, identities: int, device: torch.device) -> None:
        """Sets up, for so many individuals, the components that `restore` is about to fill."""
        del identities, device

    def weights(self) -> dict[str, Tensor]:
        """What was learned, by name, to be stored as safetensors."""
        packed: dict[str, Tensor] = {}
        for name, component in self.components().items():
            state = component.weights() if isinstance(component, Restorable) else component.state_dict()
            packed |= {".".join(filter(None, (name, key))): value for key, value in state.items()}
        return packed

    def restore(
        self, weights: Mapping[str, Tensor], identities: tuple[str, ...], device: torch.device
    ) -> None:
        """Takes up what `weights` gave, to score as after learning; NotImplementedError if it cannot."""
        if type(self).components is Restorable.components:
            raise NotImplementedError
        self.rebuild(len(identities), device)
        components = self.components()
        for name, component in components.items():
            state = _of_component(name, weights, components)
            if isinstance(component, Restorable):
                component.restore(state, identities, device)
            else:
                component.load_state_dict(state)


def _of_component(name: str, weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The weights stored under the name, without it; for the empty name those under none of the names."""

    def under(name: str, key: str) -> bool:
        return key == name or key.startswith(f"{name}.")

    if name:
        return {key[len(name) + 1 :]: value for key, value in weights.items() if under(name, key)}
    others = [each for each in names if each]
    return {key: value for key, value in weights.items() if not any(under(each, key) for each in others)}


class Rung(NamedTuple):
    """A step of a published system, and how it is taken here."""

    step: str
    """What its author did, in a few words."""
    published: str
    """What it scored then, and on what; empty where that is not known."""
    settings: str
    """What takes it here, as typed after `whalebench run`, or in words what is done instead."""


class Method(Restorable, ABC):
    """An approach to identification. Subclasses name themselves, their configuration and their source."""

    name: ClassVar[str]
    """What is typed after `whalebench run`."""
    summary: ClassVar[str]
    """One line for `whalebench methods`."""
    source: ClassVar[str]
    """The paper or the system it comes from."""
    published: ClassVar[str] = ""
    """For a recipe, what the system it repeats was said to score, and on what."""
    ladder: ClassVar[tuple[Rung, ...]] = ()
    """For a recipe, the steps of the system it repeats, the first one first."""
    Config: ClassVar[type[MethodConfig]]
    bagged: ClassVar[Any] = None
    """Its bags as a class derived from `parts.bagging.Bagged`, where they answer by a rule of its own."""
    transductive: bool = False
    """Whether a photo's score depends on other test photos; such runs have tables of their own."""
    scores_alone: bool = False
    """Whether, though transductive, it depends on those learned from and not on those it is scored with."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Takes the hook of methods written for version 0.1, `unfit`, for the one it is called today."""
        super().__init_subclass__(**options)
        if "unfit" in vars(cls):
            warnings.warn(
                f"{cls.__qualname__}.unfit() is called missing_requirement() now.",
                DeprecationWarning,
                stacklevel=2,
            )
            cls.missing_requirement = vars(cls)["unfit"]  # type: ignore[method-assign]

    def __init__(self, config: MethodConfig) -> None:
        self.config = config

    def missing_requirement(self, train: LabelledPhotos, queries: Photos) -> str:
        """What the photos lack that it cannot do without, as "boxes"; empty where it fits."""
        del train, queries
        return ""

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The photo sizes (height, width) it will ask for, decoded before the clock starts."""
        return ()

    @abstractmethod
    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Learns from train, of known individuals and *new* ones, and chooses on valid.

        `labels` (photos,) are places in `train.identities`, -1 for *new*. Each part that learns is named to
        `harness.fitted`; RunFailedError ends the run with its sentence.
        """

    def adapt(self, unlabelled: Photos, harness: Harness) -> None:
        """Goes on to learn from the bare test photos; a transductive method is asked to, once it has learned.

        Nothing is known of them but their pixels (and, in an oracle's run, annotations).
        """
        del unlabelled, harness

    @abstractmethod
    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Scores (photos, identities), higher is more likely; photos carry no labels."""

    def variants(self, photos: Photos) -> dict[str, NDArray[np.float32]]:
        """Other scores (photos, identities) of what it has learned, by name, for the record; none by default.

        They are judged as its own scores are, each by a temperature and a threshold of its own, and are no
        part of the leaderboard: one network of several, or a simpler last step.
        """
        del photos
        return {}

    def embed(self, photos: Photos) -> NDArray[np.float32] | None:
        """Embeddings (photos, dimensions) for retrieval, or None for a method that has none."""
        return None

    def score_and_embed(self, photos: Photos) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """What `score` and `embed` give; a method that makes one of the other need look only once."""
        return self.score(photos), self.embed(photos)

    def extend(self, photos: LabelledPhotos) -> None:
        """Takes more photos into its gallery, without learning; NotImplementedError if it has none.

        `identities` of the photos are those it learned and behind them further ones, for which scores then
        have columns, too.
        """
        del photos
        raise NotImplementedError

    def locate(self, photos: Photos) -> Located | None:
        """Where the animals are in whole photos, or None for a method that does not look for them."""
        del photos
        return None
