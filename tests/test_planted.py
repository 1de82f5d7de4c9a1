"""The script of the planted runs, without training: who is measured, and what the table says of known curves."""

from pathlib import Path

import pytest

from benchmarks import planted_overfitting as planted
from lora_core.data.folders import scan
from lora_core.data.held_out import measured
from lora_core.events import PictureLoss, ValidationDone
from lora_core.i18n import LANGUAGES

PROJECT = Path(__file__).resolve().parent.parent
EPOCHS = planted.RUNS["plain"].epochs


def history(seen: int, true: int) -> list[ValidationDone]:
    """Parabolas: the lowest point of the pictures that the verdict sees, and of those that are the truth."""
    borders = dict.fromkeys(planted.groups()[0], seen) | dict.fromkeys(planted.groups()[1], true)
    found = []
    for e in range(EPOCHS + 1):
        apart = [PictureLoss(name=n, held_out=True, loss=0.1 + 0.001 * (e - low) ** 2) for n, low in borders.items()]
        fit = 0.1 - 0.005 * e
        trained = [PictureLoss(name=planted.name_of(n), held_out=False, loss=fit) for n in range(planted.TRAINED)]
        mean = sum(picture.loss for picture in apart) / len(apart)
        found.append(ValidationDone(epoch=e, step=e, fit=fit, generalisation=mean, pictures=[*trained, *apart]))
    return found


def test_what_the_verdict_sees_is_neither_trained_on_nor_the_truth(tmp_path):
    """And no two pictures are alike, as the run itself tells them apart: by content."""
    settings = planted.settings_of(tmp_path, planted.RUNS["regularised"], levels=2)
    pictures = measured(scan(settings.dataset), settings)
    trained = {p.image.path.name for p in pictures if not p.held_out and not p.subset.is_reg}
    apart = {p.image.path.name for p in pictures if p.held_out}
    seen, truth = planted.groups()
    assert len(pictures) == planted.TRAINED + planted.SEEN_BY_VERDICT + planted.TRUTH
    assert (len(trained), len(seen), len(truth)) == (planted.TRAINED, planted.SEEN_BY_VERDICT, planted.TRUTH)
    assert not seen & truth
    assert apart == seen | truth
    assert not apart & trained


def test_a_run_differs_from_the_plain_one_in_one_thing(tmp_path):
    for name, run in planted.RUNS.items():
        plain = planted.RUNS["plain"]
        differing = {
            field for field in ("rate", "rank", "repeats", "reg") if getattr(run, field) != getattr(plain, field)
        }
        assert len(differing) == (name != "plain"), name


@pytest.mark.parametrize(("seen", "true"), [(5, 5), (4, 6), (7, 3)])
def test_the_truth_is_that_of_the_pictures_the_verdict_does_not_see(seen: int, true: int):
    row = planted.row_of("plain", history(seen, true))
    assert (row.border, row.true, row.apart) == (seen, true, abs(seen - true))
    assert row.copies_from == seen + 1
    assert row.lost == pytest.approx(0.01 * (seen - true) ** 2)
    assert row.over_fits
    assert row.losses == pytest.approx((0.1 + 0.001 * true**2, 0.1, 0.1 + 0.001 * (EPOCHS - true) ** 2))


def test_other_fives_agree_where_all_pictures_do_and_not_where_they_do_not():
    assert planted.others_near(history(5, 5)) == 1
    assert planted.others_near(history(0, 9)) < 1


@pytest.mark.parametrize("true", [0, EPOCHS])
def test_a_run_without_a_lowest_point_inside_does_not_over_fit(true: int):
    row = planted.row_of("plain", history(true, true))
    assert not row.over_fits
    assert row.planted.title in planted.table([row], "en").splitlines()[-1]


def test_what_is_kept_is_what_was_measured(tmp_path):
    found = history(3, 4)
    planted.keep(tmp_path / "run.jsonl", found)
    assert planted.kept(tmp_path / "run.jsonl") == found


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_table_has_a_row_for_each_run_and_counts_those_that_are_near(language):
    rows = [planted.row_of("plain", history(5, 5)), planted.row_of("high_rank", history(4, 8))]
    lines = planted.table(rows, language).splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert planted.title_of(rows[1], language) in lines[3]
    assert "1" in lines[5]
    assert "2" in lines[5]


def test_the_table_goes_between_its_marks_and_changes_nothing_else():
    page = f"before\n{planted.BEGIN}\n\nold\n\n{planted.END}\nafter\n"
    new = planted.with_table(page, "new")
    assert new == page.replace("old", "new")
    assert planted.with_table(new, "old") == page
    with pytest.raises(ValueError, match="no place"):
        planted.with_table("a page without marks", "new")


@pytest.mark.parametrize("name", ["overfitting.md", "overfitting.ja.md"])
def test_the_pages_have_the_table_of_all_runs(name: str):
    page = (PROJECT / "docs" / name).read_text("utf-8")
    words = planted.WORDS[planted.language_of(Path(name))]
    written = page.partition(planted.BEGIN)[2].partition(planted.END)[0]
    assert words["head"] in written
    titles = {run.title_ja if name.endswith(".ja.md") else run.title for run in planted.RUNS.values()}
    assert {line.split("|")[1].strip() for line in written.splitlines() if line.startswith("| ")} >= titles
