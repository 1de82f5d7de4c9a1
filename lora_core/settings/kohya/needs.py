"""When Kohya uses a value at all: many keys mean something only beside another one."""

from collections.abc import Callable, Mapping

from lora_core.settings.kohya.draft import Draft

CONV_TYPES = ("Kohya LoCon", "Kohya LoHa", "Kohya LoKr", "Kohya DyLoRA", "LoRA-FA")


def _type(draft: Draft) -> str:
    return draft.text("LoRA_type")


def _as_option(draft: Draft, key: str) -> bool:
    """Among the additional parameters, which reach sd-scripts whatever the GUI's menus say."""
    return key in draft.given and draft.given[key].dialect == "scripts"


NEEDS: Mapping[str, Callable[[Draft], bool]] = {
    "sd3": lambda draft: draft.flag("sd3_checkbox"),
    "flux1": lambda draft: draft.flag("flux1_checkbox"),
    "flow_density": lambda draft: (
        draft.flag("sd3_checkbox") or (draft.flag("flux1_checkbox") and draft.dialect == "scripts")
    ),
    "hunyuan": lambda draft: draft.flag("hunyuan_image_checkbox"),
    "anima": lambda draft: draft.flag("anima_checkbox"),
    "lumina": lambda draft: draft.flag("lumina_checkbox"),
    "huber": lambda draft: draft.text("loss_type") in ("huber", "smooth_l1"),
    "offset": lambda draft: draft.text("noise_offset_type") != "Multires" or _as_option(draft, "noise_offset"),
    "offset_used": lambda draft: NEEDS["offset"](draft) and bool(draft.number("noise_offset")),
    "multires": lambda draft: (
        draft.text("noise_offset_type") != "Original" or _as_option(draft, "multires_noise_iterations")
    ),
    "multires_used": lambda draft: NEEDS["multires"](draft) and bool(draft.number("multires_noise_iterations")),
    "ip_noise": lambda draft: bool(draft.number("ip_noise_gamma")),
    "ggpo": lambda draft: draft.flag("train_lora_ggpo"),
    "conv": lambda draft: _type(draft) in CONV_TYPES or _type(draft).startswith("LyCORIS/"),
    "lycoris": lambda draft: _type(draft).startswith("LyCORIS/"),
    "lokr": lambda draft: _type(draft).endswith("LoKr"),
    "dylora": lambda draft: _type(draft).endswith("DyLoRA"),
    "deepspeed": lambda draft: draft.flag("deepspeed"),
    "compile": lambda draft: draft.text("dynamo_backend") not in ("", "no"),
}
