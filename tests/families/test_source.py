"""Which source models may be trained, and what is said of the others."""

from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from lora_core import preflight
from lora_core.errors import UserError
from lora_core.families import FAMILIES as TRAINED
from lora_core.families import source
from lora_core.families.base import ModelFamily
from lora_core.families.source import is_hub_name, require_base, require_vae
from lora_core.io.kinds import FAMILY_NAMES
from lora_core.settings import RunSettings, Sd1Model, Sd2Model, SdxlModel
from tests.models import ldm_state, tiny_ldm_file, tiny_parts, tiny_sd_folder
from tests.models_sdxl import tiny_file, tiny_folder

UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.", "first_stage_model."
WHOLE = {UNET + "input_blocks.0.0.weight": (4, 4, 3, 3), VAE + "decoder.conv_in.weight": (4, 4, 3, 3)}

REFUSED = {
    "model.is_lora": {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (2, 4)},
    "model.is_vae": {"decoder.conv_in.weight": (4, 4, 3, 3)},
    "model.is_text_encoder": {"text_model.embeddings.token_embedding.weight": (9, 768)},
    "model.is_unet": {"input_blocks.0.0.weight": (4, 4, 3, 3), "x.attn2.to_k.weight": (4, 768)},
    "model.is_embedding": {"emb_params": (2, 768)},
    "model.is_controlnet": {"control_model.input_blocks.0.0.weight": (4, 4, 3, 3)},
    "model.is_unknown": {"layer.weight": (2, 2)},
    "model.is_inpainting": {
        UNET + "input_blocks.0.0.weight": (4, 9, 3, 3),
        TEXT + "transformer.text_model.final_layer_norm.bias": (4,),
    },
    "model.no_text_encoder": WHOLE | {UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (4, 768)},
    "model.no_vae": {
        UNET + "input_blocks.0.0.weight": (4, 4, 3, 3),
        TEXT + "transformer.text_model.final_layer_norm.bias": (4,),
    },
}
FAMILIES = {
    "Stable Diffusion 2.x": WHOLE | {TEXT + "model.ln_final.weight": (4,)},
    "SDXL": WHOLE | {"conditioner.embedders.1.model.ln_final.weight": (4,)},
    "Stable Diffusion 3": {UNET + "joint_blocks.0.x_block.attn.qkv.weight": (4, 4)} | WHOLE,
    "FLUX.1": {"double_blocks.0.img_attn.qkv.weight": (4, 4)},
}


