"""The form in a real browser: what is typed, what is said, what is kept."""

import pytest
from PIL import Image

from tests.browser.waiting import fill_in, until


def box(page, path: str):
    return page.locator(f"#f-{path.replace('.', '-')} :is(input, textarea)").first


def problem(page, path: str):
    return page.locator(f"#f-{path.replace('.', '-')} .kb-problem")


def open_tab(page, name: str) -> None:
    page.click(f"#tab_{name}-button")
    page.wait_for_selector(f"#tab_{name}", state="visible")


def choose(page, path: str, words: str) -> None:
    box(page, path).click()
    page.get_by_role("option", name=words, exact=True).click()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "画像 set" / "20_usu bear"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
    return folder.parent


@pytest.fixture
def form(open_page):
    """The page with an empty form, in a language."""

    def open_it(**options):
        page = open_page(**options)
        page.click("#reset_settings")
        page.click("#reset_now")
        page.wait_for_selector("#reset_dialog", state="hidden")
        page.wait_for_timeout(500)
        return page

    return open_it


@pytest.mark.parametrize(
    ("locale", "words"), [("en-US", "Must be 1 or more, not 0."), ("ja-JP", "1 以上")], ids=["en", "ja"]
)
def test_a_bad_number_is_said_at_its_field(form, visit, locale, words):
    page = form(locale=locale)
    open_tab(page, "parameters")
    fill_in(page, box(page, "network.rank"), "0")
    problem(page, "network.rank").wait_for()
    assert words in problem(page, "network.rank").inner_text()
    assert box(page, "network.rank").get_attribute("aria-invalid") == "true"
    fill_in(page, box(page, "network.rank"), "8")
    problem(page, "network.rank").wait_for(state="detached")
    assert visit.errors == []
    assert visit.foreign == []


def test_train_model_says_what_is_missing_and_leads_there(form):
    page = form()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#kb_problems details[open]")
    place = page.locator(".kp-place", has_text="Folders › Output folder")
    place.click()
    page.wait_for_function("document.activeElement.closest('#f-save-output_dir') !== null")
    assert problem(page, "save.output_dir").is_visible()


def test_a_problem_in_a_closed_part_is_led_to(form):
    page = form()
    open_tab(page, "parameters")
    page.click("#parameters_loss button")
    fill_in(page, box(page, "loss.min_snr_gamma"), "-5")
    problem(page, "loss.min_snr_gamma").wait_for()
    page.click("#parameters_loss button")
    open_tab(page, "samples")
    page.click("#kb_problems summary")
    page.locator(".kp-place", has_text="Min SNR gamma").click()
    page.wait_for_function("document.activeElement.closest('#f-loss-min_snr_gamma') !== null")


def test_an_optimizer_shows_its_own_fields_and_a_fix_sets_the_rate(form):
    page = form()
    open_tab(page, "parameters")
    assert not page.is_visible("#f-optimizer-d_coef")
    choose(page, "optimizer.name", "Prodigy (finds the rate, set it to 1)")
    page.wait_for_selector("#f-optimizer-d_coef")
    problem(page, "train.learning_rate").wait_for()
    page.click("#f-train-learning_rate .kp-fix")
    problem(page, "train.learning_rate").wait_for(state="detached")
    until(page, lambda: float(box(page, "train.learning_rate").input_value()) == 1)


def test_an_algorithm_shows_its_own_fields(form):
    page = form()
    open_tab(page, "parameters")
    assert not page.is_visible("#f-network-factor")
    assert not page.is_visible("#f-network-conv_rank")
    choose(page, "network.algo", "LoKr (Kronecker product)")
    page.wait_for_selector("#f-network-factor")
    page.wait_for_selector("#f-network-conv_rank")
    choose(page, "network.algo", "LoCon (with convolutions)")
    page.wait_for_selector("#f-network-factor", state="hidden")
    page.wait_for_function("document.querySelector('#f-network-conv_rank input').value === '8'")


def test_what_is_on_the_page_survives_a_reload(form):
    page = form()
    open_tab(page, "folders")
    box(page, "dataset.trigger_words").press_sequentially("usu くま", delay=10)
    open_tab(page, "parameters")
    fill_in(page, box(page, "network.rank"), "")
    problem(page, "network.rank").wait_for()
    page.reload()
    page.wait_for_selector("#job_pill .jp")
    open_tab(page, "folders")
    page.wait_for_function("document.querySelector('#f-dataset-trigger_words textarea').value === 'usu くま'")
    open_tab(page, "parameters")
    problem(page, "network.rank").wait_for()


