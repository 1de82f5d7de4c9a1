"""The copier LoRA by difference as a project: the chain end to end, what is to do again, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from lora_core.cli import main
from lora_core.data.folders import scan
from lora_core.demo import MINI_MODEL
from lora_core.errors import UserError
from lora_core.events import CheckpointSaved, FileSaved, RunFailed, RunFinished, append
from lora_core.guides import copier_project
from lora_core.guides.copier_project import PARTS, PROJECTS, begin, chosen, remember, results
from lora_core.i18n import LANGUAGES
from lora_core.merge.blocks import parse
from lora_core.merge.lora import load_lora
from lora_core.preflight import check
from lora_core.runs import create_run, list_runs, read_job_settings
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values
from tests.merge.makers import write_lora

PAGE = with_values(
    RunSettings(),
    {"model.base": "built-in", "dataset.trigger_words": "usu", "dataset.caption_prefix": "usu,", "network.rank": 4},
)
FAILED = RunFailed(message=dict.fromkeys(LANGUAGES, "out of memory"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUMAKOBO_LANG", "en")
    return tmp_path / "home"


@pytest.fixture
def pair(tmp_path):
    folder = tmp_path / "私の 絵"
    folder.mkdir()
    picture = Image.new("RGB", (64, 64), (200, 180, 160))
    picture.save(folder / "before.png")
    (folder / "before.txt").write_text("somebody's caption", encoding="utf-8")
    picture.resize((80, 64)).save(folder / "wide.png")
    picture.paste((220, 20, 40), (24, 40, 40, 56))
    picture.save(folder / "after.png")
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "other.png")
    return folder / "before.png", folder / "after.png"


@pytest.fixture
def project(pair):
    return begin("リボン", *pair)


def done(project, part, path, *, family="sd1", reason="completed"):
    """The part as if its run had written a LoRA, or a grid."""
    if part != "grid":
        write_lora(path, family=family)
    if part in copier_project.TRAINED:
        settings = copier_project.trainings(project, results(project), PAGE, anew=True)[part]
        saved = CheckpointSaved(path=path, step=2, epoch=2)
    elif part == "difference":
        settings = copier_project.merge_settings(project, results(project))
        saved = FileSaved(path=path, kind="lora")
    else:
        settings = copier_project.grid_settings(project, results(project))
        Image.new("RGB", (8, 8)).save(path)
        saved = FileSaved(path=path, kind="picture", facts={"grid": True})
    run = create_run(settings)
    append(run.events, saved)
    append(run.events, RunFinished(reason=reason, step=2, path=path))
    return remember(project, part, run)


@pytest.fixture
def trained(project, tmp_path):
    for part in copier_project.TRAINED:
        project = done(project, part, tmp_path / f"{part}.safetensors")
    return project


# ---- the pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        (None, None, "guides.no_pair"),
        ("before", None, "data.pair_one_only"),
        ("before", "before", "data.pair_equal"),
        ("before", "wide", "data.pair_sizes"),
        ("before", "gone", "data.pair_missing"),
    ],
)
def test_what_is_no_pair_begins_no_project(pair, before, after, key):
    paths = [name and pair[0].with_name(f"{name}.png") for name in (before, after)]
    with pytest.raises(UserError) as refused:
        begin("x", *paths)
    assert refused.value.key == key
    assert PROJECTS.names() == []


def test_pictures_that_differ_everywhere_are_a_warning(pair):
    project = begin("x", pair[0], pair[0].with_name("other.png"))
    (problem,) = copier_project.problems_of(project.before, project.after)
    assert (problem.key, problem.severity) == ("data.pair_unaligned", "warning")


def test_other_pictures_are_to_be_trained_anew(trained, pair):
    assert results(trained)["after"].is_done
    other = copier_project.other_pictures(trained, pair[1], pair[0])
    assert not any(result.is_done for result in results(other).values())
    assert PROJECTS.load("リボン") == other


# ---- A and B ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "flux"])
def test_each_picture_is_trained_alone_without_words_and_alike(project, pair, family):
    page = with_values(RunSettings(), {"model.family": family, "dataset.trigger_words": "usu", "dataset.reg_dir": "/r"})
    found = copier_project.trainings(project, results(project), page)
    assert list(found) == ["before", "after"]
    seen = []
    for settings, picture in zip(found.values(), pair, strict=True):
        (subset,) = scan(settings.dataset).subsets
        (image,) = subset.images
        assert (image.path, image.caption, subset.class_tokens) == (picture, "", "")
        assert settings.model.family == family
        assert not settings.train.train_text_encoder
        names = {"train_dir", "metadata_file", "output_name"}
        seen.append(settings.model_dump(exclude={"dataset": names, "save": names, "network": {"network_weights"}}))
    assert seen[0] == seen[1]
    before, after = found.values()
    assert before.network.network_weights is None
    assert after.network.network_weights == before.save.output_dir / f"{before.save.output_name}.safetensors"
    assert not [p for p in check(with_values(settings, {"model.base": "built-in"})) if p.path.startswith("dataset")]
    assert sorted(path.name for path in pair[0].parent.iterdir()) == [
        *("after.png", "before.png", "before.txt", "other.png", "wide.png")
    ]


def test_b_goes_on_from_the_a_that_is_there_and_is_trained_like_it(project, tmp_path):
    project = done(project, "before", tmp_path / "a.safetensors")
    other = with_values(PAGE, {"model.family": "sdxl", "model.base": "elsewhere"})
    (settings,) = copier_project.trainings(project, results(project), other).values()
    assert settings.save.output_name.endswith("-B")
    assert (settings.model.family, settings.model.base) == ("sd1", "built-in")
    assert settings.network.network_weights == tmp_path / "a.safetensors"
    assert set(copier_project.trainings(project, results(project), PAGE, anew=True)) == {"before", "after"}


def test_a_training_that_was_stopped_and_saved_counts(project, tmp_path):
    project = done(project, "before", tmp_path / "a.safetensors", reason="stopped")
    assert results(project)["before"].is_done
    (tmp_path / "a.safetensors").unlink()
    assert results(project)["before"].state == "stopped"


def test_while_one_trains_none_is_started(project):
    run = create_run(copier_project.trainings(project, results(project), PAGE)["before"])
    with pytest.raises(UserError) as refused:
        copier_project.trainings(remember(project, "before", run), results(remember(project, "before", run)), PAGE)
    assert refused.value.key == "guides.copier_running"


def test_steps_of_ones_own(project):
    page = copier_project.trainings(chosen(project, steps=7), results(project), PAGE)["after"]
    assert page.train.epochs == 7
    for name in ("steps", "rank"):
        with pytest.raises(UserError, match="0"):
            chosen(project, **{name: 0})


# ---- the difference --------------------------------------------------------------------------------------------------


def test_b_minus_a_with_the_layer_weights(trained):
    job = copier_project.merge_settings(trained, results(trained))
    assert [source.ratio for source in job.loras] == [1, -1]
    assert [source.path.stem for source in job.loras] == ["after", "before"]
    weights = parse(job.loras[0].block_weights, "sd1")
    assert (weights.by_block["BASE"], weights.by_block["IN02"], weights.by_block["OUT05"]) == (0, 0, 1)
    other = copier_project.merge_settings(chosen(trained, layers="OUTALL", rank=3), results(trained))
    assert (other.loras[1].block_weights, other.rank) == ("OUTALL", 3)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "flux"])
def test_the_proposed_weights_are_some_of_the_family(family):
    weights = parse(copier_project.proposed_layers(family), family).by_block
    assert 0 < sum(weights.values()) < len(weights)


def test_wrong_layer_weights_and_families_are_refused(trained, tmp_path):
    with pytest.raises(UserError):
        copier_project.merge_settings(chosen(trained, layers="1,2,3"), results(trained))
    mixed = done(trained, "after", tmp_path / "xl.safetensors", family="sdxl")
    with pytest.raises(UserError) as refused:
        copier_project.merge_settings(mixed, results(mixed))
    assert refused.value.key == "guides.copier_families"


def test_a_failed_training_is_said_and_done_again(trained):
    run = create_run(copier_project.trainings(trained, results(trained), PAGE, anew=True)["before"])
    append(run.events, FAILED)
    failed = remember(trained, "before", run)
    assert results(failed)["before"].failed == FAILED
    with pytest.raises(UserError, match="A failed"):
        copier_project.merge_settings(failed, results(failed))
    assert list(copier_project.trainings(failed, results(failed), PAGE)) == ["before", "after"]


def test_a_new_part_leaves_those_behind_it_to_do(trained, tmp_path):
    made = done(trained, "difference", tmp_path / "d.safetensors")
    made = done(made, "grid", tmp_path / "grid.png")
    assert copier_project.next_part(results(made)) is None
    again = done(made, "after", tmp_path / "b2.safetensors")
    assert copier_project.next_part(results(again)) == "difference"
    assert copier_project.next_part(results(chosen(made, rank=2))) == "difference"
    assert copier_project.next_part(results(chosen(made, prompts="cat"))) == "grid"
    assert chosen(made, rank=None) == made


# ---- looking and saving ----------------------------------------------------------------------------------------------


def test_nothing_is_drawn_or_saved_before_there_is_a_difference(trained, tmp_path):
    for act in (
        lambda: copier_project.grid_settings(trained, results(trained)),
        lambda: copier_project.save_result(trained, results(trained), "x", tmp_path),
    ):
        with pytest.raises(UserError) as refused:
            act()
        assert refused.value.key == "guides.copier_no_difference"


def test_saving_takes_a_free_name_and_remembers_it(trained, tmp_path):
    made = done(trained, "difference", tmp_path / "d.safetensors")
    folder = tmp_path / "out"
    names = []
    for name in ("", "", "mine"):
        made, path = copier_project.save_result(made, results(made), name, folder)
        names.append(path.name)
    assert names == ["リボン.safetensors", "リボン-2.safetensors", "mine.safetensors"]
    assert copier_project.saved_file(PROJECTS.load("リボン")) == folder / "mine.safetensors"
    with pytest.raises(UserError):
        copier_project.save_result(made, results(made), "a/b", folder)


# ---- the whole chain -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (MINI_MODEL / "model_index.json").exists(), reason="the built-in model is not there")
def test_the_command_does_the_chain_and_goes_on_where_it_was(pair, home, tmp_path, capsys):
    words = ["copier", "--output", str(tmp_path / "out" / "bow"), "--steps", "2", "--prompt", "bear"]
    words += ["--set", "train.learning_rate=1e-2", "--set", "sample.steps=2"]
    begun = [*words, "--before", str(pair[0]), "--after", str(pair[1]), "--base", "built-in"]
    assert main([*begun, "--no-grid", "--layers", "ALL"]) == 0
    trainings = [run for run in list_runs() if isinstance(read_job_settings(run.settings), RunSettings)]
    assert len(trainings) == 2

    project = PROJECTS.load("bow")
    a, b = (load_lora(results(project)[part].path) for part in copier_project.TRAINED)
    found = load_lora(tmp_path / "out" / "bow.safetensors")
    for name in list(found.names())[:12]:
        wanted = b.change(name).dense() - a.change(name).dense()
        assert np.abs(found.change(name).dense() - wanted).max() <= 0.01 * np.abs(wanted).max() + 1e-6

    PROJECTS.save(project.model_copy(update={"runs": {"before": project.runs["before"]}}))
    capsys.readouterr()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Training A: the picture before: there already" in said
    assert "Training B: the picture after: there" not in said
    assert (tmp_path / "out" / "bow-2.safetensors").is_file()
    found = results(PROJECTS.load("bow"))
    assert all(found[part].is_done for part in PARTS)
    with Image.open(found["grid"].pages[0]) as sheet:
        assert sheet.width > 5 * 64
    assert main([*words, "--before", str(pair[1]), "--after", str(pair[0])]) == 2
