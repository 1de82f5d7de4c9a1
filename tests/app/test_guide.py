"""The Guide tab: what First LoRA says at each change, and what it puts into the form."""

from types import SimpleNamespace

import pytest
from PIL import Image

from app.form import read
from app.guide import first_lora
from app.guide.copier_events import CopierProject
from app.i18n import COOKIE
from app.machine import Card
from app.page import Context
from app.tabs import guide
from app.ui import build
from lora_core import jobs
from lora_core.data.folders import scan
from lora_core.events import CheckpointSaved, RunFailed, RunFinished, append
from lora_core.runs import create_run, list_runs
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values

WITH_MODEL = with_values(RunSettings(), {"model.base": "built-in"})
WORDS = {"trigger": "usu", "class": "bear"}


def request(language="en"):
    return SimpleNamespace(cookies={COOKIE: language}, headers={})


@pytest.fixture(autouse=True)
def no_card(monkeypatch):
    monkeypatch.setattr(first_lora, "first_card", lambda: None)


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    """Both flows, of one page: building it takes a second."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUMAKOBO_HOME", str(tmp_path_factory.mktemp("home")))
        for kind in (guide.FirstLora, guide.FourStep, guide.Copier, guide.Slider, CopierProject):

            def keep(self, *arguments, original=kind.__init__):
                original(self, *arguments)
                made[type(self)] = self

            patch.setattr(kind, "__init__", keep)
        build(Context())
    return made


@pytest.fixture
def flow(flows, tmp_path):
    flows[guide.FirstLora].ui.context = Context(roots=(tmp_path,))
    return flows[guide.FirstLora]


@pytest.fixture
def four(flows):
    return flows[guide.FourStep]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "絵"
    made.mkdir()
    for number in range(12):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(made / f"{number}.png")
    return made


def inputs(flow, folder, settings=WITH_MODEL):
    return {c: u["value"] for c, u in flow.ui.form.write(settings, {}).items()} | {flow.folder: str(folder)}


def looked(flow, folder, data, language="en", settings=WITH_MODEL):
    answer = flow.look(inputs(flow, folder, settings), SimpleNamespace(_data=data), request(language))
    return answer[flow.panel]


def test_a_look_says_the_rule_with_its_numbers_and_changes_nothing(flow, folder, home_folder):
    view = looked(flow, folder, WORDS)
    assert view["rule"] == "12 pictures × 30 repeats × 4 epochs / 4 at a time = 360 steps"
    assert view["plan"][-1].endswith("360 steps")
    assert (view["problems"], view["ready"]) == ([], True)
    assert not (home_folder / "guides").exists()


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize(
    ("typed", "data", "step", "kind"),
    [
        ("", WORDS, 0, "missing"),
        ("gone", WORDS, 0, "error"),
        ("", {}, 0, "missing"),
        ("絵", {"class": "bear"}, 1, "missing"),
        ("絵", WORDS | {"repeats": "many"}, 3, "error"),
        ("絵", WORDS | {"epochs": "0"}, 3, "error"),
        ("絵", WORDS | {"preset": "sdxl_8gb"}, 2, "error"),
        ("/elsewhere", WORDS, 0, "error"),
    ],
)
def test_what_is_missing_is_said_in_its_step(flow, folder, tmp_path, said, language, typed, data, step, kind):
    place = "" if not typed else tmp_path / typed
    view = looked(flow, place, data, language)
    assert view[kind]
    assert view["at"] == step
    assert "ready" not in view
    assert view[kind] != looked(flow, place, data, "ja" if language == "en" else "en")[kind]
    answer = flow.fill(inputs(flow, place), SimpleNamespace(_data=data), request(language))
    assert set(answer) == {flow.panel}
    assert len(said) == 1


def test_filling_in_gives_settings_that_train_these_pictures(flow, folder, said):
    before = inputs(flow, folder)
    answer = flow.fill(before, SimpleNamespace(_data=WORDS), request())
    assert answer[flow.panel]["filled"] in said
    shown = before | {c: u["value"] for c, u in answer.items() if c in flow.ui.form.inputs}
    settings = read(flow.ui.form.values(shown))
    (subset,) = scan(settings.dataset).subsets
    assert (subset.folder, subset.repeats, subset.class_tokens) == (folder, 30, "usu bear")
    assert (settings.model.base, settings.save.output_name) == ("built-in", "usu_bear")


def test_without_a_model_the_way_to_it_is_shown(flow, folder):
    view = looked(flow, folder, WORDS, settings=RunSettings())
    places = [problem["place"] for problem in view["problems"] if problem["place"]]
    assert places == [{"tab": "source_model", "field": "f-model-base"}]
    assert not view["ready"]


def test_the_card_decides_on_the_preset(flow, folder, monkeypatch):
    sdxl = with_values(RunSettings(), {"model.family": "sdxl"})
    assert "12 GB" in looked(flow, folder, WORDS, settings=sdxl)["card"]
    monkeypatch.setattr(first_lora, "first_card", lambda: Card("RTX", 0, 8))
    view = looked(flow, folder, WORDS, settings=sdxl)
    assert view["chosen"] == "Proposed: SDXL on 8 GB"
    assert {"sdxl_8gb", "sdxl_24gb", "sdxl_style"} <= {name for name, _ in view["presets"]}
    assert "RTX" in view["card"]


def test_nonsense_from_a_page_is_taken_for_nothing(flow, folder):
    assert looked(flow, folder, {"kind": ["x"], "trigger": None, "repeats": {"a": 1}})["missing"]


# ---- four-step tuning ------------------------------------------------------------------------------------------------


def form_inputs(flow, settings=WITH_MODEL):
    return {c: u["value"] for c, u in flow.ui.form.write(settings, {}).items()}


def click(**data):
    return SimpleNamespace(_data=data)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_project_begins_with_the_first_step(four, language):
    assert four.look(click(action="look"), request(language))["steps"] == []
    view = four.look(click(action="new", name="usu"), request(language))
    assert (view["project"], view["projects"], view["said"]) == ("usu", ["usu"], "")
    assert [(step["step"], step["next"], step["enabled"]) for step in view["steps"]] == [
        ("check", True, True),
        ("border", False, True),
        ("final", False, False),
        ("handover", False, False),
    ]
    assert four.look(click(action="new", name="usu"), request(language))["said"]
    assert four.look(click(action="epoch", project="usu", epoch="x"), request(language))["said"]


def test_a_step_fills_in_the_form_and_its_run_is_listed(four, said):
    four.look(click(action="new", name="usu"), request())
    before = form_inputs(four)
    answer = four.do(before, click(project="usu", step="check"), request())
    shown = before | {c: u["value"] for c, u in answer.items() if c in four.ui.form.inputs}
    settings = read(four.ui.form.values(shown))
    assert settings.save.output_name == "usu-1-check"
    assert answer[four.panel]["project"] == "usu"
    create_run(settings)
    (step, *_) = four.look(click(action="look", project="usu"), request())["steps"]
    assert step["runs"][0].startswith("usu-1-check (")


def test_an_epoch_of_ones_own_opens_the_final_run(four, said):
    four.look(click(action="new", name="usu"), request())
    refused = four.do(form_inputs(four), click(project="usu", step="final"), request())
    assert refused[four.panel]["said"] in said
    view = four.look(click(action="epoch", project="usu", epoch="9"), request())
    assert view["steps"][2]["enabled"]
    assert "9" in view["steps"][2]["notes"][0]
    answer = four.do(form_inputs(four), click(project="usu", step="final"), request())
    assert answer[four.ui.form.components["train.epochs"]]["value"] == 9


@pytest.mark.parametrize("data", [{}, {"project": "gone", "step": "check"}, {"project": "../x", "step": ["a"]}])
def test_a_project_that_is_gone_is_said(four, said, data):
    answer = four.do(form_inputs(four), click(**data), request())
    assert set(answer) == {four.panel}
    assert len(said) == 1


# ---- copier LoRA -----------------------------------------------------------------------------------------------------


@pytest.fixture
def copier(flows, tmp_path):
    flows[guide.Copier].ui.context = Context(roots=(tmp_path,))
    return flows[guide.Copier]


@pytest.fixture
def pair(tmp_path):
    for name, colour in (("before", 200), ("after", 20)):
        picture = Image.new("RGB", (64, 64), (200, 200, 200))
        picture.paste((200, colour, colour), (20, 20, 30, 30))
        picture.save(tmp_path / f"{name}.png")
    return str(tmp_path / "before.png"), str(tmp_path / "after.png")


def test_two_pictures_become_settings(copier, pair, said, tmp_path):
    assert "2%" in copier.look(*pair, request())
    before = form_inputs(copier) | dict(zip((copier.before, copier.after), pair, strict=True))
    answer = copier.fill(before, request())
    shown = before | {c: u["value"] for c, u in answer.items() if c in copier.ui.form.inputs}
    settings = read(copier.ui.form.values(shown))
    assert settings.dataset.pair_after == tmp_path / "after.png"
    assert (settings.save.output_name, settings.train.train_text_encoder) == ("copier_after", False)
    assert len(said) == 1


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("which", ["none", "one", "same", "gone", "elsewhere"])
def test_what_is_no_pair_is_said(copier, pair, said, tmp_path, language, which):
    before, after = {
        "none": ("", ""),
        "one": (pair[0], ""),
        "same": (pair[0], pair[0]),
        "gone": (pair[0], str(tmp_path / "gone.png")),
        "elsewhere": (pair[0], "/elsewhere.png"),
    }[which]
    answer = copier.fill(form_inputs(copier) | {copier.before: before, copier.after: after}, request(language))
    assert set(answer) == {copier.said}
    assert len(said) == 1
    assert bool(copier.look(before, after, request(language))) == (which not in ("none", "one"))


# ---- concept slider --------------------------------------------------------------------------------------------------

PROMPTS = {"target": "bear", "more": "happy bear", "less": "sad bear", "keep": "old\nyoung"}


@pytest.fixture
def sliding(flows, tmp_path):
    flows[guide.Slider].ui.context = Context(roots=(tmp_path,))
    return flows[guide.Slider]


def test_three_prompts_become_settings(sliding, said):
    before = form_inputs(sliding) | dict.fromkeys(sliding.boxes, "")
    answer = sliding.fill(before, click(**PROMPTS), request())
    shown = before | {c: u["value"] for c, u in answer.items() if c in sliding.ui.form.inputs}
    settings = read(sliding.ui.form.values(shown))
    assert settings.slider.model_dump() == PROMPTS | {"guidance": 1.0}
    assert (settings.save.output_name, settings.train.train_text_encoder) == ("slider_happy_bear", False)
    assert "slider_happy_bear" in answer[sliding.panel]["filled"]
    assert len(said) == 1


@pytest.mark.parametrize("language", ["en", "ja"])
def test_what_a_slider_lacks_is_said(sliding, said, tmp_path, language):
    empty = dict.fromkeys(sliding.boxes, "")
    for data, boxes, severity in (
        ({}, empty, "missing"),
        ({"target": "bear"}, empty, "missing"),
        (PROMPTS | {"less": "happy bear"}, empty, "error"),
        (PROMPTS, dict(zip(sliding.boxes, (str(tmp_path), ""), strict=True)), "missing"),
        (PROMPTS, dict.fromkeys(sliding.boxes, "/elsewhere"), "error"),
    ):
        view = sliding.look(boxes, click(**data), request(language))
        assert [line[0] for line in view["lines"]] == [severity]
        answer = sliding.fill(form_inputs(sliding) | boxes, click(**data), request(language))
        assert set(answer) == {sliding.panel}
        assert answer[sliding.panel]["lines"][0][0] == "error"
    assert len(said) == 5


def test_two_folders_hide_the_prompts(sliding, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            picture = Image.new("RGB", (64, 64), (200, 200, 200))
            picture.paste((0, 0, 0 if folder == "a" else 200), (20, 20, 40, 30 + 4 * number))
            picture.save(tmp_path / folder / f"{number}.png")
    boxes = dict(zip(sliding.boxes, (str(tmp_path / "a"), str(tmp_path / "b")), strict=True))
    view = sliding.look(boxes, click(), request())
    assert (view["pictures"], view["lines"], view["found"]) == (True, [], "2 pairs by file name.")


# ---- copier LoRA by difference ---------------------------------------------------------------------------------------


@pytest.fixture
def by_difference(flows, tmp_path, monkeypatch):
    """The flow, with jobs that are put down but not started."""
    started = []
    monkeypatch.setattr(jobs, "start", lambda settings: started.append(settings) or create_run(settings))
    monkeypatch.setattr(jobs, "state", lambda run: "queued")
    flows[CopierProject].ui.context = Context(roots=(tmp_path,))
    flows[CopierProject].started_jobs = started
    return flows[CopierProject]


def copier_look(flow, pair, language="en", **data):
    boxes = dict(zip((flow.before, flow.after), pair, strict=True))
    return flow.look(boxes, click(**data), request(language))[flow.panel]


def copier_do(flow, pair, settings=WITH_MODEL, **data):
    boxes = dict(zip((flow.before, flow.after), pair, strict=True))
    return flow.do(form_inputs(flow, settings) | boxes, click(**data), request())


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_copier_project_begins_with_a_pair(by_difference, pair, language):
    refused = copier_look(by_difference, (pair[0], ""), language, action="new", name="x")
    assert refused["said"]
    assert refused["projects"] == []
    view = copier_look(by_difference, pair, language, action="new", name="うす")
    assert (view["project"], view["said"], view["busy"]) == ("うす", "", False)
    assert [(step["step"], step["done"], step["next"], step["enabled"]) for step in view["steps"]] == [
        ("pictures", True, False, True),
        ("train", False, True, True),
        ("difference", False, False, False),
        ("grid", False, False, False),
        ("save", False, False, False),
    ]
    shown = by_difference.look({by_difference.before: "", by_difference.after: ""}, click(), request(language))
    assert (shown[by_difference.before], shown[by_difference.after]) == pair


def test_one_click_puts_a_and_b_in_line(by_difference, pair, said):
    copier_look(by_difference, pair, action="new", name="x")
    refused = copier_do(by_difference, pair, project="x", step="train", steps="many")
    assert refused[by_difference.panel]["said"] in said
    assert by_difference.started_jobs == []
    view = copier_do(by_difference, pair, project="x", step="train", steps="3")[by_difference.panel]
    a, b = by_difference.started_jobs
    assert (a.train.epochs, b.train.epochs, a.train.seed) == (3, 3, b.train.seed)
    assert b.network.network_weights.stem == a.save.output_name
    assert [row["state"] for row in view["steps"][1]["rows"]] == ["queued", "queued"]
    assert view["busy"]
    again = copier_do(by_difference, pair, project="x", step="train")[by_difference.panel]
    assert again["said"]
    assert len(by_difference.started_jobs) == 2


def test_without_a_model_nothing_is_put_in_line(by_difference, pair, said):
    copier_look(by_difference, pair, action="new", name="x")
    view = copier_do(by_difference, pair, RunSettings(), project="x", step="train")[by_difference.panel]
    assert "source model" in view["said"]
    assert by_difference.started_jobs == []


@pytest.mark.parametrize("step", ["difference", "grid", "save", "inspect", "send", "nonsense", ["a"]])
def test_what_comes_later_is_refused_in_words(by_difference, pair, said, step):
    copier_look(by_difference, pair, action="new", name="x")
    answer = copier_do(by_difference, pair, project="x", step=step)
    assert set(answer) == {by_difference.panel}
    assert answer[by_difference.panel]["said"] in said


def test_b_alone_is_offered_where_a_is_there(by_difference, pair, said, tmp_path):
    copier_look(by_difference, pair, action="new", name="x")
    copier_do(by_difference, pair, project="x", step="train", steps="3")
    lora = tmp_path / "x-A-step00000002.safetensors"
    lora.write_bytes(b"x")
    b, a = sorted(list_runs(), key=lambda run: run.path.name, reverse=True)
    append(a.events, CheckpointSaved(path=lora, step=2, epoch=2))
    append(a.events, RunFinished(reason="stopped", step=2, path=lora))
    append(b.events, RunFailed(message={"en": "no file", "ja": "ない"}))
    train = copier_look(by_difference, pair, project="x")["steps"][1]
    assert (train["button"], train["enabled"], train["anew"]) == ("Train B", True, True)
    assert [(row["state"], row["text"]) for row in train["rows"]] == [("done", lora.name), ("failed", "no file")]
