"""The tables of layers against the models they stand for."""

import subprocess
import sys

import pytest

from lora_core.merge import known
from tests.merge.model_facts import FAMILIES, checkpoint, lora_targets
from tools import write_layer_tables

WITH_TARGETS = ("sd1", "sdxl", "flux")


@pytest.mark.parametrize("family", WITH_TARGETS)
def test_default_targets_are_those_of_sd_scripts(family: str):
    targets = lora_targets(family)
    assert known.default_targets(family) == targets.keys()
    assert {name: known.layers(family)[name] for name in targets} == targets


@pytest.mark.parametrize(("family", "count"), [("sd1", 192 + 72), ("sdxl", 722 + 264), ("flux", 304)])
def test_so_many_layers_a_plain_lora_has(family: str, count: int):
    assert len(known.default_targets(family)) == count


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_and_layers_are_two_things(family: str):
    assert not known.layers(family).keys() & known.vectors(family).keys()
    assert all(len(shape) in (2, 4) for shape in known.layers(family).values())
    assert all(len(shape) == 1 for shape in known.vectors(family).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tables_are_what_the_tool_writes(family: str):
    table = write_layer_tables.table(family)
    assert {name: tuple(shape) for name, shape in table["layers"].items()} == known.layers(family)
    assert {name: tuple(shape) for name, shape in table["vectors"].items()} == known.vectors(family)
    assert set(table["targets"]) == known.default_targets(family)
    assert write_layer_tables.packed(table) == write_layer_tables.packed(write_layer_tables.table(family))


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_as_many_weights_as_a_published_checkpoint(family: str):
    """Of the U-Net, where the checkpoint has one matrix for each layer."""
    weights = [s for key, s in checkpoint(family).items() if key.startswith("model.diffusion_model.") and len(s) > 1]
    layers = [shape for name, shape in known.layers(family).items() if name.startswith("lora_unet_")]
    assert sorted(layers) == sorted(weights)


def test_a_family_without_a_table_knows_nothing():
    assert not known.layers("sd3")
    assert not known.vectors("unknown")
    assert not known.default_targets("sd3")


def test_no_torch_and_nothing_read_before_it_is_asked_for():
    code = (
        "import sys, gzip; gzip.open = None\n"
        "from lora_core.merge import known, names, weights\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
