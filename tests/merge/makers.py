"""Random LoRA files of every algorithm and family, small and full-size.

write_lora(path, "sdxl")                                # a few real layers of SDXL, rank 4, fp16
write_lora(path, "sd1", size="full", rank=8)            # the 264 modules of a plain LoRA
write_lora(path, "sd1", "lokr", precision="float")      # every layer a LoKr
write_lora(path, "flux", style="diffusers")             # split qkv, lora_A and lora_B
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from lora_core.io.arrays import Array, Precision, save_arrays

Shape = tuple[int, ...]
Style = Literal["kohya", "diffusers", "peft"]

_SD_UNET: dict[str, Shape] = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320),
    "lora_unet_down_blocks_0_resnets_0_conv1": (320, 320, 3, 3),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj": (10240, 1280),
    "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn1_to_out_0": (320, 320),
}
_CLIP_L: dict[str, Shape] = {
    "text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
    "text_model_encoder_layers_11_mlp_fc1": (3072, 768),
}
SMALL: dict[str, dict[str, Shape]] = {
    "sd1": _SD_UNET
    | {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (320, 768),
        "lora_unet_down_blocks_0_attentions_0_proj_in": (320, 320, 1, 1),
        **{f"lora_te_{name}": shape for name, shape in _CLIP_L.items()},
    },
    "sd2": _SD_UNET
    | {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (320, 1024),
        "lora_unet_down_blocks_0_attentions_0_proj_in": (320, 320),
        "lora_te_text_model_encoder_layers_22_mlp_fc1": (4096, 1024),
    },
    "sdxl": {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 2048),
        "lora_unet_input_blocks_4_1_proj_in": (640, 640),
        "lora_unet_input_blocks_1_0_in_layers_2": (320, 320, 3, 3),
        "lora_unet_middle_block_1_transformer_blocks_9_attn1_to_q": (1280, 1280),
        "lora_unet_output_blocks_0_1_transformer_blocks_0_ff_net_2": (1280, 5120),
        **{f"lora_te1_{name}": shape for name, shape in _CLIP_L.items()},
        "lora_te2_text_model_encoder_layers_31_mlp_fc2": (1280, 5120),
    },
    "flux": {
        "lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072),
        "lora_unet_double_blocks_18_txt_mlp_0": (12288, 3072),
        "lora_unet_single_blocks_0_linear1": (21504, 3072),
        "lora_unet_single_blocks_37_linear2": (3072, 15360),
        **{f"lora_te1_{name}": shape for name, shape in _CLIP_L.items()},
    },
}
"""A few real layers of each family: every kind of layer, every part of the model."""

ALGORITHMS = (
    *("lora", "tucker", "loha", "loha tucker"),
    *("lokr", "lokr full", "lokr both", "lokr tucker"),
    *("glora", "ia3", "ia3 input", "full"),
)
"""Everything ``layer_tensors`` makes. "dora " before a name adds dora_scale."""


def layers_of(family: str, size: Literal["small", "full", "locon"] = "small") -> dict[str, Shape]:
    """Layers with their weight shapes. "full": what a plain LoRA trains, "locon": linear layers and convolutions."""
    if size == "small":
        return dict(SMALL[family])
    from lora_core.merge import known

    every = known.layers(family)
    wanted = known.default_targets(family)
    return {name: shape for name, shape in every.items() if size == "locon" or name in wanted}


def layer_tensors(
    algorithm: str, shape: Shape, rank: int = 4, alpha: float | None = 2.0, rng: np.random.Generator | None = None
) -> dict[str, Array]:
    """The tensors of one layer under kohya's and LyCORIS' names, float32. The change is about 0.01 in each number."""
    rng = rng or np.random.default_rng(0)
    if algorithm.startswith("dora "):
        return layer_tensors(algorithm.removeprefix("dora "), shape, rank, alpha, rng) | {
            "dora_scale": 1 + 0.1 * _normal(rng, (shape[0], *[1] * (len(shape) - 1)))
        }
    tensors = _MAKERS[algorithm](shape, rank, rng)
    if alpha is not None and algorithm not in ("ia3", "full"):
        tensors["alpha"] = np.array(alpha, np.float32)
    return tensors


def _normal(rng: np.random.Generator, shape: Sequence[int], size: float = 1.0) -> Array:
    return rng.standard_normal(tuple(shape), dtype=np.float32) * np.float32(size)


def _ones(shape: Shape) -> Shape:
    return (1,) * (len(shape) - 2)


def _lora(shape: Shape, rank: int, rng) -> dict[str, Array]:
    down = _normal(rng, (rank, *shape[1:]), 0.1 / math.sqrt(rank))
    return {"lora_down.weight": down, "lora_up.weight": _normal(rng, (shape[0], rank, *_ones(shape)), 0.1)}


def _tucker(shape: Shape, rank: int, rng) -> dict[str, Array]:
    """LoCon with its convolution in the middle; other layers are plain."""
    if len(shape) == 2:
        return _lora(shape, rank, rng)
    return {
        "lora_down.weight": _normal(rng, (rank, shape[1], *_ones(shape)), 0.1),
        "lora_mid.weight": _normal(rng, (rank, rank, *shape[2:]), 1 / rank),
        "lora_up.weight": _normal(rng, (shape[0], rank, *_ones(shape)), 0.1),
    }


def _loha(shape: Shape, rank: int, rng) -> dict[str, Array]:
    columns = math.prod(shape[1:])
    sizes = {"w1_a": (shape[0], rank), "w1_b": (rank, columns), "w2_a": (shape[0], rank), "w2_b": (rank, columns)}
    return {f"hada_{name}": _normal(rng, size, 0.3 / math.sqrt(rank)) for name, size in sizes.items()}


def _loha_tucker(shape: Shape, rank: int, rng) -> dict[str, Array]:
    if len(shape) == 2:
        return _loha(shape, rank, rng)
    sizes = {"t1": (rank, rank, *shape[2:]), "w1_a": (rank, shape[0]), "w1_b": (rank, shape[1])}
    sizes |= {name.replace("1", "2", 1): size for name, size in sizes.items()}
    return {f"hada_{name}": _normal(rng, size, 0.5 / math.sqrt(rank)) for name, size in sizes.items()}


def _halves(side: int) -> tuple[int, int]:
    """The two factors of a side that are nearest to each other, the smaller first, as LoKr takes them."""
    small = next(n for n in range(math.isqrt(side), 0, -1) if side % n == 0)
    return small, side // small


def _lokr(shape: Shape, rank: int, rng, first: str = "full", second: str = "factors") -> dict[str, Array]:
    (o1, o2), (i1, i2) = _halves(shape[0]), _halves(shape[1])
    kernel = shape[2:]
    tensors: dict[str, Array] = {}
    if first == "full":
        tensors["lokr_w1"] = _normal(rng, (o1, i1), 0.1)
    else:
        tensors |= {"lokr_w1_a": _normal(rng, (o1, rank), 0.1), "lokr_w1_b": _normal(rng, (rank, i1))}
    if second == "full":
        tensors["lokr_w2"] = _normal(rng, (o2, i2, *kernel), 0.1)
    elif second == "tucker" and kernel:
        tensors["lokr_t2"] = _normal(rng, (rank, rank, *kernel), 1 / rank)
        tensors |= {"lokr_w2_a": _normal(rng, (rank, o2), 0.1), "lokr_w2_b": _normal(rng, (rank, i2))}
    else:
        tensors |= {
            "lokr_w2_a": _normal(rng, (o2, rank), 0.1 / math.sqrt(rank)),
            "lokr_w2_b": _normal(rng, (rank, i2 * math.prod(kernel))),
        }
    return tensors


def _glora(shape: Shape, rank: int, rng) -> dict[str, Array]:
    """The newer convention: W a1 a2 + b1 b2, inputs x rank, rank x inputs, outputs x rank, rank x inputs."""
    one = _ones(shape)
    return {
        "a1.weight": _normal(rng, (shape[1], rank, *one), 0.1),
        "a2.weight": _normal(rng, (rank, shape[1], *one), 0.1),
        "b1.weight": _normal(rng, (shape[0], rank, *one), 0.1),
        "b2.weight": _normal(rng, (rank, *shape[1:]), 0.1 / math.sqrt(rank)),
    }


def _ia3(shape: Shape, rank: int, rng, on_input: bool = False) -> dict[str, Array]:
    side = shape[1] if on_input else shape[0]
    weight = _normal(rng, (1, side, *_ones(shape)) if len(shape) > 2 else (side,), 0.1)
    return {"weight": weight, "on_input": np.array(on_input, np.float32)}


def _full(shape: Shape, rank: int, rng) -> dict[str, Array]:
    return {"diff": _normal(rng, shape, 0.01), "diff_b": _normal(rng, shape[:1], 0.01)}


_MAKERS = {
    "lora": _lora,
    "tucker": _tucker,
    "loha": _loha,
    "loha tucker": _loha_tucker,
    "lokr": _lokr,
    "lokr full": lambda shape, rank, rng: _lokr(shape, rank, rng, "full", "full"),
    "lokr both": lambda shape, rank, rng: _lokr(shape, rank, rng, "factors", "factors"),
    "lokr tucker": lambda shape, rank, rng: _lokr(shape, rank, rng, "full", "tucker"),
    "glora": _glora,
    "ia3": _ia3,
    "ia3 input": lambda shape, rank, rng: _ia3(shape, rank, rng, on_input=True),
    "full": _full,
}


def lora_state(
    layers: Mapping[str, Shape],
    algorithm: str = "lora",
    *,
    rank: int = 4,
    alpha: float | None = 2.0,
    family: str = "sd1",
    style: Style = "kohya",
    seed: int = 0,
) -> dict[str, Array]:
    """The tensors of a file: canonical layers with their shapes -> key in the style -> float32.

    In other styles than kohya's a fused layer is written as its parts, each a LoRA of its own; they carry no alpha.
    """
    rng = np.random.default_rng(seed)
    if style == "kohya":
        return {
            f"{name}.{tensor}": values
            for name, shape in layers.items()
            for tensor, values in layer_tensors(algorithm, shape, rank, alpha, rng).items()
        }
    from lora_core.merge.names import spell, tensor_key

    state = {}
    for name, shape in layers.items():
        for spelled, rows in spell(name, family, style):
            part = (rows[1] - rows[0], *shape[1:]) if rows else shape
            for tensor, values in layer_tensors(algorithm, part, rank, None, rng).items():
                state[tensor_key(spelled, tensor, style)] = values
    return state


METADATA = {
    "sd1": {"ss_base_model_version": "sd_v1"},
    "sd2": {"ss_base_model_version": "sd_v2", "ss_v2": "True"},
    "sdxl": {"ss_base_model_version": "sdxl_base_v1-0"},
    "flux": {"ss_base_model_version": "flux1"},
}


def write_lora(
    path: Path,
    family: str = "sd1",
    algorithm: str = "lora",
    *,
    size: Literal["small", "full", "locon"] = "small",
    rank: int = 4,
    alpha: float | None = 2.0,
    style: Style = "kohya",
    precision: Precision = "fp16",
    metadata: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Array]:
    """Writes a LoRA file; returns its tensors as they were before rounding to the precision."""
    layers = layers_of(family, size)
    state = lora_state(layers, algorithm, rank=rank, alpha=alpha, family=family, style=style, seed=seed)
    if metadata is None:
        metadata = METADATA[family] | {"ss_network_dim": str(rank), "ss_network_alpha": str(alpha or rank)}
    save_arrays(state, metadata, path, precision)
    return state
