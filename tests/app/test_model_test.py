"""The Model test tab as values: the job it describes, what it keeps, and the grid of a training."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from app import toast
from app.merge import run as job
from app.merge.values import FormError
from app.model_test.events import Events
from app.model_test.form import (
    DEFAULTS,
    checked,
    load_draft,
    of_latest_run,
    of_run,
    of_run_folder,
    settings_of,
    visible,
)
from app.model_test.history import earlier
from app.model_test.view import gallery, loaded_html, results_html
from app.page import Context
from app.ui import build
from app.widgets.run_status import files_html
from lora_core import jobs
from lora_core.errors import UserError
from lora_core.events import CheckpointSaved, FileSaved, ProofDone, RunFinished, append
from lora_core.generate.axes import pages
from lora_core.generate.keep import recommended_strength, training_of
from lora_core.i18n import LANGUAGES
from lora_core.runs import RunFolder, create_run
from lora_core.settings import RunSettings
from lora_core.settings.generate import GenerateSettings, GridSettings, ProofSettings
from tests.merge.makers import write_lora

REQUEST = SimpleNamespace(cookies={}, headers={})


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Events:
    """The tab's events on a whole page."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUMAKOBO_HOME", str(tmp_path_factory.mktemp("built")))
        connect = Events.connect
        patch.setattr(Events, "connect", lambda self: (made.append(self), connect(self)))
        build(Context())
    return made[0]


@pytest.fixture
def tab(built, monkeypatch):
    """The events, with the words that popped up in ``tab.said``."""
    built.said = []
    for name in ("warn", "info"):
        monkeypatch.setattr(toast, name, built.said.append)
    return built


def by_key(tab: Events, answer: dict) -> dict:
    """A handler's answer by the keys of the fields."""
    return {key: answer[field] for key, field in tab.parts.fields.items() if field in answer}


def values(**changes):
    return {**DEFAULTS, "prompts": "a bear\n\n a cat \n", **changes}


def training(folder: Path, **sample) -> RunSettings:
    save = {"output_dir": str(folder), "output_name": "usu"}
    return RunSettings.model_validate({"model": {"base": "built-in"}, "save": save, "sample": sample})


def test_lines_are_prompts_and_an_empty_model_is_the_built_in_one():
    made = settings_of(values(width=64, strength=0.5))
    assert isinstance(made, GenerateSettings)
    assert (made.base, made.prompts, made.width, made.height) == ("built-in", ["a bear", "a cat"], 64, None)
    assert made.loras == []


def test_a_file_is_used_everywhere_and_a_folder_is_searched(tmp_path):
    file = tmp_path / "usu.safetensors"
    file.touch()
    made = settings_of(values(lora=str(file), strength=0.5))
    assert [(use.path, use.strength) for use in made.loras] == [(file, 0.5)]
    made = settings_of(values(lora=str(tmp_path)))
    assert (made.loras, made.folders) == ([], [tmp_path])


def test_a_grid_of_a_run_lies_beside_its_files(tmp_path):
    made = settings_of(values(mode="grid", run_folder=str(tmp_path), run_name=" usu "))
    assert isinstance(made, GridSettings)
    assert (made.run, made.run_name, made.output) == (tmp_path, "usu", tmp_path / "grid")
    assert made.columns.values == ["0", "0.5", "0.75", "1"]


def test_values_with_commas_stand_on_lines_of_their_own():
    text = "a bear, snow\na bear, rain"
    made = settings_of(values(mode="grid", rows="replace", rows_values=text, columns="seed", columns_values="1,2\n3"))
    assert made.rows.values == ["a bear, snow", "a bear, rain"]
    assert made.columns.values == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"mode": "grid"}, "model_test.needs.run_folder"),
        ({"steps": None}, "model_test.bad_field"),
        ({"width": 5}, "model_test.bad_field"),
        ({"base": "/etc/model.safetensors"}, "browse.not_allowed"),
        ({"lora": "/etc"}, "browse.not_allowed"),
        ({"mode": "grid", "run_folder": "/etc"}, "browse.not_allowed"),
        ({"mode": "grid", "rows": "lora", "rows_values": "/etc/a.safetensors"}, "browse.not_allowed"),
    ],
)
def test_what_is_missing_or_not_to_be_touched_is_a_sentence(tmp_path, change, key):
    with pytest.raises(FormError) as caught:
        settings_of(values(**change), (tmp_path,))
    assert caught.value.key == key
    assert caught.value.message("en") != caught.value.message("ja")


