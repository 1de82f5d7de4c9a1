"""Only pictures are shown as pictures."""

import base64

import pytest

from lora_core.inspect.thumbnail import LARGEST, checked_url, thumbnail

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20
JPEG = b"\xff\xd8\xff" + b"0" * 20


def url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(("kind", "data"), [("png", PNG), ("jpeg", JPEG), ("webp", b"RIFF1234WEBP")])
def test_a_picture_is_kept(kind, data):
    assert checked_url(url(kind, data)) == url(kind, data)


BAD = {
    "empty": "",
    "no url": "hello",
    "a page": "data:text/html;base64,PHNjcmlwdD4=",
    "svg can hold scripts": "data:image/svg+xml;base64,PHN2Zz4=",
    "javascript": "javascript:alert(1)",
    "a page that says it is a png": url("png", b"<script>"),
    "a quote that would end an attribute": url("png", PNG) + '" onerror="alert(1)',
    "no base64": "data:image/png;base64,@@@",
    "cut base64": "data:image/png;base64,iVBOR",
    "far too long": url("png", PNG + b"0" * LARGEST),
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_anything_else_is_not(value, tmp_path):
    assert checked_url(value) == ""
    assert thumbnail(tmp_path / "x.safetensors", value) is None


@pytest.mark.parametrize("ending", [".preview.png", ".png", ".jpg", ".webp"])
def test_the_picture_beside_a_lora_is_found(ending, tmp_path):
    picture = tmp_path / f"my lora 日本{ending}"
    picture.write_bytes(PNG)
    found = thumbnail(tmp_path / "my lora 日本.safetensors", "")
    assert found is not None
    assert (found.path, found.data_url) == (picture, "")
    assert thumbnail(tmp_path / "my lora 日本.safetensors", url("png", PNG)).data_url


def test_a_name_no_disk_can_hold_has_no_picture(tmp_path):
    assert thumbnail(tmp_path / ("x" * 400 + ".safetensors"), "") is None
