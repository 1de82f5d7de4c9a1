"""Every kind of file a person has, opened as the picture they see; every broken one named."""

import io
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, features

from lora_core.data.images import check_image, image_size, open_image
from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def halves(size: tuple[int, int] = (32, 16)) -> Image.Image:
    """Red left, blue right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def near(pixel, colour, tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


def swapped_profile() -> bytes:
    """An RGB profile whose red is blue and whose blue is red: sRGB's with the two columns' tags exchanged."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = data.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)
    return renamed.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".bmp", ".avif"])
def test_formats(tmp_path, ending):
    if ending == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    path = tmp_path / f"熊 with space{ending}"
    halves((64, 32)).save(path)
    picture = open_image(path)
    assert (picture.mode, picture.size) == ("RGB", (64, 32))
    assert near(picture.getpixel((8, 8)), RED)
    assert near(picture.getpixel((56, 8)), BLUE)
    assert image_size(path) == (64, 32)
    check_image(path)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, ending):
    """Oracle: Pillow's own way of setting a loaded image upright."""
    if ending == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    image = halves((32, 16))
    image.putpixel((0, 0), WHITE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{ending}"
    image.save(path, exif=exif, **({} if ending == ".png" else {"quality": 100}))
    with Image.open(path) as raw:
        expected = ImageOps.exif_transpose(raw).convert("RGB")
    assert np.array_equal(open_image(path), expected)
    assert image_size(path) == expected.size


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp"])
def test_colour_profile_is_applied(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    halves().save(path, icc_profile=swapped_profile(), **({} if ending == ".png" else {"quality": 100}))
    assert near(open_image(path).getpixel((2, 8)), BLUE, 30)


def test_srgb_foreign_and_broken_profiles_leave_pixels_alone(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = Image.effect_noise((32, 16), 90).convert("RGB")
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in [srgb, lab, b"not a profile"]:
        noise.save(tmp_path / "a.png", icc_profile=profile)
        assert np.array_equal(open_image(tmp_path / "a.png"), noise)


def test_transparency_keeps_its_profile_and_lies_on_white(tmp_path):
    image = halves().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.paste((255, 0, 0, 255), (0, 0, 4, 4))
    image.save(tmp_path / "a.png", icc_profile=swapped_profile())
    assert near(open_image(tmp_path / "a.png").getpixel((1, 1)), BLUE, 30)
    assert open_image(tmp_path / "a.png").getpixel((20, 10)) == WHITE


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_half_transparent_is_half_white(tmp_path, ending):
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(tmp_path / f"a{ending}", lossless=True)
    assert near(open_image(tmp_path / f"a{ending}").getpixel((4, 4)), (255, 127, 127), 1)


def test_grey_with_alpha(tmp_path):
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((4, 4)) == WHITE


def test_palette_with_and_without_transparency(tmp_path):
    image = halves().quantize(4)
    image.save(tmp_path / "plain.png")
    assert near(open_image(tmp_path / "plain.png").getpixel((2, 2)), RED)
    image.save(tmp_path / "clear.png", transparency=image.getpixel((2, 2)))
    assert open_image(tmp_path / "clear.png").getpixel((2, 2)) == WHITE
    assert near(open_image(tmp_path / "clear.png").getpixel((30, 2)), BLUE)


def test_transparent_colour_of_a_plain_image(tmp_path):
    halves().save(tmp_path / "a.png", transparency=RED)
    assert open_image(tmp_path / "a.png").getpixel((2, 2)) == WHITE


def test_one_bit_and_grey(tmp_path):
    Image.new("1", (8, 8), 1).save(tmp_path / "bit.png")
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.jpg", quality=100)
    assert open_image(tmp_path / "bit.png").getpixel((1, 1)) == WHITE
    assert open_image(tmp_path / "grey.jpg").getpixel((1, 1)) == (77, 77, 77)


def test_sixteen_bit_grey(tmp_path):
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a.png")
    grey = np.asarray(open_image(tmp_path / "a.png"))[..., 0]
    assert np.abs(grey - values / 257).max() <= 0.5


def test_sixteen_bit_colour(tmp_path):
    """Pillow cannot write it, so the file is put together here (PNG 1.2: IHDR, IDAT, IEND)."""
    pixel = np.array([65535, 32768, 0], ">u2").tobytes()
    rows = b"".join(b"\x00" + pixel * 4 for _ in range(4))

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = (4).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert near(open_image(tmp_path / "a.png").getpixel((1, 1)), (255, 128, 0), 1)


def test_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert near(open_image(tmp_path / "a.jpg").getpixel((4, 4)), RED, 20)


@pytest.mark.parametrize("ending", [".png", ".webp", ".avif"])
def test_first_frame_of_an_animation(tmp_path, ending):
    if ending == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    path = tmp_path / f"a{ending}"
    Image.new("RGB", (32, 32), RED).save(path, save_all=True, append_images=[Image.new("RGB", (32, 32), BLUE)])
    assert near(open_image(path).getpixel((16, 16)), RED)


def test_the_name_does_not_decide_the_format(tmp_path):
    data = io.BytesIO()
    halves().save(data, "JPEG")
    (tmp_path / "a.png").write_bytes(data.getvalue())
    assert open_image(tmp_path / "a.png").size == (32, 16)


def write_broken(path: Path, kind: str) -> None:
    image = Image.effect_noise((200, 200), 90).convert("RGB")
    data = io.BytesIO()
    image.save(data, {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}[path.suffix])
    whole = data.getvalue()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "truncated": whole[:middle],
            "corrupt": whole[:100] + bytes(200) + whole[300:],
            "text": b"<!DOCTYPE html><html>not found</html>",
            "empty": b"",
            "header": whole[:20],
        }[kind]
    )


BROKEN = [(e, kind) for e in (".png", ".jpg", ".webp", ".bmp") for kind in ("truncated", "text", "empty", "header")]


@pytest.mark.parametrize(("ending", "kind"), [*BROKEN, (".png", "corrupt")])
@pytest.mark.parametrize("read", [open_image, check_image])
def test_broken_files_are_named(tmp_path, ending, kind, read):
    path = tmp_path / f"壊れた{ending}"
    write_broken(path, kind)
    with pytest.raises(UserError) as caught:
        read(path)
    for language in LANGUAGES:
        assert str(path) in caught.value.message(language)
    if kind in ("text", "empty"):
        assert caught.value.key == {"text": "data.not_an_image", "empty": "data.image_empty"}[kind]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".bmp", ".avif"])
