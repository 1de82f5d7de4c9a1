"""What the Merge tab says: cards, layer weights, what a rank keeps, summary, progress and result."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from app.merge import run as merge_run
from app.merge.blocks import editor, line_after
from app.merge.energy import curve, curve_html, energy_html, percent, ticks
from app.merge.events import Newest
from app.merge.files import Looks, card_html, thumbnail
from app.merge.form import DEFAULTS
from app.merge.page import check, highest_rank, judged, method_choices, quick_check, said, suggested_prompt
from app.merge.parts import fresh
from app.merge.view import failure_html, progress_html, prompt_of, result_html
from app.run_view import Views
from lora_core.events import FileSaved, RunFailed, RunFinished, StageChanged, ToolStarted, append
from lora_core.i18n import LANGUAGES
from lora_core.inspect.report import Thumbnail
from lora_core.merge.blocks import PRESETS, format_weights, names, parse
from lora_core.merge.combine import Spectrum
from lora_core.merge.lowrank import energy
from lora_core.merge.methods import METHODS
from lora_core.runs import create_run
from lora_core.settings.tools import MergeSettings
from tests.merge.makers import write_lora

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three small LoRAs: two of one family, one of another."""
    folder = tmp_path_factory.mktemp("くま & 'files'")
    write_lora(folder / "bear.safetensors", "sd1", rank=4, alpha=2.0)
    write_lora(folder / "hat.safetensors", "sd1", rank=8, seed=1)
    write_lora(folder / "big.safetensors", "sdxl")
    return folder


def pair(files, **values) -> dict:
    return DEFAULTS | {"path1": str(files / "bear.safetensors"), "path2": str(files / "hat.safetensors")} | values


# ---- cards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_card_says_what_a_file_is(files, language):
    html = card_html(Looks().of(pair(files), ())["path1"], language)
    assert 'class="mg-card mg-ok"' in html
    for word in ("bear", "Stable Diffusion 1.x", "rank 4", "alpha 2", "fp16"):
        assert word in html


@pytest.mark.parametrize("language", LANGUAGES)
def test_families_are_not_mixed(files, language):
    values = pair(files, path2=str(files / "big.safetensors"))
    looks = Looks().of(values, ())
    assert "mg-card mg-ok" in card_html(looks["path1"], language)
    html = card_html(looks["path2"], language)
    assert "mg-card mg-bad" in html
    assert "bear.safetensors" in html
    checked = quick_check(values, looks, (), language)
    assert not checked.ready
    assert "SDXL" in checked.problems[0]


def test_the_base_of_another_family_is_the_one_that_is_wrong(files):
    values = pair(files, base=str(files / "big.safetensors"))
    looks = Looks().of(values, ())
    assert [key for key, look in looks.items() if look.error] == ["base"]


def test_a_file_of_the_wrong_kind_is_named(files, tmp_path):
    values = DEFAULTS | {"what": "bake", "checkpoint": str(files / "bear.safetensors"), "path1": str(tmp_path / "no")}
    looks = Looks().of(values, ())
    assert "no checkpoint" in card_html(looks["checkpoint"], "en")
    assert "no" in card_html(looks["path1"], "en")
    assert card_html(None, "en") == ""


def test_a_changed_file_is_read_again(tmp_path):
    path, looks = tmp_path / "a.safetensors", Looks()
    write_lora(path, "sd1", rank=4)
    assert looks.at(path).report.rank == 4
    write_lora(path, "sd1", rank=8)
    assert looks.at(path).report.rank == 8


def test_metadata_does_nothing_but_stand_there(tmp_path):
    path = tmp_path / "a.safetensors"
    write_lora(path, "sd1", metadata={"modelspec.title": HOSTILE, "ss_output_name": HOSTILE, "modelspec.author": "x"})
    look = Looks().at(path)
    assert "<img" not in card_html(look, "en")
    assert "&lt;img" in card_html(look, "en")


def test_a_thumbnail_is_drawn_anew(tmp_path):
    picture = Image.new("RGB", (900, 600), (200, 10, 10))
    picture.save(tmp_path / "a.png")
    data = io.BytesIO()
    picture.save(data, "PNG")
    inside = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    for found in (Thumbnail(path=tmp_path / "a.png"), Thumbnail(data_url=inside)):
        address = thumbnail(found)
        assert address.startswith("data:image/webp;base64,")
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as small:
            assert max(small.size) <= 112
    for bad in (None, Thumbnail(data_url="data:image/png;base64,AAAA"), Thumbnail(path=tmp_path / "none.png")):
        assert thumbnail(bad) == ""


