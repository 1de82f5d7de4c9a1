"""The learning rate range test and the comparison of settings in a real browser, on the built-in model."""

import pytest
from PIL import Image

from lora_core.demo import MINI_MODEL
from lora_core.runs import list_runs
from tests.browser.test_families_page import check_shows, choose_preset
from tests.browser.test_form_page import box, form, open_tab
from tests.browser.waiting import fill_in, until

__all__ = ["form"]
pytestmark = pytest.mark.skipif(
    not (MINI_MODEL / "model_index.json").exists(), reason="the built-in model is not there"
)
QUICK = {
    "folders": {"dataset.reg_dir": "", "save.output_name": "usu"},
    "parameters": {
        "network.rank": "4",
        "network.alpha": "4",
        "train.train_batch_size": "4",
        "dataset.resolution": "32",
    },
}
"""Tab -> what makes runs of seconds of the demo preset."""


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "私の 絵" / "1_usu bear"
    folder.mkdir(parents=True)
    for number in range(12):
        Image.radial_gradient("L").resize((32, 32)).rotate(30 * number).convert("RGB").save(folder / f"{number}.png")
    return folder.parent


@pytest.fixture
def filled(form, real_app, pictures):
    """The page of an app with the real trainer, filled in for quick runs, on the Parameters tab."""

    def open_it(**options):
        page = form(url=real_app.url, **options)
        page.set_default_timeout(300_000)
        choose_preset(page, "demo")
        open_tab(page, "parameters")
        check_shows(page, "train.learning_rate", 1.5e-3)
        for name, values in QUICK.items():
            open_tab(page, name)
            fill_all(page, values)
        open_tab(page, "folders")
        fill_all(page, {"dataset.train_dir": str(pictures)})
        open_tab(page, "parameters")
        return page

    return open_it


def fill_all(page, values: dict[str, str]) -> None:
    for path, value in values.items():
        fill_in(page, box(page, path), value)
        box(page, path).press("Tab")


def test_a_learning_rate_is_found_and_adopted(filled, visit):
    page = filled()
    page.click("#range_go")
    page.wait_for_selector("#range_stop", state="visible")
    page.wait_for_selector("#range_panel [data-kind] svg polyline")
    page.wait_for_selector("#range_stop", state="hidden")
    assert page.get_attribute("#range_panel [data-kind]", "data-kind") == "found"
    page.click("#range_adopt")
    until(page, lambda: box(page, "train.learning_rate").input_value() not in ("", "0.0015"))
    rate = float(box(page, "train.learning_rate").input_value())
    assert f"Learning rate {rate:g}." in page.inner_text("#range_panel")
    page.reload()
    open_tab(page, "parameters")
    until(page, lambda: box(page, "train.learning_rate").input_value() == f"{rate:g}")
    assert visit.errors == []
    assert visit.foreign == []


@pytest.mark.parametrize(("locale", "words"), [("en-US", "finds its learning rate"), ("ja-JP", "学習率を自分で")])
def test_an_optimizer_with_its_own_rate_is_not_tested(form, app, locale, words):
    page = form(locale=locale)
    open_tab(page, "parameters")
    page.locator("#f-optimizer-name input").click()
    page.get_by_role("option").filter(has_text="Prodigy").first.click()
    until(page, lambda: "Prodigy" in page.input_value("#f-optimizer-name input"))
    said = page.locator("#range_panel [role=alert]")
    until(page, lambda: said.count() or page.click("#range_go"))
    assert words in said.inner_text()
    assert list_runs(app.root) == []


def test_two_settings_are_compared_with_a_verdict(filled, real_app, tmp_path, visit):
    page, before = filled(), len(list_runs(real_app.root))
    fill_all(page, {"train.max_train_steps": "1"})
    page.click("#parameters_validation > button")
    fill_all(page, {"validation.every_n_epochs": "1", "validation.split": "0.5", "validation.timesteps": "2"})
    open_tab(page, "folders")
    fill_all(page, {"save.output_dir": str(tmp_path / "出力 out")})
    open_tab(page, "parameters")
    page.click("#parameters_sweep > button")
    fields = page.locator("#sweep_fields textarea")
    fill_in(page, fields, "train.learning_rate=1e-3,2e-3")
    page.click("#sweep_go")
    page.wait_for_selector("#sweep_panel table")
    page.wait_for_selector("#sweep_panel .ov-verdict")
    assert "6 held-out pictures" in page.inner_text("#sweep_panel .ov-verdict")
    rows = page.locator("#sweep_panel tr").all_inner_texts()
    assert [row.split("\t")[1] for row in rows] == ["State", "done", "done"]
    names = ["usu-learning_rate_1e-3.safetensors", "usu-learning_rate_2e-3.safetensors"]
    assert sorted(path.name for path in (tmp_path / "出力 out").glob("*.safetensors")) == names
    assert len(list_runs(real_app.root)) == before + 2
    assert visit.errors == []
    assert visit.foreign == []


@pytest.mark.parametrize("typed", ["", "network.rnk=8,16", "network.rank=8,0"], ids=["nothing", "unknown", "illegal"])
def test_what_cannot_be_compared_is_said_and_nothing_starts(form, app, typed):
    page = form(locale="ja-JP")
    open_tab(page, "parameters")
    page.click("#parameters_sweep > button")
    fill_in(page, page.locator("#sweep_fields textarea"), typed)
    page.click("#sweep_go")
    page.wait_for_selector("#sweep_panel [role=alert]")
    assert list_runs(app.root) == []