def save_shapes(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    return path


def base(path: Path | str, **settings: object) -> Sd1Model:
    return Sd1Model(base=str(path), **settings)


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_no_whole_model_gets_its_sentence(tmp_path: Path, key: str):
    with pytest.raises(UserError) as caught:
        require_base(base(save_shapes(tmp_path / "クマ.safetensors", REFUSED[key])))
    assert caught.value.key == key
    assert all("クマ.safetensors" in caught.value.message(language) for language in ("en", "ja"))


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_named(tmp_path: Path, family: str):
    with pytest.raises(UserError) as caught:
        require_base(base(save_shapes(tmp_path / "m.safetensors", FAMILIES[family])))
    trained = family in {FAMILY_NAMES[name] for name in TRAINED}
    assert caught.value.key == ("model.other_family" if trained else "model.no_such_family")
    assert all(family in caught.value.message(language) for language in ("en", "ja"))


def test_the_refiner_of_sdxl_is_said_to_be_none(tmp_path: Path):
    refiner = {
        UNET + "label_emb.0.0.weight": (4, 2560),
        UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (4, 1280),
        "conditioner.embedders.0.model.ln_final.weight": (4,),
    }
    with pytest.raises(UserError) as caught:
        require_base(SdxlModel(base=str(save_shapes(tmp_path / "m.safetensors", WHOLE | refiner))))
    assert caught.value.key == "model.is_refiner"


@pytest.mark.parametrize(("chosen", "family"), [(Sd1Model, "sd2"), (Sd1Model, "sdxl"), (Sd2Model, "sdxl")])
@pytest.mark.parametrize("folder", [False, True])
def test_the_wrong_type_of_model_is_put_right_with_one_click(tmp_path: Path, chosen, family: str, folder: bool):
    path = tiny_folder(tmp_path / "m", family) if folder else tiny_file(tmp_path / "m.safetensors", family)
    settings = RunSettings(model=chosen(base=str(path)))
    [problem] = preflight.model(settings)
    assert problem.key == "model.other_family"
    assert problem.fix == {"model.family": family}
    model = {"sd2": Sd2Model, "sdxl": SdxlModel}[family](base=str(path), prediction_type="epsilon")
    assert not list(preflight.model(RunSettings(model=model)))


def test_whole_models_pass(tmp_path: Path):
    assert require_base(base(tiny_ldm_file(tmp_path / "m.safetensors"))).family == "sd1"
    assert require_base(base(tiny_ldm_file(tmp_path / "m.ckpt"))).container == "pickle"
    assert require_base(base(tiny_sd_folder(tmp_path / "m", tokenizer=False))).container == "folder"


def test_a_pasted_path_may_have_quotes(tmp_path: Path):
    assert require_base(base(f' "{tiny_ldm_file(tmp_path / "m.safetensors")}" '))


def test_the_index_of_a_folder_stands_for_the_folder(tmp_path: Path):
    folder = tiny_sd_folder(tmp_path / "m", tokenizer=False)
    assert require_base(base(folder / "model_index.json")).path == folder


def test_no_model_is_a_sentence():
    with pytest.raises(UserError) as caught:
        require_base(base(" "))
    assert caught.value.key == "model.not_given"


def test_only_a_vae_passes_as_vae(tmp_path: Path):
    vae = {k: t.contiguous() for k, t in ldm_state(tiny_parts()).items() if k.startswith(VAE)}
    save_file(vae, tmp_path / "vae.safetensors")
    assert require_vae(tmp_path / "vae.safetensors").kind == "vae"
    with pytest.raises(UserError) as caught:
        require_vae(save_shapes(tmp_path / "lora.safetensors", REFUSED["model.is_lora"]))
    assert caught.value.key == "vae.is_none"
    with pytest.raises(UserError) as caught:
        require_vae(save_shapes(tmp_path / "flux.safetensors", {"decoder.conv_in.weight": (4, 16, 3, 3)}))
    assert caught.value.key == "vae.other_family"


@pytest.mark.parametrize(("content", "key"), [(None, "vae.missing"), (b"abc", "vae.unreadable")])
def test_what_is_wrong_with_the_vae_is_said_of_the_vae(tmp_path: Path, content: bytes | None, key: str):
    path = tmp_path / "vae.safetensors"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        require_base(base(tiny_ldm_file(tmp_path / "m.safetensors"), vae=path))
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runwayml/stable-diffusion-v1-5", True),
        ("models/my.safetensors", False),
        ("/models/x", False),
        ("./models", False),
        ("a/b/c", False),
        ("C:\\models\\x", False),
        ("model", False),
    ],
)
def test_what_looks_like_a_hugging_face_name(text: str, expected: bool):
    assert is_hub_name(text) is expected


def test_a_folder_that_is_there_is_no_hugging_face_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    tiny_sd_folder(Path("someone/model"), tokenizer=False)
    assert not is_hub_name("someone/model")
    assert require_base(base("someone/model"))


class TestDownload:
    """A Hugging Face name is fetched only when the person said so. The hub itself is imitated."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
        calls: list[tuple] = []
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kw: calls.append((args, kw)))
        return calls

    def test_not_without_leave(self, sd1: ModelFamily, asked: list):
        with pytest.raises(UserError) as caught:
            sd1.load(base("someone/model"), dtype=torch.float32, device=torch.device("cpu"))
        assert caught.value.key == "model.hub_not_allowed"
        assert not asked

    def test_checking_does_not_download(self, asked: list):
        assert require_base(base("someone/model", allow_download=True)) is None
        assert not asked

    def test_with_leave(self, sd1: ModelFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        wanted: list[tuple] = []

        def snapshot(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
            wanted.append((name, allow_patterns, ignore_patterns))
            return str(tiny_sd_folder(tmp_path / "cache", tokenizer=False))

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        model = base("someone/model", allow_download=True)
        components = sd1.load(model, dtype=torch.float32, device=torch.device("cpu"))
        assert components.source.name == "someone/model"
        [(name, allowed, ignored)] = wanted
        assert name == "someone/model"
        assert not any("safety_checker" in pattern or pattern.endswith(".bin") for pattern in allowed)
        assert "*.fp16.*" in ignored

    def test_half_precision_when_there_is_nothing_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def snapshot(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
            if "*.fp16.*" in ignore_patterns:
                return str(tmp_path)
            return str(tiny_sd_folder(tmp_path, variant="fp16", tokenizer=False))

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        assert source.download("someone/model") == tmp_path

    def test_no_connection_is_a_sentence(self, monkeypatch: pytest.MonkeyPatch):
        def snapshot(*args: object, **options: object):
            raise ConnectionError("no route to host\nlong trace")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        with pytest.raises(UserError, match="no route to host") as caught:
            source.download("someone/model")
        assert "long trace" not in str(caught.value)