# ---- layer weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
def test_the_editor_shows_every_block_once(family):
    value = editor("", family, (), "en")
    bars = [block for row in value["rows"] for block in row["blocks"]]
    assert [bar["name"] for bar in bars] == list(names(family))
    assert {bar["weight"] for bar in bars} == {1.0}
    assert value["preset"] == "ALL"


def test_seventeen_numbers_fill_the_bars():
    line = "1,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1,.5"
    value = editor(line, "sd1", {"BASE", "OUT11"}, "ja")
    weights = {bar["name"]: bar["weight"] for row in value["rows"] for bar in row["blocks"]}
    assert weights == dict(parse(line, "sd1").by_block)
    assert (weights["IN01"], weights["IN00"], weights["OUT11"]) == (0, 1, 0.5)
    assert {bar["name"] for row in value["rows"] for bar in row["blocks"] if bar["here"]} == {"BASE", "OUT11"}
    assert value["error"] == value["preset"] == ""


@pytest.mark.parametrize("line", ["1,2,3", "1,x", "[1,", "NOSUCH=1"])
def test_a_line_that_can_not_be_read_is_said(line):
    values = [editor(line, "sd1", (), language) for language in LANGUAGES]
    assert values[0]["error"]
    assert values[0]["error"] != values[1]["error"]


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
def test_bars_text_and_presets_stay_in_step(family):
    presets = {name: weights for name, _, weights in editor("", family, (), "en")["presets"]}
    assert presets.keys() == PRESETS.keys()
    for name, weights in presets.items():
        line = line_after({"weights": weights}, family)
        assert parse(line, family) == parse(name, family)
        assert parse(editor(line, family, (), "en")["preset"], family) == parse(name, family)
    moved = dict.fromkeys(names(family), 0.25)
    line = line_after({"weights": moved}, family)
    assert parse(line, family).by_block == moved
    assert line == format_weights(parse(line, family))
    assert line_after({"weights": dict.fromkeys(names(family), 1)}, family) == ""


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"weights": {"BASE": 1}},
        {"weights": dict.fromkeys(names("sd1"), 1e30)},
        {"weights": dict.fromkeys(names("sd1"), float("nan"))},
        {"weights": dict.fromkeys(names("sd1"), "1")},
        {"weights": "1,1"},
    ],
)
def test_what_no_editor_sends_changes_nothing(data):
    assert line_after(data, "sd1") is None
    assert line_after({"weights": {}}, "unknown") is None
    assert editor("", "sd3", (), "en") is None


# ---- what a rank keeps -----------------------------------------------------------------------------------------------


@pytest.fixture
def spectrum_of_two():
    rng = np.random.default_rng(0)
    values = {name: np.sort(rng.random(size))[::-1] for name, size in (("a", 12), ("b", 5), ("c", 9))}
    squares = {name: float(np.square(v).sum()) for name, v in values.items()}
    return Spectrum(values, {"a": (20, 20), "b": (20, 20), "c": (20, 20, 3, 3)}, squares)


def test_the_curve_is_the_energy_of_each_rank(spectrum_of_two):
    values = spectrum_of_two.values
    total = sum(np.square(v).sum() for v in values.values())
    points = curve(spectrum_of_two)
    assert [rank for rank, _, _ in points] == list(range(1, 13))
    for rank, share, worst in points:
        assert share == pytest.approx(sum(np.square(v[:rank]).sum() for v in values.values()) / total)
        assert worst == pytest.approx(min(energy(v, rank) for v in values.values()))
    assert points[-1][1:] == pytest.approx((1, 1))


def test_convolutions_with_a_rank_of_their_own_stay_there(spectrum_of_two):
    held = energy(spectrum_of_two.values["c"], 2)
    assert curve(spectrum_of_two, 2)[-1][2] == pytest.approx(held)


def test_a_change_that_is_nothing_has_no_curve():
    assert curve(Spectrum({"a": np.zeros(4)}, {"a": (4, 4)}, {"a": 0.0})) == []
    assert curve_html([], 1, "en") == ""


