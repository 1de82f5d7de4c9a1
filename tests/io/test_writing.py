"""Files that are written together: all of them, or none."""

from pathlib import Path

import pytest

from lora_core.io.writing import replacing_together

NAMES = ("a.safetensors", "b.png", "c.json")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def writers(folder: Path) -> dict:
    return {folder / name: lambda path, name=name: path.write_text(f"new {name}") for name in NAMES}


def test_all_are_written_and_nothing_else_is_left(tmp_path):
    (tmp_path / "b.png").write_text("old")
    replacing_together(writers(tmp_path))
    assert content(tmp_path) == {name: f"new {name}".encode() for name in NAMES}


def test_folders_are_made(tmp_path):
    replacing_together(writers(tmp_path / "x" / "y"))
    assert len(content(tmp_path / "x" / "y")) == len(NAMES)


@pytest.mark.parametrize("there", [(), NAMES, NAMES[1:2]], ids=["none there", "all there", "one there"])
@pytest.mark.parametrize("failing", NAMES)
@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_when_one_fails_all_is_as_before(tmp_path, monkeypatch, there, failing, when):
    for name in there:
        (tmp_path / name).write_text(f"old {name}")
    before, made = content(tmp_path), writers(tmp_path)
    if when == "writing":

        def half(path):
            path.write_text("half")
            raise OSError(28, "full")

        made[tmp_path / failing] = half
    else:
        rename = Path.replace

        def refuse(self, target):
            if Path(target).name == failing and self.suffix == ".tmp":
                raise PermissionError(13, "open in another program")
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match=r"full|open"):
        replacing_together(made)
    assert content(tmp_path) == before
