"""LoRA tags of prompts: what the model reads, which file is meant, how strongly."""

from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.generate.tags import Worn, tag, tagged, text_of, worn
from lora_core.settings.generate import GenerateSettings, LoraUse


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("LoRA 置き場")
    for name in ("usu.safetensors", "bears/くま.safetensors"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).touch()
    return home


@pytest.mark.parametrize(
    ("words", "name", "wanted"),
    [
        ("<lora:usu>", "usu", {}),
        ("<lora:usu:0.8>", "usu", {"strength": 0.8, "text_strength": 0.8}),
        ("<lora:usu:-1>", "usu", {"strength": -1.0, "text_strength": -1.0}),
        ("<lora:usu:0.5:1>", "usu", {"strength": 1.0, "text_strength": 0.5}),
        ("<lora:usu:1:te=0>", "usu", {"text_strength": 0.0}),
        ("<lora:usu:0.8:lbw=OUTALL>", "usu", {"strength": 0.8, "text_strength": 0.8, "layers": "OUTALL"}),
        ("<lora:usu:1:lbw=1,0,0.5>", "usu", {"layers": "1,0,0.5"}),
        ("<lora:くま:1>", "bears/くま", {}),
        ("<lora:bears/くま:1>", "bears/くま", {}),
    ],
)
def test_a_tag_names_a_file_and_a_strength(folder, words, name, wanted):
    found = worn(f"a bear {words}", GenerateSettings(folders=[folder]))
    assert found == (Worn(folder / f"{name}.safetensors", **wanted),)


@pytest.mark.parametrize(
    "words", ["<lora:usu:strong>", "<lora:usu:1:1:1>", "<lora:usu:nan>", "<lora::1>", "<lora:usu:x=1>"]
)
def test_a_tag_that_cannot_be_read_is_refused(folder, words):
    with pytest.raises(UserError) as caught:
        worn(words, GenerateSettings(folders=[folder]))
    assert caught.value.key == "generate.tag"


def test_a_lora_that_is_not_there_is_named_with_the_places(folder):
    with pytest.raises(UserError, match="none of this name") as caught:
        worn("<lora:none of this name:1>", GenerateSettings(folders=[folder]))
    assert str(folder) in str(caught.value)


def test_the_model_reads_no_tags():
    assert text_of("a (bear:1.2) <lora:usu:0.8>, snow") == "a (bear:1.2) , snow"
    assert text_of("<lora:usu:1> a bear ") == "a bear"


def test_listed_files_are_put_behind_the_prompt_unless_it_names_them():
    uses = [LoraUse(path="usu.safetensors", strength=0.8), LoraUse(path="hat.safetensors", layers="OUTALL")]
    assert tagged("a bear <lora:usu:0.5>", uses) == "a bear <lora:usu:0.5> <lora:hat:1:lbw=OUTALL>"
    assert tagged("", uses[:1]) == tag("usu", 0.8) == "<lora:usu:0.8>"


def test_a_listed_file_is_found_without_a_folder():
    settings = GenerateSettings(loras=[LoraUse(path="/models/usu.safetensors")])
    assert worn("<lora:usu:0.8>", settings)[0].path == Path("/models/usu.safetensors")
