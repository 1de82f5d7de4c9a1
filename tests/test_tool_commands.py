"""The commands on LoRA files: their own short forms, the command lines of guides, exit codes, nothing lost."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest

from lora_core import cli, tool_commands
from lora_core.io.arrays import open_arrays, save_arrays
from lora_core.merge.lora import load_lora
from lora_core.runs import PROJECT
from lora_core.settings.tools import (
    ApplySettings,
    ExtractSettings,
    MergeSettings,
    RegularisationSettings,
    ResizeSettings,
)
from tests.merge import makers

LAYERS = {name: shape for name, shape in makers.SMALL["sd1"].items() if np.prod(shape) < 500_000}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUMAKOBO_LANG", "en")
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("AB"):
        save_arrays(
            makers.lora_state(LAYERS, seed=seed), makers.METADATA["sd1"], tmp_path / f"{name}.safetensors", "fp16"
        )
    return tmp_path


def settings_of(line: str):
    arguments = cli.parser().parse_args(shlex.split(line))
    return arguments.settings(arguments)


def run(line: str) -> int:
    return cli.main(shlex.split(line))


def test_regularisation_takes_model_and_pictures_of_a_training(folder):
    (folder / "mine.toml").write_text(
        'version = 2\n[model]\nfamily = "sdxl"\nbase = "x.safetensors"\n[dataset]\nresolution = "1024"\n',
        encoding="utf-8",
    )
    settings = settings_of("regularisation '1girl, solo' --folder reg --settings mine.toml --train-dir img -n 9")
    assert isinstance(settings, RegularisationSettings)
    assert (settings.model.family, settings.model.base, settings.dataset.resolution) == (
        "sdxl",
        "x.safetensors",
        "1024",
    )
    assert (settings.prompt, settings.count, settings.dataset.train_dir.name) == ("1girl, solo", 9, "img")
    assert settings_of("regularisation bear --folder reg --model y.ckpt --family sd2").model.family == "sd2"


def test_regularisation_says_what_it_would_do(folder, capsys):
    assert run("regularisation bear --folder reg -n 3 --dry-run") == 0
    assert "3 pictures of" in capsys.readouterr().out
    assert not (folder / "reg").exists()


def test_handover_copies_and_says_what_to_paste(folder, capsys):
    (folder / "ComfyUI" / "models" / "loras").mkdir(parents=True)
    line = "handover A.safetensors ComfyUI --strength 0.8 --name usu"
    assert run(line) == 0
    assert "<lora:usu:0.8>" in capsys.readouterr().out
    copy = folder / "ComfyUI" / "models" / "loras" / "usu.safetensors"
    assert copy.read_bytes() == (folder / "A.safetensors").read_bytes()
    assert run(line) == 2
    assert "usu-2 is free" in capsys.readouterr().err
    assert run(f"{line} --replace") == 0


# ---- command lines of guides -----------------------------------------------------------------------------------------


def test_svd_merge_lora():
    settings = settings_of(
        "merge --models B.safetensors A.safetensors --ratios 1 -1 --new_rank 16 --device cuda --save_precision fp16 "
        "--save_to out.safetensors"
    )
    assert isinstance(settings, MergeSettings)
    assert [(lora.path.name, lora.ratio) for lora in settings.loras] == [("B.safetensors", 1), ("A.safetensors", -1)]
    assert (settings.method, settings.rank, settings.precision) == ("svd", 16, "fp16")
    assert settings.output.name == "out.safetensors"


def test_svd_merge_lora_with_layer_weights():
    line = "[" + ",".join(["1", "0.5", *["0"] * 15]) + "]"
    settings = settings_of(
        f"merge --models a.safetensors b.safetensors --ratios 0.5 0.5 --lbws '{line}' --new_conv_rank 8"
    )
    assert [lora.block_weights for lora in settings.loras] == [line, ""]
    assert settings.conv_rank == 8


def test_merge_lora_into_a_checkpoint():
    settings = settings_of(
        "merge --sd_model model.safetensors --models a.safetensors --ratios 0.8 --save_to new.safetensors --v2"
    )
    assert isinstance(settings, ApplySettings)
    assert settings.checkpoint.name == "model.safetensors"
    assert settings.loras[0].ratio == 0.8
    assert settings.precision == "same"


def test_merge_lora_concat():
    settings = settings_of(
        "merge --models a.safetensors b.safetensors --ratios 1 1 --concat --shuffle --save_to c.safetensors"
    )
    assert settings.method == "concat"


def test_extract_lora_from_models():
    settings = settings_of(
        "extract --sdxl --model_org base.safetensors --model_tuned tuned.safetensors --dim 32 --clamp_quantile 0.99 "
        "--min_diff 0.01 --save_precision bf16 --save_to x.safetensors --device cuda"
    )
    assert isinstance(settings, ExtractSettings)
    assert (settings.base.name, settings.tuned.name) == ("base.safetensors", "tuned.safetensors")
    assert (settings.rank, settings.conv, settings.min_diff) == (32, False, 0.01)
    assert settings_of("extract --model_org a --model_tuned b --dim 8 --conv_dim 4").conv_rank == 4


def test_resize_lora():
    settings = settings_of(
        "resize --model big.safetensors --new_rank 32 --dynamic_method sv_fro --dynamic_param 0.9 "
        "--save_to x.safetensors --save_precision fp16 --device cuda --verbose"
    )
    assert isinstance(settings, ResizeSettings)
    assert (settings.lora.name, settings.rank) == ("big.safetensors", 32)
    assert (settings.dynamic_method, settings.dynamic_param) == ("sv_fro", 0.9)


def test_what_changes_nothing_here_is_said(folder, capsys):
    run("merge --models A.safetensors --device cuda --precision float --save_to c.safetensors")
    said = capsys.readouterr().err
    assert "--device" in said
    assert "--precision" in said


@pytest.mark.parametrize(
    ("word", "parted"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.5", ("a.safetensors", 0.5)),
        ("a.safetensors:-1", ("a.safetensors", -1.0)),
        ("C:\\loras\\a.safetensors", ("C:\\loras\\a.safetensors", 1.0)),
        ("C:\\loras\\a.safetensors:0.7", ("C:\\loras\\a.safetensors", 0.7)),
    ],
)
def test_a_ratio_behind_a_colon(word, parted):
    assert tool_commands.part_ratio(word) == parted


# ---- doing it --------------------------------------------------------------------------------------------------------


def test_merge_in_the_short_form(folder, capsys):
    assert run("merge A.safetensors:0.5 B.safetensors:-1 -o c.safetensors --save-precision float") == 0
    merged, a, b = (load_lora(folder / f"{name}.safetensors") for name in "cAB")
    for layer in LAYERS:
        wanted = 0.5 * a.change(layer).dense() - b.change(layer).dense()
        np.testing.assert_allclose(merged.change(layer).dense(), wanted, atol=1e-5 * np.linalg.norm(wanted))
    assert "c.safetensors" in capsys.readouterr().out


def test_resize_convert_and_clean(folder):
    assert run("resize A.safetensors --rank 2 -o r.safetensors") == 0
    assert load_lora(folder / "r.safetensors").change(next(iter(LAYERS))).rank == 2
    assert run("convert A.safetensors --to diffusers --save-precision bf16 --set own=熊=bear -o d.safetensors") == 0
    with open_arrays(folder / "d.safetensors") as file:
        assert file.metadata["own"] == "熊=bear"
        assert all(".lora_" in key for key in file.tensors)
    assert run("clean A.safetensors --remove-blocks BASE -o k.safetensors") == 0
    assert not [n for n in load_lora(folder / "k.safetensors").names() if n.startswith("lora_te")]


def test_dry_run_writes_nothing(folder, capsys):
    assert run("merge A.safetensors B.safetensors --rank 4 -o c.safetensors --dry-run") == 0
    assert "<lora:c:1>" in capsys.readouterr().out
    assert not (folder / "c.safetensors").exists()
    assert run("merge A.safetensors nothing.safetensors -o c.safetensors --dry-run") == 2
    assert "nothing.safetensors" in capsys.readouterr().err


def test_an_output_that_is_there_needs_force(folder, capsys):
    (folder / "c.safetensors").write_bytes(b"mine")
    assert run("merge A.safetensors B.safetensors -o c.safetensors") == 1
    assert (folder / "c.safetensors").read_bytes() == b"mine"
    assert run("merge A.safetensors B.safetensors -o c.safetensors --force") == 0
    assert load_lora(folder / "c.safetensors")


def test_a_merge_is_repeated_from_its_file(folder):
    assert run("merge A.safetensors B.safetensors:-1 --rank 3 -o c.safetensors") == 0
    assert run("merge --repeat c.safetensors -o d.safetensors") == 0
    with open_arrays(folder / "c.safetensors") as one, open_arrays(folder / "d.safetensors") as two:
        assert one.metadata["sshs_model_hash"] == two.metadata["sshs_model_hash"]


def test_inspect_and_compare(folder, capsys):
    assert run("inspect A.safetensors --json") == 0
    assert json.loads(capsys.readouterr().out)
    assert run("inspect A.safetensors B.safetensors --header") == 0
    assert "A.safetensors" in capsys.readouterr().out
    assert run("compare A.safetensors B.safetensors --json") == 0
    assert json.loads(capsys.readouterr().out)


BAD = [
    ("merge A.safetensors B.safetensors --ratios 1 -o c.safetensors", "1 ratios were given for 2 LoRAs"),
    ("merge A.safetensors --lbws ALL NONE -o c.safetensors", "2 layer weights"),
    ("merge A.safetensors --rank 0 -o c.safetensors", "rank"),
    ("merge A.safetensors --lbws 1,2,3 -o c.safetensors", "3 layer weights were given"),
    ("merge A.safetensors", "No output file"),
    ("merge -o c.safetensors", "No LoRA"),
    ("merge A.safetensors --repeat A.safetensors -o c.safetensors", "no recipe"),
    ("merge A.safetensors -o A.safetensors --force", "one of the files"),
    ("resize A.safetensors -o c.safetensors", "rank"),
    ("convert A.safetensors --set nonsense -o c.safetensors", "KEY=VALUE"),
    ("clean A.safetensors --remove-blocks WING -o c.safetensors", "WING"),
    ("merge --models A.safetensors --clip_l x.safetensors --save_to c.safetensors", "--clip_l"),
]


@pytest.mark.parametrize(("line", "words"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_sentence(folder, capsys, line, words):
    before = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert run(line) in (1, 2)
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err + said.out
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors*")} == before


def test_ratios_that_are_no_numbers_are_a_usage_error(folder, capsys):
    with pytest.raises(SystemExit) as caught:
        run("merge A.safetensors --ratios half -o c.safetensors")
    assert caught.value.code == 2


def test_no_torch(folder):
    """Loading torch would take longer than the merge."""
    code = (
        "import sys; from lora_core.cli import main; "
        "code = main(['merge', 'A.safetensors', 'B.safetensors', '--rank', '4', '-o', 'c.safetensors']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, env=_environment()).returncode == 0


def _environment():
    import os

    return {**os.environ, "PYTHONPATH": str(PROJECT)}
