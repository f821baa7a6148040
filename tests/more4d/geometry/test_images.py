import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from more4d.geometry.images import MAX_PIXELS, fit_image, load_image
from PIL import Image

H, W = 20, 30


def picture() -> Image.Image:
    """Smooth, so that lossy formats keep it: red grows to the right, green downwards."""
    v, u = np.mgrid[:H, :W]
    return Image.fromarray(np.stack((u * 8, v * 12, np.full_like(u, 100)), axis=-1).astype(np.uint8))


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "LAB"])
def test_colour_modes_become_the_same_rgb(tmp_path: Path, mode: str) -> None:
    image = picture() if mode == "LAB" else picture().convert(mode)
    if mode == "LAB":
        image = Image.merge("LAB", (Image.new("L", (W, H), 128),) * 3)
    pixels = load_image(saved(image, tmp_path / "image.tiff"))
    assert pixels.shape == (H, W, 3) and pixels.dtype == np.uint8
    if mode != "LAB":
        assert np.abs(pixels.astype(int) - np.asarray(picture())).max() <= 3


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    pixels = load_image(saved(picture().convert("CMYK"), tmp_path / "image.jpg", quality=98))
    assert np.abs(pixels.astype(int) - np.asarray(picture())).max() <= 12


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_is_repeated_over_the_channels(tmp_path: Path, mode: str) -> None:
    image = picture().convert(mode)
    pixels = load_image(saved(image, tmp_path / "image.png"))
    assert (pixels == np.asarray(image.convert("L"))[..., None]).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, H * W).reshape(H, W).astype(np.uint16)
    pixels = load_image(saved(Image.fromarray(values), tmp_path / f"image.{suffix}"))
    assert (pixels == np.round(values / 257).astype(np.uint8)[..., None]).all()
    assert pixels.min() == 0 and pixels.max() == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    alpha = Image.new("L", (W, H), 255)
    alpha.paste(0, (0, 0, W // 2, H))
    image = picture().convert("L" if mode == "LA" else "RGB")
    image.putalpha(alpha)
    pixels = load_image(saved(image.convert(mode), tmp_path / "image.png"))
    assert (pixels[:, : W // 2] == 255).all() and (pixels[:, W // 2 :, 2] < 255).all()


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = load_image(saved(picture(), tmp_path / "image.png", exif=exif))
    assert (pixels == np.rot90(np.asarray(picture()), k=-1)).all()


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "blue")]
    pixels = load_image(saved(frames[0], tmp_path / "image.gif", save_all=True, append_images=frames[1:]))
    assert (pixels == (255, 0, 0)).all()


def test_sides_of_16_pixels_are_enough_and_15_are_not(tmp_path: Path) -> None:
    assert load_image(saved(Image.new("RGB", (16, 16)), tmp_path / "least.png")).shape == (16, 16, 3)
    with pytest.raises(ValueError, match=r"small\.png: 40x15 pixels; both sides must be at least 16"):
        load_image(saved(Image.new("RGB", (40, 15)), tmp_path / "small.png"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("width", [8001, 16_000, 60_000])
def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, width: int) -> None:
    path = tmp_path / "huge.png"
    # A header and no pixels: whoever decodes finds nothing.
    header = b"IHDR" + struct.pack(">IIBBBBB", width, 8000, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 16) + b"IDAT"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert width * 8000 > MAX_PIXELS
    with pytest.raises(ValueError, match=r"huge\.png: .*(over 64 megapixels|limit of 64)"):
        load_image(path)


@pytest.mark.filterwarnings("error")
def test_files_that_are_no_whole_image_are_refused_by_name(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (H, W, 3)).astype(np.uint8))
    text, cut = tmp_path / "text.jpg", saved(noise, tmp_path / "cut.png")
    text.write_text("not an image")
    cut.write_bytes(cut.read_bytes()[:900])
    for path, reason in ((text, "not an image"), (cut, "cannot be decoded"), (tmp_path / "gone.png", "no such file")):
        with pytest.raises(ValueError, match=rf"{path.name}: .*{reason}"):
            load_image(path)


def test_brightness_without_a_defined_range_is_refused(tmp_path: Path) -> None:
    grey = np.full((H, W), 0.5, np.float32)
    with pytest.raises(ValueError, match="floating-point grey"):
        load_image(saved(Image.fromarray(grey), tmp_path / "float.tiff"))
    wide = np.full((H, W), 1_000_000, np.int32)
    with pytest.raises(ValueError, match="do not fit 16 bits"):
        load_image(saved(Image.fromarray(wide), tmp_path / "wide.tiff"))


def test_fitting_crops_the_centre_and_keeps_what_needs_no_resizing() -> None:
    image = np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8)
    fitted, crop = fit_image(image, 20, 32)
    assert (fitted == image[2:22]).all() and crop.top == 2 and crop.scale == 1


@pytest.mark.parametrize("size", [(300, 200), (97, 401), (16, 5000), (33, 47)])
def test_a_fitted_image_has_the_asked_size_and_the_crop_says_what_it_shows(size: tuple[int, int]) -> None:
    height, width = size
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    image = np.repeat(np.broadcast_to(ramp, (height, width))[..., None], 3, axis=2)
    fitted, crop = fit_image(np.ascontiguousarray(image), 64, 96)
    assert fitted.shape == (64, 96, 3)
    left, _, right, _ = crop.box
    shown = (left + (np.arange(96) + 0.5) * (right - left) / 96 - 0.5) / (width - 1) * 255
    assert np.abs(fitted[32, 2:-2, 0] - shown[2:-2]).max() <= 2


def test_only_eight_bit_rgb_is_fitted() -> None:
    with pytest.raises(ValueError, match="uint8"):
        fit_image(np.zeros((20, 20, 3), np.float32), 16, 16)  # type: ignore[arg-type]
