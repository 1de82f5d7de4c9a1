"""The tools of the Inspect tab: from fields to the settings of a job, files to write, and the card of what was made."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.inspect.job import after, is_over, job_html
from app.inspect.reports import Reports
from app.inspect.tools import (
    DEFAULTS,
    ENTRIES,
    FIELDS,
    LONGEST,
    TOOLS,
    Source,
    checked_output,
    edited,
    proposed_output,
    settings_of,
)
from app.merge import run as merge_run
from app.merge.values import FormError
from app.run_view import Views
from app.widgets.inspect_panel import entries_of
from app.widgets.inspect_report import asked, wanted_rank
from lora_core.events import FileSaved, RunFailed, RunFinished, append
from lora_core.i18n import LANGUAGES
from lora_core.runs import create_run
from lora_core.settings.tools import CleanSettings
from tests.app.inspect.samples import EVIL, good


@pytest.fixture
def lora(tmp_path) -> Path:
    return good(tmp_path / "うす bear.safetensors")


def made(tool: str, lora: Path, **values):
    output = lora.with_name("new.safetensors")
    return settings_of(tool, DEFAULTS | values, Source(lora, {"modelspec.title": "Old"}, "bf16"), output)


@pytest.mark.parametrize(
    ("tool", "values", "expected"),
    [
        (
            "edit",
            {"title": "New", "author": " me "},
            {"metadata": {"modelspec.title": "New", "modelspec.author": "me"}},
        ),
        ("edit", {"title": ""}, {"metadata": {"modelspec.title": None}}),
        ("strip", {}, {"strip_metadata": True, "precision": "same"}),
        ("clean", {"zero_layers": False, "remove_blocks": "BASE"}, {"zero_layers": False, "remove_blocks": "BASE"}),
        ("convert", {"names": "peft"}, {"names": "peft", "precision": "same"}),
        ("resize", {"rank": 4}, {"rank": 4, "conv_rank": None, "precision": "bf16"}),
        ("resize", {"rank": 4.0, "conv_rank": 2}, {"rank": 4, "conv_rank": 2}),
    ],
)
def test_a_tool_becomes_a_job(lora, tool, values, expected):
    settings = made(tool, lora, **values)
    assert {key: getattr(settings, key) for key in expected} == expected
    assert settings.lora == lora


@pytest.mark.parametrize(
    ("tool", "values"),
    [
        ("edit", {"title": "Old"}),
        ("edit", {"title": "x" * (LONGEST + 1)}),
        ("edit", {"title": None}),
        ("convert", {}),
        ("convert", {"names": "evil"}),
        ("resize", {"rank": None}),
        ("resize", {"rank": 0}),
        ("resize", {"rank": 2.5}),
        ("resize", {"rank": float("nan")}),
        ("resize", {"rank": True}),
        ("resize", {"rank": "4"}),
    ],
)
def test_what_cannot_be_done_is_said(lora, tool, values):
    with pytest.raises(FormError) as refused:
        made(tool, lora, **values)
    for language in LANGUAGES:
        assert refused.value.message(language)


def test_only_what_was_edited_is_written(lora):
    shown = entries_of(Reports().metadata(lora))
    with pytest.raises(FormError):
        edited(DEFAULTS | shown, Reports().metadata(lora))
    assert edited(DEFAULTS | shown | {"tags": "bear"}, Reports().metadata(lora)) == {"modelspec.tags": "bear"}


def test_an_endless_entry_is_neither_shown_nor_lost():
    metadata = {ENTRIES["description"]: "A" * 10_000_000}
    shown = entries_of(metadata)
    assert shown["description"] == ""
    assert edited(DEFAULTS | shown | {"title": "x"}, metadata) == {"modelspec.title": "x"}


def test_every_tool_has_its_fields():
    assert set(FIELDS) == set(TOOLS)
    assert {name for names in FIELDS.values() for name in names} == set(DEFAULTS)


# ---- the file to write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "values", "ending"),
    [
        ("edit", {}, "-edited"),
        ("resize", {"rank": 4}, "-rank4"),
        ("resize", {"rank": None}, "-rank"),
        ("convert", {"names": "peft", "precision": "bf16"}, "-peft-bf16"),
        ("convert", {}, "-converted"),
    ],
)
def test_a_new_file_is_proposed_beside_the_old_one(lora, tool, values, ending):
    first = proposed_output(lora, tool, DEFAULTS | values)
    assert first == lora.with_name(f"うす bear{ending}.safetensors")
    first.touch()
    assert proposed_output(lora, tool, DEFAULTS | values) == lora.with_name(f"うす bear{ending}-2.safetensors")


def test_where_a_file_may_be_written(lora):
    there = lora.with_name("there.safetensors")
    there.touch()
    for refused, overwrite in ((None, False), (lora, True), (there, False)):
        with pytest.raises(FormError):
            checked_output(refused, lora, overwrite)
    assert checked_output(there, lora, True) == there
    assert checked_output(Path("name"), lora, False) == lora.with_name("name.safetensors")


# ---- clicks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, [], {}, {"tool": 5}, {"tool": "rm -rf"}, {"tool": ["clean"]}])
def test_a_click_that_no_page_of_ours_sends_does_nothing(data):
    assert asked(SimpleNamespace(_data=data)) == ("", {})


@pytest.mark.parametrize(
    ("rank", "wanted"), [("4", 4), (4, 4), ("0", None), ("-1", None), ("99999", None), (EVIL, None), (None, None)]
)
def test_a_proposed_rank_is_a_rank(rank, wanted):
    assert wanted_rank({"rank": rank}) == wanted


# ---- the job ---------------------------------------------------------------------------------------------------------


def finished(lora: Path) -> merge_run.Progress:
    """A job as its process leaves it."""
    output = good(lora.with_name("new.safetensors"), seed=3)
    run = create_run(CleanSettings(lora=lora, output=output))
    append(run.events, FileSaved(path=output, kind="lora", facts={"junk": 2, "layers_dropped": 1, "size": 5}))
    append(run.events, RunFinished(reason="completed", step=0, path=output))
    found = merge_run.progress(Views(), run.path.name)
    assert found is not None
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_card_of_a_new_file(lora, language):
    html = job_html(finished(lora), language)
    assert "new.safetensors" in html
    assert 'data-tool="show"' in html
    assert 'data-tool="replace"' in html


def test_the_new_file_takes_the_place_of_the_old_one_only_after_asking(lora):
    found, reports, before = finished(lora), Reports(), lora.read_bytes()
    new = lora.with_name("new.safetensors").read_bytes()
    question = after("replace", found, reports, "en")
    assert 'data-tool="replace_yes"' in question.html
    assert lora.read_bytes() == before
    done = after("replace_yes", found, reports, "en")
    assert lora.read_bytes() == new
    assert done.show == lora
    assert not lora.with_name("new.safetensors").exists()
    with pytest.raises(FormError):
        after("show", found, reports, "en")


def test_files_outside_the_allowed_folders_are_not_replaced(lora, tmp_path):
    found, before = finished(lora), lora.read_bytes()
    with pytest.raises(FormError):
        after("replace_yes", found, Reports((tmp_path / "elsewhere",)), "en")
    assert lora.read_bytes() == before


def test_the_card_goes_when_another_file_is_shown(lora):
    found = finished(lora)
    assert not is_over(found, f'"{lora}"')
    assert not is_over(found, str(lora.with_name("new.safetensors")))
    assert is_over(found, "/some/other.safetensors")
    assert not is_over(None, str(lora))


def test_a_failed_job_says_why(lora):
    run = create_run(CleanSettings(lora=lora, output=lora.with_name("x.safetensors")))
    append(run.events, RunFailed(message={"en": "No <b>room</b>.", "ja": "空きがありません。"}))
    html = job_html(merge_run.progress(Views(), run.path.name), "en")
    assert "No &lt;b&gt;room" in html
    assert "data-tool" not in html


def test_a_job_of_no_lora_has_no_original(lora):
    found = finished(lora)
    found.run.settings.write_text(json.dumps({"job": "nonsense"}), encoding="utf-8")
    assert 'data-tool="replace"' not in job_html(found, "en")