def test_what_belongs_to_the_choice_is_shown():
    assert not any(visible(DEFAULTS).values())
    assert visible(values(mode="grid")) == {"grid_part": True, "run_folder": True, "rows_values": False}
    assert visible(values(mode="grid", rows="seed")) == {"grid_part": True, "run_folder": False, "rows_values": True}


def test_a_draft_keeps_only_what_fits(tmp_path):
    (tmp_path / "draft.json").write_text('{"mode": "film", "steps": "x", "width": 0, "prompts": "a bear", "old": 1}')
    kept = load_draft(tmp_path / "draft.json")
    assert kept == {**DEFAULTS, "prompts": "a bear"}
    assert checked(kept) == kept
    assert load_draft(tmp_path / "none.json") == DEFAULTS


def test_the_latest_training_with_files_fills_a_grid_in(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path))
    assert of_latest_run() is None
    settings = training(tmp_path / "out", prompts="usu bear --n blur --w 64 --h 64\nusu cat", steps=9)
    create_run(settings)
    assert of_latest_run() is None, "nothing was saved"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "usu-000001.safetensors").touch()
    found = of_latest_run()
    assert found == of_run(settings)
    made = settings_of({**DEFAULTS, **found})
    assert (made.base, made.run, made.run_name) == ("built-in", tmp_path / "out", "usu")
    assert (made.prompts, made.negative, made.width, made.steps) == (["usu bear", "usu cat"], "blur", 64, 9)


def saved(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.safetensors").touch()
    return folder


def test_a_click_on_the_monitor_leads_to_a_grid_ready_to_draw(tab, tmp_path):
    folder = saved(tmp_path / "out", "usu-000001", "usu-000002", "usu", "other-000001")
    sample = {"prompts": "usu bear --n blur --d 7 --s 5 --l 3\nusu cat", "steps": 9, "seed": 4}
    run = create_run(training(folder, **sample))
    answer = tab.of_shown_run(run.path.name, REQUEST)
    assert answer[tab.ui.tabs].selected == "model_test"
    grid = settings_of({**DEFAULTS, "lora": "left over", "count": 3, **by_key(tab, answer)})
    assert isinstance(grid, GridSettings)
    assert (grid.steps, grid.guidance, grid.negative) == (5, 3, "blur")
    first, second = pages(grid)
    assert (first.rows.labels, first.columns.values) == (("epoch 1", "epoch 2", "final"), (0, 0.4, 0.6, 0.8, 1))
    assert [(page.prompt, page.seed) for page in (first, second)] == [("usu bear", 7), ("usu cat", 7)]
    assert tab.said == []


def test_a_run_without_saved_epochs_is_told_where_the_click_was(tab, tmp_path):
    run = create_run(training(saved(tmp_path / "out", "usu")))
    assert tab.ui.tabs not in tab.of_shown_run(run.path.name, REQUEST)
    assert "saved along the way" in tab.said[0]


@pytest.mark.parametrize("settings", [None, GenerateSettings()])
def test_only_a_training_has_epochs(settings):
    with pytest.raises(FormError):
        of_run_folder(settings and create_run(settings))


def test_a_run_whose_folder_is_gone_is_told(tmp_path):
    with pytest.raises(UserError) as caught:
        of_run_folder(create_run(training(tmp_path / "gone")))
    assert caught.value.key == "grid.no_folder"


@pytest.fixture
def drawn(tmp_path) -> RunFolder:
    """A finished grid of two epochs by two strengths, of a training that is known."""
    folder = saved(tmp_path / "out", "usu-000001", "usu-000002")
    create_run(training(folder))
    run = create_run(GridSettings(run=folder))
    for index in range(4):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (8, 8)).save(path)
        lora = folder / f"usu-00000{1 + index // 2}.safetensors"
        facts = {"index": index, "lora": str(lora), "strength": 0.6 * (index % 2)}
        append(run.events, FileSaved(path=path, kind="picture", facts=facts))
    facts = {"grid": True, "prompt": "a bear", "seed": 1}
    append(run.events, FileSaved(path=path, kind="picture", facts=facts))
    append(run.events, RunFinished(reason="completed", step=0))
    return run


