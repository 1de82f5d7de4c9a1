"""A proof tells a LoRA that works from one of zeros, a broken one and one that loads partly; its numbers are true."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_core import cli
from lora_core.errors import UserError
from lora_core.events import FileSaved, ProofDone
from lora_core.generate.job import generate
from lora_core.io.arrays import open_arrays, save_arrays
from lora_core.proof import proof, proposed_prompt
from lora_core.proof_verdict import remarks
from lora_core.settings.generate import GenerateSettings, ProofSettings
from tests.generate.test_generate import make_studio

DRAWING = {"prompts": ["a bear"], "width": 64, "height": 64, "steps": 2, "guidance": 4.0, "seed": 3}
MISSING = "lora_unet_down_blocks_2_attentions_0_transformer_blocks_0_attn1_to_q"
"""A layer of Stable Diffusion 1 that the tiny model does not have."""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUMAKOBO_LANG", "en")


@pytest.fixture(scope="module")
def sd1(tmp_path_factory) -> Path:
    """A folder with a model and a LoRA a.safetensors."""
    return make_studio("sd1", tmp_path_factory.mktemp("くま sd1"))[1].parent


def proved(folder: Path, lora: Path | None = None, **changes) -> tuple[ProofDone, list[FileSaved]]:
    job = ProofSettings.model_validate(
        {"base": str(folder / "model"), "lora": lora or folder / "a.safetensors", "timesteps": 2, **DRAWING, **changes}
    )
    *events, done = proof(job)
    assert isinstance(done, ProofDone)
    return done, [event for event in events if isinstance(event, FileSaved)]


def altered(lora: Path, path: Path, change) -> Path:
    """The file with ``change(tensors)`` in place of its tensors."""
    with open_arrays(lora) as file:
        tensors, metadata = {name: np.array(file.read(name)) for name in file.tensors}, dict(file.metadata)
    save_arrays(change(tensors), metadata, path, "float")
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(float)


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_a_lora_of_another_family_is_measured_alike(name, tmp_path):
    _, path = make_studio(name, tmp_path)
    done, _ = proved(tmp_path, path, unrelated_prompts="a house")
    assert (done.lost, done.broken, done.zero) == (0, 0, 0)
    assert done.modules > 0
    assert all(value and math.isfinite(value) for value in (done.pixels, done.latents, done.own, done.unrelated))
    assert not [remark.key for remark in remarks(done) if remark.severity == "bad"]


def test_the_pictures_are_those_of_generate_and_differ_by_what_is_said(sd1, tmp_path):
    done, saved = proved(sd1, output=tmp_path / "proof", strength=0.7, count=2)
    drawn = []
    for loras in ([], [{"path": sd1 / "a.safetensors", "strength": 0.7}]):
        job = {"base": str(sd1 / "model"), "loras": loras, "output": tmp_path / f"{len(loras)}", **DRAWING, "count": 2}
        events = generate(GenerateSettings.model_validate(job))
        drawn.append([pixels(event.path) for event in events if isinstance(event, FileSaved)])
    assert [np.array_equal(pixels(s.path), p) for s, p in zip(saved, [*drawn[0], *drawn[1]], strict=True)] == [True] * 4
    assert done.pixels == pytest.approx(np.mean([abs(a - b).mean() for a, b in zip(*drawn, strict=True)]))
    assert [saved_one.facts["index"] for saved_one in saved] == [0, 2, 1, 3]
    assert [saved_one.facts["with_lora"] for saved_one in saved] == [False, False, True, True]


def test_the_numbers_are_the_same_every_time_and_grow_with_the_strength(sd1):
    weak, strong = proved(sd1, strength=0.2)[0], proved(sd1)[0]
    assert proved(sd1)[0].model_dump(exclude={"time"}) == strong.model_dump(exclude={"time"})
    assert 0 < weak.own < strong.own
    assert 0 < weak.latents < strong.latents
    assert "works" in [remark.key for remark in remarks(weak)]


def test_strength_0_changes_nothing(sd1):
    done, _ = proved(sd1, strength=0)
    assert (done.pixels, done.latents, done.own, done.class_prompt, done.unrelated) == (0, 0, 0, 0, 0)
    assert [remark.key for remark in remarks(done)] == ["no_change"]


def test_a_file_of_zeros_is_a_red_flag(sd1, tmp_path):
    def zeros(tensors):
        return {name: values * (0 if "lora_up" in name else 1) for name, values in tensors.items()}

    done, saved = proved(sd1, altered(sd1 / "a.safetensors", tmp_path / "zero.safetensors", zeros))
    assert done.zero == done.modules > 0
    assert (done.own, saved) == (None, [])
    assert [remark.key for remark in remarks(done)] == ["zero"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_a_red_flag(sd1, tmp_path, value):
    names = []

    def broken(tensors):
        names.append(next(name for name in tensors if name.endswith("lora_up.weight")))
        tensors[names[0]].flat[0] = value
        return tensors

    done, _ = proved(sd1, altered(sd1 / "a.safetensors", tmp_path / "broken.safetensors", broken))
    assert (done.broken, done.broken_names) == (1, [names[0].split(".")[0]])
    assert remarks(done)[0].key == "broken"


def with_strangers(tensors):
    """A layer that the model lacks, one of another size, and one that no model of the family has."""
    some = next(name for name in tensors if name.startswith("lora_unet") and name.endswith("lora_down.weight"))
    other = {MISSING: "lora_down.weight", "lora_unet_no_such_layer": "lora_down.weight"}
    strangers = {f"{layer}.{end}": np.ones((4, 320), np.float32) for layer, end in other.items()}
    strangers |= {f"{layer}.lora_up.weight": np.ones((320, 4), np.float32) for layer in other}
    wide = np.ones((4, 77, *tensors[some].shape[2:]), np.float32)
    return {**tensors, **strangers, some: wide}


def test_a_file_that_loads_partly_is_a_red_flag_and_the_rest_is_measured(sd1, tmp_path):
    done, saved = proved(
        sd1, altered(sd1 / "a.safetensors", tmp_path / "b.safetensors", with_strangers), output=tmp_path / "proof"
    )
    whole, _ = proved(sd1)
    assert (done.modules, done.lost) == (whole.modules + 2, 3)
    assert {MISSING, "lora_unet_no_such_layer"} < set(done.lost_names)
    assert done.own > 0
    assert len(saved) == 2
    first = remarks(done)[0]
    assert first.key == "partly"
    assert f"3 of {done.modules}" in first.words("en")
    assert MISSING in first.words("ja")


def test_a_file_none_of_which_is_loaded_is_a_red_flag(sd1, tmp_path):
    def only(tensors):
        return {name: values for name, values in with_strangers(tensors).items() if name.startswith(MISSING)}

    done, saved = proved(sd1, altered(sd1 / "a.safetensors", tmp_path / "c.safetensors", only))
    assert (done.modules, done.lost, saved) == (1, 1, [])
    assert [remark.key for remark in remarks(done)] == ["no_place"]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda folder: None, "merge.no_lora"),
        (lambda folder: folder / "gone.safetensors", "model.missing"),
        (lambda folder: folder / "model" / "unet" / "diffusion_pytorch_model.safetensors", "lora.not_a_lora"),
    ],
)
def test_what_is_no_lora_is_told_before_the_model_is_loaded(sd1, make, key):
    with pytest.raises(UserError) as caught:
        list(proof(ProofSettings(base=str(sd1 / "model"), lora=make(sd1))))
    assert caught.value.key == key


def test_without_a_prompt_the_words_of_the_file_are_drawn(sd1, tmp_path):
    with open_arrays(sd1 / "a.safetensors") as file:
        tensors = {name: np.array(file.read(name)) for name in file.tensors}
    metadata = {"ss_base_model_version": "sd_v1", "modelspec.trigger_phrase": "usu  bear"}
    save_arrays(tensors, metadata, tmp_path / "t.safetensors", "float")
    assert proposed_prompt(tmp_path / "t.safetensors") == "usu bear"
    _, saved = proved(sd1, tmp_path / "t.safetensors", prompts=[" "], output=tmp_path / "proof")
    assert [event.facts["prompt"] for event in saved] == ["usu bear", "usu bear <lora:t:1>"]


def test_the_command_says_it_in_the_terminal(sd1, tmp_path, capsys):
    line = f"proof|{sd1 / 'a.safetensors'}:0.5|a bear|--base|{sd1 / 'model'}|--steps|1|-W|64|-H|64|-o|{tmp_path / 'p'}"
    assert cli.main(line.split("|")) == 0
    said = capsys.readouterr().out
    assert "✓ Yes, it works" in said
    assert "Modules in place" in said
    assert len(list((tmp_path / "p").glob("*.png"))) == 2


def test_the_command_takes_class_and_unrelated_prompts():
    words = ["proof", "usu.safetensors", "--class-prompt", "bear", "--unrelated", "a house", "--unrelated", "a tree"]
    arguments = cli.parser().parse_args(words)
    job = arguments.settings(arguments)
    assert isinstance(job, ProofSettings)
    assert (job.lora, job.strength, job.class_prompt) == (Path("usu.safetensors"), 1.0, "bear")
    assert job.unrelated_prompts.splitlines() == ["a house", "a tree"]
