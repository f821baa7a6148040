import pytest
import torch
from more4d.models.image_encoder import CLIP_VIT_H, TINY, ImageEncoder, ImageEncoderConfig


def test_an_image_becomes_a_class_token_and_its_patches() -> None:
    encoder = ImageEncoder.from_config(TINY)
    image = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    assert encoder.encode(image).shape == (2, TINY.tokens, TINY.dim) == (2, 17, 96)
    assert torch.equal(encoder.encode(image), encoder.encode(image.float()))


def test_the_published_size_gives_257_tokens() -> None:
    assert (CLIP_VIT_H.tokens, CLIP_VIT_H.dim) == (257, 1280)


def test_tokens_are_those_of_the_penultimate_layer() -> None:
    encoder = ImageEncoder.from_config(TINY).eval()
    pixels = torch.randn(1, 3, 64, 64)
    states = encoder.vision(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(encoder(pixels), states[-2])


def test_every_trained_parameter_gets_a_gradient() -> None:
    encoder = ImageEncoder.from_config(TINY)
    encoder.encode(torch.rand(2, 3, 64, 96) * 255).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="heads=5 must divide dim=96"):
        ImageEncoderConfig(**(TINY.model_dump() | {"heads": 5}))