def click(**data):
    return SimpleNamespace(_data={"action": "keep", **data})


def test_an_epoch_of_the_grid_is_kept_and_shown_here_and_on_the_monitor(tab, drawn, tmp_path):
    tab.keep_epoch(drawn.path.name, REQUEST, click(index=2, name="usu-best"))
    assert (tmp_path / "out" / "usu-best.safetensors").is_file()
    assert "usu-000002.safetensors" in tab.said[0]
    found = job.progress(tab.ui.views, drawn.path.name)
    assert "You kept usu-000002.safetensors as usu-best.safetensors" in results_html(found, "en")
    names = [item["keep"]["name"] for item in gallery(found, "en")["groups"][1]["items"]]
    assert names == ["usu-best-2"] * 4, "the name that is proposed is free"
    assert "keep" not in gallery(found, "en")["groups"][0]["items"][0], "a whole grid is no epoch"
    run, _ = training_of(tmp_path / "out" / "usu-000002.safetensors")
    append(run.events, CheckpointSaved(path=tmp_path / "out" / "usu-000001.safetensors", step=1, epoch=1))
    assert "usu-best.safetensors" in files_html(tab.ui.views.view(run), "ja")


def test_the_strength_of_the_cell_is_remembered(tab, drawn, tmp_path):
    asked = gallery(job.progress(tab.ui.views, drawn.path.name), "en")["groups"][1]["items"]
    assert ["Strength 0.6" in item["keep"]["ask"] for item in asked] == [False, True] * 2
    tab.keep_epoch(drawn.path.name, REQUEST, click(index=3, name="mine"))
    assert recommended_strength(tmp_path / "out" / "mine.safetensors") == 0.6
    shown = results_html(job.progress(tab.ui.views, drawn.path.name), "en")
    assert "as mine.safetensors, at strength 0.6" in shown


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"index": 2, "name": "usu"}, "the training writes itself"),
        ({"index": 99, "name": "mine"}, "belongs to no LoRA file"),
        ({"name": "mine"}, "belongs to no LoRA file"),
        ({"index": 2}, "Give a name"),
        ({"index": 2, "name": "a/b"}, "plain file name"),
    ],
)
def test_what_cannot_be_kept_is_told(tab, drawn, tmp_path, data, words):
    before = sorted(tmp_path.rglob("*.safetensors"))
    tab.keep_epoch(drawn.path.name, REQUEST, click(**data))
    assert words in tab.said[0]
    assert sorted(tmp_path.rglob("*.safetensors")) == before


def test_nothing_is_copied_outside_the_folders_of_the_page(tab, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(tab, "roots", (tmp_path / "elsewhere",))
    tab.keep_epoch(drawn.path.name, REQUEST, click(index=2, name="mine"))
    assert not (tmp_path / "out" / "mine.safetensors").exists()


def shown(tab: Events, **changes) -> dict:
    """What a handler gets: the tab filled in."""
    return {field: values(**changes)[key] for key, field in tab.parts.fields.items()}


@pytest.fixture
def started(monkeypatch) -> list:
    jobs = []
    monkeypatch.setattr(job, "start", lambda settings: jobs.append(settings) or "a run")
    return jobs


def test_the_proof_is_of_the_file_with_everything_else_on_the_tab(tab, started, tmp_path):
    file = tmp_path / "usu.safetensors"
    write_lora(file, "sd1")
    answer = tab.prove(shown(tab, mode="grid", lora=str(file), strength=0.5, steps=3, prompts=""), REQUEST)
    assert answer[tab.parts.fields["run"]] == "a run"
    (settings,) = started
    assert isinstance(settings, ProofSettings)
    assert (settings.lora, settings.strength, settings.steps, settings.prompts) == (file, 0.5, 3, [])


@pytest.mark.parametrize(("lora", "words"), [("", "Choose the LoRA file"), ("gone.safetensors", "gone.safetensors")])
def test_a_proof_of_nothing_is_refused_in_words(tab, started, tmp_path, lora, words):
    answer = tab.prove(shown(tab, lora=str(tmp_path / lora) if lora else ""), REQUEST)
    assert words in answer[tab.parts.places["problems"]]
    assert started == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_proof_is_shown_with_or_without_pictures(tab, tmp_path, language):
    run = create_run(ProofSettings())
    append(run.events, ProofDone(name="<usu>.safetensors", modules=9, zero=9))
    append(run.events, RunFinished(reason="completed", step=0))
    html = results_html(job.progress(tab.ui.views, run.path.name), language)
    assert 'data-severity="bad"' in html
    assert "&lt;usu&gt;" in html
    assert "9 / 9" in html


def test_pictures_with_the_lora_stand_beside_those_without(tab, tmp_path):
    run = create_run(ProofSettings())
    for index in (0, 2, 1, 3):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (8, 8)).save(path)
        append(run.events, FileSaved(path=path, kind="picture", facts={"index": index, "with_lora": index % 2 == 1}))
    (group,) = gallery(job.progress(tab.ui.views, run.path.name), "en")["groups"]
    assert [item["index"] for item in group["items"]] == [0, 1, 2, 3]
    assert [item["pair"] for item in group["items"]] == [1, 0, 3, 2]


