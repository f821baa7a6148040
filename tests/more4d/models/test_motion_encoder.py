import math

import pytest
import torch
from more4d.models.motion_encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OMNIMAE_VITB,
    OMNIMAE_VITL,
    TINY,
    MaskedAutoencoder,
    MotionEncoder,
    MotionEncoderConfig,
    normalise_clip,
    patchify,
    sinusoid_table,
)
from torch.nn import functional


def test_an_image_becomes_one_feature_a_patch() -> None:
    encoder = MotionEncoder.from_config(TINY)
    image = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    features = encoder.encode(image)
    assert features.shape == (2, TINY.grid[0] * TINY.grid[1], TINY.dim)
    assert torch.equal(features, encoder.encode(image.float()))


def test_position_table_holds_the_published_formula() -> None:
    table = sinusoid_table(OMNIMAE_VITB.table_length, OMNIMAE_VITB.dim)
    assert table.shape == (1568, 768)
    for position, column in [(0, 0), (1, 0), (1, 1), (7, 100), (195, 401), (1567, 767)]:
        angle = position / 10000 ** (2 * (column // 2) / 768)
        expected = math.sin(angle) if column % 2 == 0 else math.cos(angle)
        assert table[position, column].item() == pytest.approx(expected, abs=1e-6)


def test_parameters_have_the_published_names_and_count() -> None:
    with torch.device("meta"):
        network = MaskedAutoencoder(OMNIMAE_VITB)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["trunk.patch_embed.proj.1.weight"] == (768, 3, 2, 16, 16)
    assert shapes["trunk.pos_embed"] == (1, 1568, 768)
    assert shapes["trunk.blocks.11.attn.qkv.bias"] == (2304,)
    assert "decoder.decoder_blocks.3.attn.qkv.bias" not in shapes
    assert shapes["head.weight"] == (1536, 384)
    # 96,626,304 numbers in the published checkpoint, its two position tables included.
    assert sum(value.numel() for value in network.state_dict().values()) == 96_626_304


def test_the_large_trunk_has_the_size_of_vit_l() -> None:
    with torch.device("meta"):
        network = MaskedAutoencoder(OMNIMAE_VITL)
    # 24 blocks of 12 D² + 13 D, the patches' 3·2·16² D + D, the last norm's 2 D.
    assert sum(p.numel() for p in network.trunk.parameters()) == 24 * (12 * 1024**2 + 13 * 1024) + 1539 * 1024
    assert 302e6 < sum(p.numel() for p in network.trunk.parameters()) < 305e6
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["trunk.pos_embed"] == (1, 1568, 1024) and shapes["decoder.decoder_embed.weight"] == (512, 1024)
    assert shapes["decoder.decoder_blocks.3.mlp.fc1.weight"] == (2048, 512) and shapes["head.weight"] == (1536, 512)


@pytest.mark.parametrize(("height", "width"), [(368, 512), (100, 60), (64, 64)])
def test_resizing_then_normalising_equals_the_published_order(height: int, width: int) -> None:
    image = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = (image / 255 - mean) / std
    published = functional.interpolate(normalised, size=(64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(normalise_clip(image[:, :, None], 64)[:, :, 0], published, rtol=1e-5, atol=2e-6)
    encoder = MotionEncoder.from_config(TINY)
    torch.testing.assert_close(encoder.encode(image), encoder(published[:, :, None]), rtol=1e-4, atol=1e-4)


def test_patches_are_in_row_major_order() -> None:
    encoder = MotionEncoder.from_config(TINY)
    rows, columns = TINY.grid
    size, patch = TINY.image_size, TINY.patch_size[1]
    image = torch.zeros(1, 3, size, size)
    plain = encoder.patch_embed(image[:, :, None])
    for row, column in [(0, 0), (0, 5), (3, 2), (rows - 1, columns - 1)]:
        marked = image.clone()
        marked[..., row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 1
        changed = (encoder.patch_embed(marked[:, :, None]) != plain).any(-1)[0]
        assert changed.nonzero().tolist() == [[row * columns + column]]


def test_an_image_equals_a_clip_of_its_copies() -> None:
    encoder = MotionEncoder.from_config(TINY)
    image = torch.randn(1, 3, 1, 64, 64)
    torch.testing.assert_close(encoder(image), encoder(image.expand(-1, -1, 2, -1, -1)))


def test_hidden_patches_do_not_reach_the_trunk() -> None:
    encoder = MotionEncoder.from_config(TINY)
    visible = torch.tensor([[3, 40, 100]])
    clip = torch.randn(1, 3, 4, 64, 64)
    other = torch.randn(1, 3, 4, 64, 64)
    for patch in visible[0].tolist():
        moment, place = divmod(patch, 64)
        row, column = divmod(place, 8)
        box = (slice(None), slice(None), slice(2 * moment, 2 * moment + 2))
        box += (slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
        other[box] = clip[box]
    torch.testing.assert_close(encoder(clip, visible), encoder(other, visible))


def test_clip_is_normalised_by_imagenet_statistics() -> None:
    grey = torch.full((1, 3, 1, 10, 20), 51, dtype=torch.uint8)
    pixels = normalise_clip(grey, 8)
    assert pixels.shape == (1, 3, 1, 8, 8)
    for channel in range(3):
        expected = (0.2 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        torch.testing.assert_close(pixels[0, channel], torch.full((1, 8, 8), expected))


def test_patchify_keeps_time_row_column_colour_order() -> None:
    clip = torch.arange(3 * 4 * 64 * 64).reshape(1, 3, 4, 64, 64)
    patches = patchify(clip, TINY)
    assert patches.shape == (1, 128, 2 * 8 * 8 * 3)
    first = clip[0, :, 2:4, 8:16, 16:24].permute(1, 2, 3, 0).flatten()
    assert torch.equal(patches[0, 64 + 8 + 2], first)


def test_a_patch_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patch_size=\(2, 7, 8\)"):
        MotionEncoderConfig(**(TINY.model_dump() | {"patch_size": (2, 7, 8)}))