def test_the_line_moves_with_the_rank(files):
    shares, ranks = [], (1, 4, 12)
    for rank in ranks:
        html = energy_html(pair(files, rank=rank), (), "en")
        assert f"Rank {rank} keeps" in html
        assert "<polyline" in html
        shares.append(float(html.partition('data-share="')[2].partition('"')[0]))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert "rank 4 で変化の" in energy_html(pair(files, rank=4), (), "ja")


def test_enough_ranks_are_named_for_a_share(files):
    html = energy_html(pair(files, size_add="energy", energy=90.0), (), "en")
    assert float(html.partition('data-share="')[2].partition('"')[0]) >= 0.9
    assert "enough" in html


def test_a_dynamic_resize_says_what_it_keeps(files):
    values = pair(files, what="resize", size_resize="sv_fro", dynamic_param=0.9)
    assert float(energy_html(values, (), "en").partition('data-share="')[2].partition('"')[0]) >= 0.81


@pytest.mark.parametrize("values", [{}, {"what": "extract"}, {"what": "bake"}])
def test_without_files_there_is_a_hint_at_most(values):
    assert "<svg" not in energy_html(DEFAULTS | values, (), "ja")


def test_percent_is_never_whole_when_something_is_lost():
    assert [percent(share) for share in (1.0, 0.99999, 0.9934, 0.5)] == ["100%", "99.99%", "99.3%", "50.0%"]


@pytest.mark.parametrize("last", [2, 5, 16, 24, 128, 768])
def test_ticks_are_few_and_have_both_ends(last):
    found = ticks(last)
    assert (found[0], found[-1]) == (1, last)
    assert len(found) <= 7
    assert found == sorted(set(found))


# ---- before, while, after --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_summary_names_the_file_and_the_prompt(files, language):
    values = pair(files, name="both")
    checked = check(values, Looks().of(values, ()), (), language)
    assert checked.ready
    html = judged(values, checked, (), language, attempted=False)["summary"]
    assert "&lt;lora:both:1&gt;" in html
    assert "both.safetensors" in html
    assert "rank 12" in html or "rank 16" in html


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.on_matrices])
def test_methods_that_take_minutes_are_not_measured(files, method, monkeypatch):
    monkeypatch.setattr("lora_core.merge.combine.spectrum", None)
    monkeypatch.setattr("app.merge.energy.spectrum", None)
    values = pair(files, method=method, name="dense")
    checked = check(values, Looks().of(values, ()), (), "en")
    assert checked.ready
    assert checked.settings.method == method
    assert "<svg" not in judged(values, checked, (), "en", attempted=False)["energy"]
    assert not any("keeps" in line for line in checked.lines)


def test_files_that_take_minutes_are_not_measured_either(tmp_path, files, monkeypatch):
    write_lora(tmp_path / "full.safetensors", "sd1", "full")
    monkeypatch.setattr("app.merge.energy.spectrum", None)
    values = pair(files, path2=str(tmp_path / "full.safetensors"), weights1="1,2")
    checked = check(values, Looks().of(values, ()), (), "en")
    assert not checked.measured
    assert "layer weights" in checked.problems[0]
    values = pair(files, what="resize", path1=str(tmp_path / "full.safetensors"))
    checked = check(values, Looks().of(values, ()), (), "en")
    assert checked.ready
    assert "<svg" not in judged(values, checked, (), "en", attempted=False)["energy"]


def test_a_file_that_is_there_is_no_problem_before_it_is_asked_about(files):
    values = pair(files, name="hat", path2=str(files / "bear.safetensors"))
    assert check(values, Looks().of(values, ()), (), "en").ready


