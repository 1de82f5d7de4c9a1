"""Folders of small images, made as a person would have them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder("train/20_usu bear", 3): that many images of different colours, with captions if given."""

    def make(
        name: str,
        count: int,
        *,
        size: tuple[int, int] = (64, 48),
        captions: Sequence[str] = (),
        ending: str = ".png",
        caption_ending: str = ".txt",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            colour = (index * 40 % 256, 255 - index * 7 % 256, sum(map(ord, name)) % 256)
            Image.new("RGB", size, colour).save(folder / f"{index:02d}{ending}")
        for index, caption in enumerate(captions):
            (folder / f"{index:02d}{caption_ending}").write_text(caption, encoding="utf-8")
        return folder

    return make
