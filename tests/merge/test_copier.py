"""The copier LoRA (コピー機LoRA) made both ways people make it, on the built-in model with real training.

A is over-fitted on the picture before, then C on the picture after, on top of the model with A baked in. The copier is
what changes the first picture into the second: C. It is found (1) by extracting the over-fitted LoRA B of the second
picture, whose model is base + A + C, and taking the SVD difference B - A, and (2) by extracting what came on top.
"""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lora_core.demo import DATASET, MINI_MODEL
from lora_core.events import FileSaved, RunFailed
from lora_core.families import FAMILIES
from lora_core.generate.loras import layers_of
from lora_core.generate.preview import added, request
from lora_core.merge.apply import apply
from lora_core.merge.combine import merge
from lora_core.merge.extract import extract
from lora_core.merge.lora import load_lora
from lora_core.merge.lowrank import cosine
from lora_core.settings import RunSettings, SampleSettings, Sd1Model
from lora_core.settings.tools import ApplySettings, ExtractSettings, LoraSource, MergeSettings, PreviewSettings
from lora_core.train.loop import train

pytestmark = pytest.mark.skipif(
    not (MINI_MODEL / "model_index.json").exists(), reason="the built-in model is not there"
)
RANK, STEPS = 4, 40


def over_fit(base, picture: Image.Image, folder, name):
    """A LoRA that knows one picture, without a caption: constant rate, U-Net only, as the guides train copiers."""
    (folder / name / "1_").mkdir(parents=True)
    picture.save(folder / name / "1_" / "only.png")
    (folder / name / "1_" / "only.txt").write_text(" ", encoding="utf-8")
    settings = RunSettings.model_validate(
        {
            "model": {"base": str(base)},
            "dataset": {"train_dir": folder / name / "1_", "resolution": "64", "min_bucket_reso": 32},
            "network": {"rank": RANK, "alpha": RANK},
            "optimizer": {"name": "AdamW"},
            "schedule": {"name": "constant"},
            "train": {
                "max_train_steps": STEPS,
                "train_batch_size": 1,
                "learning_rate": 2e-3,
                "train_text_encoder": False,
                "seed": 1,
                "mixed_precision": "no",
            },
            "save": {"output_dir": folder / "out", "output_name": name, "save_precision": "float"},
        }
    )
    failed = [event for event in train(settings, ()) if isinstance(event, RunFailed)]
    assert not failed
    return folder / "out" / f"{name}.safetensors"


def do(tool, settings):
    return [event for event in tool(settings) if isinstance(event, FileSaved)][-1].path


def baked(model, lora, output):
    return do(apply, ApplySettings(checkpoint=model, loras=[LoraSource(path=lora)], output=output, precision="float"))


def extracted(base, tuned, output, rank):
    return do(extract, ExtractSettings(base=base, tuned=tuned, output=output, rank=rank, precision="float"))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copier")
    before = Image.open(sorted(DATASET.rglob("*.png"))[0]).convert("RGB")
    a = over_fit(MINI_MODEL, before, folder, "a")
    with_a = baked(MINI_MODEL, a, folder / "with_a")
    c = over_fit(with_a, ImageOps.grayscale(before).convert("RGB"), folder, "c")
    tuned = baked(with_a, c, folder / "tuned")

    b = extracted(MINI_MODEL, tuned, folder / "b.safetensors", 2 * RANK)
    sources = [LoraSource(path=b, ratio=1), LoraSource(path=a, ratio=-1)]
    one = do(
        merge, MergeSettings(loras=sources, rank=RANK, output=folder / "difference.safetensors", precision="float")
    )
    two = extracted(with_a, tuned, folder / "on_top.safetensors", RANK)
    return load_lora(one), load_lora(two), load_lora(c)


def test_both_ways_give_the_same_lora(both):
    one, two, trained = both
    assert set(one.names()) == set(two.names()) == set(trained.names())
    for name in trained.names():
        wanted = trained.change(name)
        for found in (one.change(name), two.change(name)):
            assert cosine(found, wanted) > 0.999, name
            missed = np.linalg.norm(found.dense() - wanted.dense())
            assert missed <= 0.01 * wanted.norm(), name


def test_both_draw_the_same_picture(both):
    family = FAMILIES["sd1"]
    components = family.load(Sd1Model(base="built-in"), dtype=torch.float32, device=torch.device("cpu"))
    modules = layers_of(FAMILIES["sd1"], components)
    settings = PreviewSettings(prompts=["bear"], steps=8, guidance=3.0, width=64, height=64)
    from lora_core.generate.draw import draw

    pictures = []
    for file in (None, *both[:2]):
        changes = {name: file.change(name) for name in file.names()} if file else {}
        with added(modules, changes, {}, 1.0):
            drawn = draw(family, components, request("bear", settings), SampleSettings(prompts="bear"), Sd1Model())
        pictures.append(np.asarray(drawn.image).astype(float))
    without, one, two = pictures
    assert np.abs(one - two).max() <= 4
    assert np.abs(one - without).mean() > 10 * max(np.abs(one - two).mean(), 0.01), "the copier does nothing"