def test_the_tree_and_the_steps_appear(form, images):
    page = form()
    open_tab(page, "folders")
    fill_in(page, box(page, "dataset.train_dir"), f'"{images}"')
    page.wait_for_selector("#folder_report .kb-tree")
    until(page, lambda: "20_usu bear: 20 × 3 images, 0 captions" in page.inner_text("#folder_report"))
    page.wait_for_selector("#kb_steps .kb-steps")
    until(page, lambda: "600 steps" in page.inner_text("#kb_steps"))


def test_the_wrong_folder_is_put_right_by_one_click(form, images):
    page = form()
    open_tab(page, "folders")
    fill_in(page, box(page, "dataset.train_dir"), str(images / "20_usu bear"))
    page.click("#f-dataset-train_dir .kp-fix")
    problem(page, "dataset.train_dir").wait_for(state="detached")
    until(page, lambda: box(page, "dataset.train_dir").input_value() == str(images))


def test_the_folder_browser_fills_the_field(form, images):
    page = form()
    open_tab(page, "folders")
    fill_in(page, box(page, "dataset.train_dir"), str(images.parent))
    page.click("#browse-dataset-train_dir")
    page.locator(".fb-entry", has_text=images.name).click()
    page.wait_for_function("name => document.querySelector('.fb-path').value.endsWith(name)", arg=images.name)
    assert "3 images" in page.locator(".fb-entry", has_text="20_usu bear").inner_text()
    page.click(".fb-choose")
    page.wait_for_selector(".fb-box", state="detached")
    until(page, lambda: box(page, "dataset.train_dir").input_value() == str(images))


def test_the_folder_browser_closes_with_escape(form):
    page = form()
    page.click("#browse-model-base")
    page.wait_for_selector(".fb-box")
    page.keyboard.press("Escape")
    page.wait_for_selector(".fb-box", state="detached")


def test_saved_settings_come_back(form):
    page = form()
    open_tab(page, "parameters")
    fill_in(page, box(page, "network.rank"), "24")
    page.wait_for_timeout(500)
    page.click("#save_settings")
    page.wait_for_selector("#save_dialog", state="visible")
    page.click("#save_now")
    page.wait_for_selector("#save_dialog", state="hidden")
    page.click("#reset_settings")
    page.click("#reset_now")
    page.wait_for_function("document.querySelector('#f-network-rank input').value === '16'")
    page.click("#load_settings")
    page.click("#recent_settings input")
    page.get_by_role("option").first.click()
    page.wait_for_function("document.querySelector('#f-network-rank input').value === '24'")


def test_a_file_that_is_no_settings_says_so(form, tmp_path):
    page = form()
    (tmp_path / "broken.toml").write_text("[train\n", encoding="utf-8")
    page.click("#load_settings")
    page.fill("#f-load-path textarea", str(tmp_path / "broken.toml"))
    page.click("#load_path")
    page.wait_for_selector("#load_dialog .kb-dialog-error")
    until(page, lambda: "broken.toml, line 1" in page.inner_text("#load_dialog .kb-dialog-error"))


def test_a_kohya_file_fills_the_form_and_reports_folded_away(form, tmp_path):
    page = form()
    open_tab(page, "parameters")
    (tmp_path / "kohya.json").write_text(
        '{"LoRA_type": "Standard", "max_resolution": "512", "network_dim": 24, "what": 1}', encoding="utf-8"
    )
    page.click("#load_settings")
    page.fill("#f-load-path textarea", str(tmp_path / "kohya.json"))
    page.click("#load_path")
    page.wait_for_function("document.querySelector('#f-network-rank input').value === '24'")
    page.wait_for_selector("#kohya_report summary:has-text('kohya.json')")
    assert not page.is_visible("#kohya_report h4 >> nth=0")
    page.click("#kohya_report summary")
    until(page, lambda: "what = 1" in page.inner_text("#kohya_report"))
    page.click("#reset_settings")
    page.click("#reset_now")
    page.wait_for_selector("#kohya_report details", state="detached")


def test_a_pasted_command_fills_the_form(form):
    page = form()
    open_tab(page, "parameters")
    page.click("#load_settings")
    page.fill("#f-load-path textarea", "accelerate launch train_network.py \\\n  --network_dim 24 \\\n  --seed 7")
    page.click("#load_path")
    page.wait_for_function("document.querySelector('#f-network-rank input').value === '24'")


def test_the_language_is_remembered(form):
    page = form()
    page.click("[data-lang=ja]")
    page.wait_for_selector("#train_button:has-text('学習開始')")
    page.reload()
    page.wait_for_selector("#train_button:has-text('学習開始')")


@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_a_phone_needs_no_sideways_scrolling(form, locale):
    page = form(locale=locale, width=390, height=844)
    for tab in ("source_model", "folders", "parameters", "samples"):
        open_tab(page, tab)
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