def test_what_is_missing_is_a_hint_until_the_button_was_pressed():
    checked = quick_check(DEFAULTS, {}, (), "en")
    assert not checked.ready
    assert "kb-hint" in judged(DEFAULTS, checked, (), "en", attempted=False)["summary"]
    assert 'role="alert"' in judged(DEFAULTS, checked, (), "en", attempted=True)["summary"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_part_is_said_without_a_file(language):
    words = said(DEFAULTS, {}, language)
    assert words["card_path1"] == ""
    assert words["editor1"] is None
    assert {name for _, name in method_choices(language)} == set(METHODS)
    assert all(said(DEFAULTS | {"method": name}, {}, language)["method_note"] for name in METHODS)


def test_the_rank_slider_ends_where_no_rank_matters(files):
    values = pair(files, rank=2)
    assert highest_rank(values, Looks().of(values, ())) == 12
    assert highest_rank(DEFAULTS, {}) == 128


def test_a_prompt_is_taken_from_what_was_trained(tmp_path):
    tags = {"20_usu": {"usu bear": 18, "bench": 3}}
    write_lora(tmp_path / "a.safetensors", "sd1", metadata={"ss_tag_frequency": json.dumps(tags)})
    looks = {"path1": Looks().at(tmp_path / "a.safetensors")}
    assert suggested_prompt(looks).startswith("usu bear")
    assert suggested_prompt({}) == ""


@pytest.fixture
def run(tmp_path):
    """A run folder of a merge, as a job writes it."""
    return create_run(MergeSettings(output=tmp_path / "both.safetensors"))


def shown(run):
    return merge_run.progress(Views(), run.path.name)


def test_a_job_from_start_to_result(run, tmp_path):
    append(run.events, ToolStarted(job="merge", name="both"))
    append(run.events, StageChanged(stage="computing", done=3, total=4))
    html = progress_html(shown(run), "ja")
    assert 'aria-valuenow="75"' in html
    assert result_html(shown(run), "en") == ""
    path = tmp_path / f"{HOSTILE[:4]}both.safetensors"
    path.write_bytes(bytes(2048))
    append(run.events, FileSaved(path=path, kind="lora", facts={"rank_max": 16, "rank_min": 4, "layers": 264}))
    append(run.events, RunFinished(reason="completed", step=0, path=path))
    found = shown(run)
    assert progress_html(found, "en") == ""
    html = result_html(found, "en")
    assert "rank 4–16" in html
    assert "264 layers" in html
    assert "<img" not in html
    assert merge_run.result(found) == path
    path.unlink()
    assert merge_run.result(shown(run)) is None


def test_a_failure_is_said(run):
    append(run.events, RunFailed(message={"en": f"No {HOSTILE}", "ja": "だめ"}, detail="Traceback"))
    found = shown(run)
    assert "だめ" in progress_html(found, "ja")
    assert "<img" not in failure_html(found, "en")
    assert result_html(found, "en") == ""


def test_facts_that_are_no_numbers_are_left_out(run, tmp_path):
    facts = {"rank_max": HOSTILE, "layers": -1, "size": None}
    append(run.events, FileSaved(path=tmp_path / "gone.safetensors", kind="lora", facts=facts))
    append(run.events, RunFinished(reason="completed", step=0))
    assert "<img" not in result_html(shown(run), "en")


def test_pictures_of_a_preview(run):
    for number in range(2):
        picture = run.path / f"p{number}.png"
        Image.new("RGB", (64, 64), (number, 0, 0)).save(picture)
        append(run.events, FileSaved(path=picture, kind="picture", facts={"prompt": HOSTILE, "index": number}))
    value = merge_run.gallery(shown(run), "en")
    assert [item["index"] for item in value["groups"][0]["items"]] == [0, 1]
    assert merge_run.gallery(None, "en") is None


@pytest.mark.parametrize("name", [None, "", "..", "../x", "a/b", 3, "no-such-run", "a\0b", "/etc"])
def test_only_names_of_runs_are_followed(name):
    assert merge_run.find(name) is None
    merge_run.stop(name)


def test_a_prompt_for_other_programs(tmp_path):
    assert prompt_of(tmp_path / "bear hat.safetensors") == "<lora:bear hat:1>"


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_only_what_is_new_is_sent():
    first = fresh({"a": ("A", 1), "b": ("B", 2)}, {}, "memory")
    assert (first["A"], first["B"]) == (1, 2)
    second = fresh({"a": ("A", 1), "b": ("B", 3)}, first["memory"], "memory")
    assert "A" not in second
    assert second["B"] == 3


def test_two_updates_of_one_component_are_one():
    import gradio as gr

    answer = fresh({"a": ("A", gr.update(visible=True)), "b": ("A", "words")}, {}, "memory")
    assert answer["A"] == gr.update(visible=True) | {"value": "words"}


def test_an_answer_that_comes_too_late_is_known():
    newest = Newest(keep=2)
    newest.tell("page", "one")
    assert newest.begin("page", "one")
    assert not newest.begin("page", "one")
    newest.tell("page", "one")
    assert not newest.begin("page", "one")
    newest.tell("page", "two")
    assert not newest.is_it("page", "one")
    assert newest.begin("page", "two")
    for page in "abc":
        newest.tell(page, "")
    assert not newest.begin("c", "")
    assert not newest.is_it("page", "two")
