"""Pasted training commands of Linux and Windows."""

import pytest

from lora_core.errors import UserError
from lora_core.settings.files import load
from lora_core.settings.kohya import import_command, is_command
from lora_core.settings.kohya.command import read_command, split

WANTED = {
    "network_dim": "16",
    "train_data_dir": "D:/my pics/img",
    "network_args": ["conv_dim=4", "conv_alpha=1"],
    "enable_bucket": True,
}
TAIL = (
    '--network_dim{c}  --train_data_dir="D:/my pics/img"{c}  --network_args "conv_dim=4" "conv_alpha=1"{c}'
    "  --enable_bucket"
)


def nothing(_):
    return False


@pytest.mark.parametrize("mark", ["\\", "^", "`"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " "], ids=["lines", "windows lines", "pasted into one"])
def test_lines_that_go_on(mark, end):
    text = f"accelerate launch --num_processes 2 train_network.py {mark}{end}" + TAIL.replace(
        "_dim{c}", "_dim=16{c}"
    ).format(c=f" {mark}{end}")
    assert read_command(text) == (WANTED, {"num_processes": "2"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r'--a "C:\models\new one\x.safetensors" --b', ["--a", r"C:\models\new one\x.safetensors", "--b"]),
        (r"--a C:\pics\ --b", ["--a", "C:\\pics\\", "--b"]),
        (r'--a "C:\pics\" --b', ["--a", "C:\\pics\\", "--b"]),
        (r"--a /my\ pics/img", ["--a", "/my pics/img"]),
        ("--a '' --b 'x y'", ["--a", "", "--b", "x y"]),
        (r'--a "say \"usu\" bear"', ["--a", 'say "usu" bear']),
        ("--a=くま --b", ["--a=くま", "--b"]),
    ],
)
def test_words_of_a_command(text, words):
    assert split(text) == words


def test_a_script_file_with_more_in_it(tmp_path):
    path = tmp_path / "学習.bat"
    path.write_text(
        "@echo off\nrem accelerate launch train_network.py --network_dim 1\ncd /d D:\\sd-scripts\n"
        "call venv\\Scripts\\activate\naccelerate launch train_network.py ^\n --network_dim 16 ^\n --seed 7\npause\n",
        encoding="utf-8",
    )
    settings = load(path).settings
    assert (settings.network.rank, settings.train.seed) == (16, 7)


def test_a_script_for_another_family_is_known_by_its_name():
    assert read_command("python sdxl_train_network.py --network_dim 8")[0]["sdxl"] is True


def test_options_alone_are_enough():
    assert read_command("--network_dim 8 --seed 1")[0] == {"network_dim": "8", "seed": "1"}


def test_options_of_accelerate_are_told():
    told = import_command(
        "accelerate launch --num_processes 2 --mixed_precision bf16 train_network.py --seed 1", "x", nothing
    )
    by_key = {entry.key: entry for entry in told.entries}
    assert by_key["accelerate num_processes"].group == "mapped"
    assert told.settings.launch.processes == 2
    assert by_key["accelerate mixed_precision"].group == "no_effect"
    assert told.settings.train.mixed_precision == "no"


def test_a_variable_of_the_script_is_told():
    told = import_command(
        "accelerate launch train_network.py --output_dir $OUT --network_dim %DIM% --seed 3", "x", nothing
    )
    assert {entry.reason for entry in told.of("unsupported")} == {"why.variable"}
    assert (told.settings.save.output_dir, told.settings.train.seed) == (None, 3)


def test_the_config_and_dataset_files_are_read_and_the_command_counts_first(tmp_path):
    (tmp_path / "c.toml").write_text("network_dim = 8\nseed = 5\n", encoding="utf-8")
    (tmp_path / "d.toml").write_text(
        '[[datasets]]\nresolution = 768\n[[datasets.subsets]]\nimage_dir = "/x/3_bear"\nnum_repeats = 3\n',
        encoding="utf-8",
    )
    line = f"train_network.py --config_file {tmp_path / 'c'} --dataset_config {tmp_path / 'd.toml'} --seed 6"
    told = import_command(line, "x")
    assert (told.settings.network.rank, told.settings.train.seed) == (8, 6)
    assert told.settings.dataset.config == tmp_path / "d.toml"
    hidden = import_command(line, "x", nothing)
    assert {entry.key for entry in hidden.of("unsupported")} == {"config_file"}


def test_what_is_a_command():
    assert is_command("accelerate launch --x train_network.py")
    assert not is_command("/home/me/my.toml")


@pytest.mark.parametrize(
    "text", ["", "   ", "hello world", "accelerate launch fine_tune.py --x", 'train_network.py --a "', "x" * 200_000]
)
def test_anything_else_is_one_sentence(text):
    with pytest.raises(UserError):
        read_command(text)


def test_several_machines_come_along():
    told = import_command(
        "accelerate launch --multi_gpu --num_processes 4 --num_machines 2 --machine_rank 1 --main_process_ip 10.0.0.1"
        " --main_process_port 29501 --gpu_ids all --num_cpu_threads_per_process 2 --rdzv_backend c10d"
        " train_network.py --seed 1",
        "x",
        nothing,
    )
    launch = told.settings.launch
    assert (launch.processes, launch.machines, launch.machine_rank) == (4, 2, 1)
    assert (launch.main_address, launch.main_port, launch.gpu_ids, launch.threads) == ("10.0.0.1", 29501, "", 2)
    groups = {entry.key: entry.group for entry in told.entries}
    assert groups["accelerate multi_gpu"] == "no_effect"
    assert groups["accelerate rdzv_backend"] == "unsupported"
