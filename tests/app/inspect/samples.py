"""LoRA files for the tests of the Inspect tab: one as sd-scripts leaves it, a broken one, and one made to do harm."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from lora_core.io.arrays import save_arrays
from tests.inspect.samples import State, trained

EVIL = '<script>window.harmed=1</script><img src=x onerror="window.harmed=1">${window.harmed=1}{{constructor}}"\'`'
"""Text that would run if it were anywhere taken for markup, a template or an attribute."""
TAGS = {"10_usu bear": {"1girl": 30, "bear ears": 28, "forest": 5}, "2_landscape": {"forest": 12, "night": 7}}


def metadata(**more: str) -> dict[str, str]:
    """What sd-scripts writes of a training, and what its author added."""
    return {
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "4.0",
        "ss_learning_rate": "0.0003",
        "ss_unet_lr": "0.0003",
        "ss_text_encoder_lr": "5e-05",
        "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))",
        "ss_lr_scheduler": "cosine_with_restarts",
        "ss_lr_warmup_steps": "100",
        "ss_max_train_steps": "2000",
        "ss_num_epochs": "12",
        "ss_total_batch_size": "2",
        "ss_resolution": "(512, 768)",
        "ss_clip_skip": "2",
        "ss_noise_offset": "0.05",
        "ss_min_snr_gamma": "5.0",
        "ss_seed": "1234",
        "ss_multires_noise_iterations": "6",
        "ss_color_aug": "True",
        "ss_sd_model_name": "anime.safetensors",
        "ss_sd_model_hash": "e6415c48",
        "ss_tag_frequency": json.dumps(TAGS),
        "ss_dataset_dirs": json.dumps({"10_usu bear": {"n_repeats": 10, "img_count": 30}}),
        "modelspec.title": "Usu the bear",
        "modelspec.trigger_phrase": "usu bear",
        "modelspec.thumbnail": thumbnail(),
        **more,
    }


def thumbnail() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (120, 80, 50)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def state(size: str = "small", seed: int = 0) -> State:
    return trained("sd1", size, rank=8, alpha=4.0, seed=seed)


def good(path: Path, size: str = "small", seed: int = 0, **more: str) -> Path:
    """A sound LoRA."""
    return _saved(path, state(size, seed), metadata(**more))


def broken(path: Path) -> Path:
    """NaN in one layer, another one zero, and two keys of something else."""
    tensors = state()
    ups = [key for key in tensors if key.endswith("lora_up.weight")]
    tensors[ups[0]][0, 0] = np.nan
    tensors[ups[1]] *= 0
    junk = {"first_stage_model.foo": np.zeros(3, np.float32), "optimizer_state": np.zeros(3, np.float32)}
    return _saved(path, tensors | junk, metadata())


def hostile(path: Path) -> Path:
    """Metadata that try everything: markup, 10 MB, broken and endless JSON, wrong types, a picture that is code."""
    harm = {
        **dict.fromkeys(("title", "author", "description", "license", "trigger_phrase", "tags", "merged_from"), EVIL),
        "thumbnail": "data:image/svg+xml,<svg onload='window.harmed=1'/>",
    }
    meta = {f"modelspec.{key}": value for key, value in harm.items()} | {
        "ss_training_comment": "A" * 10_000_000,
        "ss_tag_frequency": json.dumps({EVIL: {EVIL: 5, "ok": 3}, "b": {"x": "NaN", "y": -4, "z": None}}),
        "ss_dataset_dirs": "{broken",
        "ss_bucket_info": "[]",
        "ss_network_dim": EVIL,
        "ss_resolution": EVIL,
        "ss_optimizer": "os.system(command='rm')",
        "ss_datasets": "[" * 5000,
        "kumakobo_settings": '{"a":' * 50,
        EVIL: EVIL,
    }
    return _saved(path, state(), meta)


def _saved(path: Path, tensors: State, meta: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(tensors, meta, path, "fp16")
    return path
