import math

import torch
from more4d.models.trajectory_codec import TrajectoryCodecConfig, TrajectoryDecoder, TrajectoryEncoder

SMALL = TrajectoryCodecConfig(width=8, groups=4, gain=2.0, starts_as_inverse=True)


def motion(scale: float = 0.3) -> torch.Tensor:
    """Motion [2,3,3,6,7] between -scale and scale."""
    return (torch.rand(2, 3, 3, 6, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1) * scale


def test_a_fresh_encoder_is_its_closed_form_and_no_motion_is_mid_grey() -> None:
    encoder = TrajectoryEncoder(SMALL)
    assert not encoder.is_trained
    assert torch.allclose(encoder(motion()), torch.tanh(motion()), atol=1e-6)
    assert torch.allclose(encoder(motion()), encoder.start(motion()), atol=1e-6)
    assert not encoder(torch.zeros(1, 3, 2, 4, 4)).any()


def test_a_fresh_encoder_learns_and_then_says_so() -> None:
    encoder = TrajectoryEncoder(SMALL)
    encoder(motion()).square().sum().backward()
    gradient = encoder.net.conv_out.weight.grad
    assert gradient is not None and gradient.abs().max() > 0
    encoder.net.conv_out.weight.data -= 0.01 * gradient
    assert encoder.is_trained
    assert not torch.allclose(encoder(motion()), encoder.start(motion()), atol=1e-6)


def test_a_decoder_that_starts_as_the_inverse_gives_the_motion_back() -> None:
    motion_map = TrajectoryEncoder(SMALL)(motion(0.8))
    assert torch.allclose(TrajectoryDecoder(SMALL)(motion_map), motion(0.8), atol=1e-5)


def test_an_over_bright_pixel_does_not_become_endless_motion() -> None:
    white = torch.ones(1, 3, 1, 4, 4)
    limit = 2 / SMALL.gain * math.atanh(0.995)
    assert torch.allclose(TrajectoryDecoder(SMALL)(white), torch.full_like(white, limit))


def test_the_published_decoder_starts_anywhere_and_has_two_blocks_to_the_encoders_one() -> None:
    published = TrajectoryCodecConfig(width=32)
    encoder, decoder = TrajectoryEncoder(published), TrajectoryDecoder(published)
    assert (len(encoder.net.blocks), len(decoder.net.blocks)) == (1, 2)
    assert TrajectoryCodecConfig().width == 128
    assert torch.equal(decoder(motion()), decoder.net(motion()))
    assert decoder(motion()).abs().max() > 0


def test_every_frame_is_coded_alone() -> None:
    torch.manual_seed(0)
    for network in (TrajectoryEncoder(SMALL), TrajectoryDecoder(SMALL)):
        torch.nn.init.normal_(network.net.conv_out.weight)
        frames = network(motion())
        assert torch.allclose(network(motion().flip(2)), frames.flip(2), atol=1e-6)
        assert torch.allclose(network(motion()[:, :, 1:2]), frames[:, :, 1:2], atol=1e-5)


def test_frames_in_parts_decode_as_frames_at_once() -> None:
    torch.manual_seed(0)
    decoder, motion_map = TrajectoryDecoder(TrajectoryCodecConfig(width=8, groups=4)), torch.randn(2, 3, 9, 16, 24)
    at_once = decoder(motion_map)
    with torch.no_grad():
        torch.testing.assert_close(decoder(motion_map), at_once.detach())
