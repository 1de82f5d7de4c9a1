"""Opening everything before the run: what is unusable is named, and left out only if the user allows it."""

import pytest

from lora_core.data.checks import checked
from lora_core.data.folders import Scan, scan
from lora_core.i18n import LANGUAGES
from lora_core.settings import DatasetSettings


def check(root, *, deep: bool = True, **settings) -> Scan:
    dataset = DatasetSettings(train_dir=root, **settings)
    found = checked(scan(dataset), dataset, deep=deep)
    assert all(problem.message(language) for problem in found.problems for language in LANGUAGES)
    return found


@pytest.fixture
def root(make_folder, tmp_path):
    make_folder("train/20_usu bear", 4, captions=["usu bear"] * 4)
    return tmp_path / "train"


def keys(found: Scan) -> list[str]:
    return [problem.key for problem in found.problems]


def test_good_images_pass(root):
    found = check(root)
    assert found == scan(DatasetSettings(train_dir=root))
    assert not found.problems


BREAK = {
    "data.not_an_image": lambda path: path.write_bytes(b"not an image"),
    "data.image_empty": lambda path: path.write_bytes(b""),
    "data.image_truncated": lambda path: path.write_bytes(path.read_bytes()[:60]),
}


@pytest.mark.parametrize("key", BREAK)
def test_a_broken_image_stops_the_run_unless_skipping_is_allowed(root, key):
    path = root / "20_usu bear" / "01.png"
    BREAK[key](path)
    found = check(root)
    assert keys(found) == [key]
    assert not found.ok
    problem = found.problems[0]
    assert problem.path == "dataset.train_dir"
    assert all(str(path) in problem.message(language) for language in LANGUAGES)
    assert problem.fix == {"dataset.skip_bad_images": True}
    allowed = check(root, skip_bad_images=True)
    assert keys(allowed) == [key, "data.skipped"]
    assert allowed.ok
    assert [image.path.name for image in allowed.subsets[0].images] == ["00.png", "02.png", "03.png"]


def test_headers_only_is_for_the_page(root):
    path = root / "20_usu bear" / "01.png"
    BREAK["data.image_truncated"](path)
    assert not check(root, deep=False).problems
    BREAK["data.not_an_image"](path)
    assert keys(check(root, deep=False)) == ["data.not_an_image"]


def test_nothing_left(root):
    for path in (root / "20_usu bear").glob("*.png"):
        path.write_bytes(b"no")
    found = check(root, skip_bad_images=True)
    assert not found.subsets
    assert "data.no_good_images" in keys(found)
    assert not found.ok


def test_captions(root):
    folder = root / "20_usu bear"
    (folder / "00.txt").write_bytes("うす熊".encode("cp932"))
    assert keys(check(root)) == ["data.caption_shift_jis"]
    (folder / "01.txt").write_bytes("うす熊".encode("cp932"))
    assert keys(check(root)) == ["data.caption_shift_jis_more"]
    (folder / "02.txt").write_bytes(b"\x00\x01\xff")
    found = check(root)
    assert sorted(keys(found)) == ["data.caption_encoding", "data.caption_shift_jis_more"]
    assert not found.ok


def test_trigger_words_that_captions_lack(make_folder):
    folder = make_folder("bears", 2, captions=["sitting", "Usu Bear, standing"])
    found = check(folder, trigger_words="usu bear")
    assert keys(found) == ["data.words_not_in_captions"]
    assert found.problems[0].values["without"] == 1
    assert found.problems[0].fix == {"dataset.caption_prefix": "usu bear,"}
    assert not check(folder, trigger_words="usu bear", caption_prefix="usu bear,").problems


def test_progress(root):
    calls = []
    dataset = DatasetSettings(train_dir=root)
    checked(scan(dataset), dataset, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