def test_without_sample_prompts_the_class_is_drawn_or_what_was_asked_before(tmp_path):
    settings = training(tmp_path)
    assert "prompts" not in of_run(settings)
    settings.validation.class_prompt = " bear "
    assert of_run(settings)["prompts"] == "bear"


@pytest.mark.parametrize(
    "both_ways",
    [{"slider": {"target": "bear"}}, {"dataset": {"pair_before": "a.png", "pair_after": "b.png"}}],
    ids=["slider", "pair"],
)
def test_a_lora_that_goes_both_ways_is_drawn_both_ways(tmp_path, both_ways):
    assert "-" not in of_run(training(tmp_path))["columns_values"]
    found = of_run(RunSettings.model_validate(training(tmp_path).model_dump() | both_ways))
    assert found["columns_values"] == "-2, -1, 0, 1, 2"


def test_earlier_jobs_of_the_tab_are_listed_newest_first(tmp_path):
    first = create_run(GenerateSettings(prompts=["a bear in the snow"]))
    create_run(training(tmp_path / "out", prompts="no job of the tab"))
    create_run(RunSettings.model_validate({"save": {"output_name": "grid"}}))
    proof = create_run(ProofSettings(lora=tmp_path / "usu.safetensors", prompts=["a bear"]))
    proof = proof.path.rename(proof.path.with_name("20991231-235959-proof"))
    found = earlier("en")
    assert [run for _, run in found] == [proof.name, first.path.name]
    assert found[0][0] == "2099-12-31 23:59 · Does it do anything? · usu.safetensors"
    assert found[1][0].endswith("Pictures · a bear in the snow")
    assert [words for words, _ in earlier("ja")] != [words for words, _ in found]


def test_the_model_in_memory_is_named_with_a_way_to_free_it():
    for language, words in (("en", "Loaded: usu &lt;1&gt;"), ("ja", "読み込み済み：usu &lt;1&gt;")):
        html = loaded_html("usu <1>", language, busy=False)
        assert words in html
        assert "disabled" not in html
        assert "disabled" in loaded_html("usu <1>", language, busy=True)
        assert loaded_html(None, language, busy=False) == ""
    assert "Built-in mini model" in loaded_html("built-in", "en", busy=False)


def test_the_clock_goes_on_while_a_model_is_in_memory(tab, monkeypatch):
    nothing = {tab.parts.fields["run"]: "", tab.polled: {}}
    assert tab.poll(nothing, REQUEST)[tab.timer].active is False
    monkeypatch.setattr(jobs, "loaded_model", lambda: "usu.safetensors")
    answer = tab.poll(nothing, REQUEST)
    assert tab.timer not in answer
    assert "usu.safetensors" in answer[tab.parts.places["loaded"]]


@pytest.mark.parametrize("freed", [True, False])
def test_memory_that_is_in_use_is_not_freed_and_that_is_said(tab, monkeypatch, freed):
    monkeypatch.setattr(jobs, "free_memory", lambda: freed)
    tab.free(REQUEST)
    assert bool(tab.said) == (not freed)