def test_whatever_the_bytes_a_picture_or_a_sentence(tmp_path, ending):
    """Pillow's readers fall over broken data in many ways; each must become a UserError, whoever reads."""
    if ending == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    path, rng = tmp_path / f"a{ending}", random.Random(0)
    halves().save(path)
    whole = path.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 10])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        assert readable(check_image, path) == readable(open_image, path)
        assert readable(image_size, path) or not readable(open_image, path)


def readable(read, path: Path) -> bool:
    try:
        read(path)
    except UserError:
        return False
    return True


@pytest.mark.parametrize(
    ("data", "name"), [(b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"), (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL")]
)
def test_telephone_pictures_under_a_wrong_name(tmp_path, data, name):
    (tmp_path / "IMG_1.jpg").write_bytes(data)
    with pytest.raises(UserError, match=f"format {name}, which is not read"):
        open_image(tmp_path / "IMG_1.jpg")


def test_only_picture_formats_are_opened(tmp_path):
    """PostScript would start another program."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(UserError, match="not an image"):
        open_image(tmp_path / "a.png")


def test_missing_and_folder(tmp_path):
    with pytest.raises(UserError, match="is gone"):
        image_size(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(UserError, match=r"b\.png"):
        open_image(tmp_path / "b.png")


def test_permission(tmp_path, monkeypatch):
    """Simulated: who runs tests as root, or on Windows, may read everything."""
    halves().save(tmp_path / "a.png")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(UserError, match=r"a\.png cannot be read \(Permission denied\)"):
        open_image(tmp_path / "a.png")


def test_decompression_bomb_is_refused_before_it_is_opened(tmp_path, monkeypatch):
    halves((100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (open_image, check_image, image_size):
        with pytest.raises(UserError, match="million pixels"):
            read(tmp_path / "a.png")
