"""Which build of torch is chosen for which machine."""

import io
import urllib.error

import pytest

from lora_core.errors import UserError
from lora_core.setup.backends import BACKENDS, CHOICES, TORCH, choose, default_index_has, reachable
from lora_core.setup.hardware import Hardware, Nvidia, _linux_amd, _linux_arc, parse_nvidia, query_nvidia


def card(driver: str, capability: tuple[int, int] | None = (8, 6), newest: tuple[int, int] | None = None) -> Nvidia:
    return Nvidia(("GeForce",), tuple(map(int, driver.split("."))), capability, newest or capability)


@pytest.mark.parametrize(
    ("nvidia", "backend", "notes"),
    [
        (card("580.95.05", (8, 6)), "cu130", []),
        (card("581.42", (12, 0)), "cu130", []),
        (card("580.95.05", (6, 1)), "cu126", []),
        (card("580.95.05", (7, 0)), "cu126", []),
        (card("560.35.03", (8, 9)), "cu126", []),
        (card("525.60.13", (7, 5)), "cu126", []),
        (card("610.10", (7, 5)), "cu130", []),
        (card("580.95.05", (6, 1), (12, 0)), "cu130", []),
        (card("570.10", (12, 0)), "cpu", ["setup.driver_too_old"]),
        (card("470.57.02", None), "cpu", ["setup.driver_too_old"]),
        (card("535.54", None), "cu126", []),
    ],
)
@pytest.mark.parametrize("system", ["Linux", "Windows"])
def test_nvidia_cards_get_the_newest_build_that_driver_and_card_can_run(nvidia, backend, notes, system):
    choice = choose(Hardware(system, nvidia=nvidia))
    assert choice.name == backend
    assert [key for key, _ in choice.notes] == notes


@pytest.mark.parametrize(
    ("hardware", "backend"),
    [
        (Hardware("Linux"), "cpu"),
        (Hardware("Windows", "AMD64"), "cpu"),
        (Hardware("Darwin", "arm64"), "mps"),
        (Hardware("Linux", amd=True), "rocm"),
        (Hardware("Windows", "AMD64", amd=True), "cpu"),
        (Hardware("Linux", intel=True), "xpu"),
        (Hardware("Windows", "AMD64", intel=True), "xpu"),
        (Hardware("Linux", nvidia=card("580.1"), amd=True, intel=True), "cu130"),
    ],
)
def test_other_machines(hardware, backend):
    assert choose(hardware).name == backend


@pytest.mark.parametrize("name", BACKENDS)
def test_a_wanted_build_is_taken_on_its_systems_and_refused_elsewhere(name):
    for system in ("Linux", "Windows", "Darwin"):
        hardware = Hardware(system, "arm64" if system == "Darwin" else "x86_64")
        if system in BACKENDS[name].systems:
            assert choose(hardware, name).name == name
        elif name != "cpu":  # on a Mac, one build serves both
            with pytest.raises(UserError, match=name):
                choose(hardware, name)


def test_cuda_needs_a_driver_to_choose_by():
    assert choose(Hardware("Linux", nvidia=card("560.1")), "cuda").name == "cu126"
    with pytest.raises(UserError, match="nvidia-smi"):
        choose(Hardware("Linux"), "cuda")


def test_intel_macs_are_told_that_they_cannot():
    with pytest.raises(UserError, match="Apple silicon"):
        choose(Hardware("Darwin", "x86_64"))


def test_every_choice_is_a_build_or_a_rule():
    assert set(CHOICES) - set(BACKENDS) == {"auto", "cuda"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            "NVIDIA GeForce RTX 3060, 580.95.05, 8.6\n",
            Nvidia(("NVIDIA GeForce RTX 3060",), (580, 95, 5), (8, 6), (8, 6)),
        ),
        ("A, 535.54, 6.1\nB, 535.54, 12.0\n", Nvidia(("A", "B"), (535, 54), (6, 1), (12, 0))),
        ("Tesla K80, 470.57.02\n", Nvidia(("Tesla K80",), (470, 57, 2))),
        ("GRID, 550.90.07, [N/A]\n", Nvidia(("GRID",), (550, 90, 7))),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", None),
        ("No devices were found\n", None),
        ("", None),
    ],
)
def test_nvidia_smi_answers(answer, expected):
    assert parse_nvidia(answer) == expected


def test_an_old_nvidia_smi_is_asked_again_without_the_capability():
    def ask(command):
        return None if any("compute_cap" in part for part in command) else "Tesla K80, 460.32, \n"

    assert query_nvidia(ask) == Nvidia(("Tesla K80",), (460, 32))
    assert query_nvidia(lambda command: None) is None


def write(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


@pytest.mark.parametrize(("gpu_id", "found"), [("0\n", False), ("25520\n", True)])
def test_amd_cards_are_nodes_of_the_compute_driver(tmp_path, gpu_id, found):
    write(tmp_path / "dev/kfd")
    write(tmp_path / "sys/class/kfd/kfd/topology/nodes/0/gpu_id", gpu_id)
    assert _linux_amd(tmp_path) is found


@pytest.mark.parametrize(
    ("vendor", "device", "found"),
    [
        ("0x8086", "0x56a0", True),
        ("0x8086", "0xe20b", True),
        ("0x8086", "0x3e92", False),
        ("0x10de", "0x56a0", False),
    ],
)
def test_arc_cards_are_told_from_integrated_graphics(tmp_path, vendor, device, found):
    write(tmp_path / "sys/class/drm/card0/device/vendor", vendor)
    write(tmp_path / "sys/class/drm/card0/device/device", device)
    assert _linux_arc(tmp_path) is found


def listing(*names):
    return lambda url, timeout: io.BytesIO("".join(f'<a href="{name}">x</a>' for name in names).encode())


def unreachable(url, timeout):
    raise urllib.error.URLError("no route")


@pytest.mark.parametrize("backend", [b for b in BACKENDS.values() if b.index], ids=lambda b: b.folder)
def test_an_index_counts_when_it_has_this_version_of_this_build(backend):
    wheel = f"torch-{TORCH}%2B{backend.folder}-cp311-cp311-win_amd64.whl"
    assert reachable(backend, open_url=listing(wheel))
    assert not reachable(backend, open_url=listing(f"torch-2.1.0%2B{backend.folder}-cp311-cp311-win_amd64.whl"))
    assert not reachable(backend, open_url=unreachable)


def test_only_builds_that_the_default_index_has_need_no_word_when_the_pytorch_index_is_away():
    assert default_index_has("cu130", Hardware("Linux"))
    assert default_index_has("cpu", Hardware("Windows", "AMD64"))
    assert not default_index_has("cu130", Hardware("Windows", "AMD64"))
    assert not default_index_has("cpu", Hardware("Linux"))
