"""Text encoders in OpenCLIP's names (Stable Diffusion 2's, SDXL's second): to those of transformers.

OpenCLIP keeps query, key and value in one matrix and the projection of the text transposed. diffusers' converter knows
both; what is added here is what it drops silently: a name that it does not know is kept, to be said.
"""

from types import SimpleNamespace

from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

from lora_core.families.sd_keys import State, layer_count

_PLAIN = frozenset(
    {"positional_embedding", "token_embedding.weight", "ln_final.weight", "ln_final.bias", "text_projection"}
)
_LAYERS = "transformer.resblocks."


def convert_open_clip(state: State, *, last_layer: bool, projection: bool) -> State:
    """transformers' names (without ``text_model.``) for OpenCLIP's without prefix.

    Stable Diffusion 2 reads the layer before the last and was trained so: ``last_layer`` False leaves the last one out,
    as diffusers' folders and the LoRAs of sd-scripts do (23 of 24). ``projection`` keeps the text's projection.
    """
    width = state["token_embedding.weight"].shape[1]
    if not last_layer:
        last = f"{_LAYERS}{layer_count(state, _LAYERS) - 1}."
        state = {key: tensor for key, tensor in state.items() if not key.startswith(last)}
    if not projection:
        state = {key: tensor for key, tensor in state.items() if key != "text_projection"}
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    converted = convert_open_clip_checkpoint(model, state, prefix="")
    unknown = {key: t for key, t in state.items() if key not in _PLAIN and not key.startswith("transformer.")}
    return {key.removeprefix("text_model."): tensor for key, tensor in converted.items()} | unknown
