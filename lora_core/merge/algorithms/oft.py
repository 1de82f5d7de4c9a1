"""OFT: blocks of outputs are turned (Qiu et al. 2023), as LyCORIS' diag-oft and sd-scripts write it."""

import numpy as np

from lora_core.errors import UserError
from lora_core.merge.algorithms.factors import shape_text
from lora_core.merge.layer import Array, Dense, Layer

BLOCKS = "oft_blocks"


def change(layer: Layer, base: Array | None = None) -> Dense:
    """(R - I)' W block by block, R = (I + Q)(I - Q)^-1 and Q = B - B' (K, S, S); W' with the transpose, as all read it.

    alpha limits |Q| to alpha times the outputs, as LyCORIS and AUTOMATIC1111 have it; 0 or none is no limit.
    """
    assert base is not None
    blocks = layer.tensors[BLOCKS]
    count, size, width = blocks.shape
    if size != width or count * size != base.shape[0]:
        found, wanted = shape_text(blocks.shape), shape_text(base.shape)
        raise UserError("lora.other_shape", layer=layer.where, found=found, wanted=wanted)
    b = blocks.astype(np.float64)
    q = _limited(layer, b - b.transpose(0, 2, 1), base.shape[0])
    turn = np.linalg.solve(np.eye(size) - q, 2 * q)  # R - I
    weight = base.astype(np.float64).reshape(count, size, -1)
    turned = np.matmul(turn.transpose(0, 2, 1), weight)
    return Dense(turned.reshape(base.shape).astype(np.float32), base.shape)


def check(layer: Layer) -> None:
    """Raises UserError for the older OFT and for BOFT (four sides, or a scale beside), which turn in another way."""
    blocks = layer.tensors.get(BLOCKS)
    if blocks is None or blocks.ndim != 3 or "rescale" in layer.tensors:
        raise UserError("lora.not_linear", layer=layer.where, algorithm="BOFT or an older OFT")


def _limited(layer: Layer, q: Array, outputs: int) -> Array:
    alpha = layer.tensors.get("alpha", np.zeros(1))
    if alpha.size != 1:
        raise UserError("lora.bad_alpha", layer=layer.where, shape=shape_text(alpha.shape))
    limit, length = float(alpha.reshape(-1)[0]) * outputs, float(np.linalg.norm(q))
    return q * (limit / length) if 0 < limit < length else q
