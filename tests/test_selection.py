"""Which layers are trained, with which sizes and rates: patterns, blocks, and what is counted of the real models."""

import pytest

from lora_core import selection
from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES
from lora_core.merge import known
from lora_core.merge.blocks import block_of, names
from lora_core.selection import count, is_kernel, known_names, matching, patterns, problems, rates_differ, select
from lora_core.settings import RunSettings

SD = tuple(name for name in known.layers("sd1") if name in known.default_targets("sd1"))


def network(algo="lora", **values):
    return RunSettings.model_validate({"network": {"algo": algo} | values}).network


def settings(family="sd1", algo="lora", train=None, **values):
    data = {"model": {"family": family}, "network": {"algo": algo} | values, "train": train or {}}
    return RunSettings.model_validate(data)


def chosen(algo="lora", **values):
    return select(SD, network(algo, **values), "sd1")


def test_nothing_said_is_everything_as_the_settings_have_it():
    own = network()
    found = select(SD, own, "sd1")
    assert list(found) == list(SD)
    assert all(choice.settings is own and choice.rate == 1 for choice in found.values())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("attn2", lambda n: "_attn2_" in n),
        ("*_attn2_to_q", lambda n: n.endswith("_attn2_to_q")),
        ("/attn[12]_to_[qk]$/", lambda n: n[-10:] in {"attn1_to_q", "attn2_to_q", "attn1_to_k", "attn2_to_k"}),
        ("layers_1", lambda n: "_layers_1_" in n),  # not layers_11
        ("mid_block, /te_.*fc[12]$/\nattn1_to_v", lambda n: "mid_block" in n or "_fc" in n or "attn1_to_v" in n),
        ("/_(attn1|attn2)_to_q{1,1}$/", lambda n: n.endswith("_to_q")),
    ],
)
def test_patterns(text, wanted):
    expected = {name for name in SD if wanted(name)}
    assert expected
    assert matching(text, SD) == expected
    assert set(chosen(include=text)) == expected
    assert set(chosen(exclude=text)) == set(SD) - expected


def test_what_is_excluded_is_out_even_if_included():
    found = chosen(include="attn2, attn1", exclude="*_to_q")
    assert {name.rsplit("_attn", 1)[1] for name in found} == {
        f"{n}_to_{end}" for n in (1, 2) for end in ("k", "v", "out_0")
    }


@pytest.mark.parametrize(
    ("field", "text", "key"),
    [
        ("include", "attn1, attn9", "selection.pattern_nothing"),
        ("exclude", "lora_unet_x*", "selection.pattern_nothing"),
        ("exclude", "/(/", "selection.no_regex"),
        ("block_ranks", "*attn9*=4", "selection.pattern_nothing"),
        ("block_ranks", "IN99=4", "blocks.unknown"),
        ("block_ranks", "MID=2.5", "selection.not_whole"),
        ("block_ranks", "MID=-1", "selection.out_of_range"),
        ("block_ranks", "MID=5000", "selection.out_of_range"),
        ("block_lrs", "1,2,3", "blocks.length"),
        ("block_lrs", "MID=fast", "blocks.not_numbers"),
        ("block_lrs", "*attn1*=fast", "blocks.not_numbers"),
        ("block_lrs", "MID=1 and so on, OUT", "blocks.not_numbers"),
        ("block_lrs", "NONE", "selection.nothing_left"),
        ("exclude", "*", "selection.nothing_left"),
    ],
)
def test_what_can_not_be_meant_is_named_at_its_field(field, text, key):
    with pytest.raises(UserError) as caught:
        chosen(**{field: text})
    assert caught.value.key == key
    assert all("\n" not in caught.value.message(language) for language in LANGUAGES)
    found = list(problems(settings(**{field: text})))
    assert [problem.key for problem in found] == [key]
    if key != "selection.nothing_left":
        assert found[0].path == f"network.{field}"


def test_ranks_of_blocks_keep_the_ratio_of_alpha_unless_it_is_given():
    found = chosen(rank=16, alpha=8.0, block_ranks="MID=4, IN04-08=32, *attn2_to_q=2", block_alphas="IN04=1")
    for name, choice in found.items():
        block, sizes = block_of(name, "sd1"), (choice.settings.rank, choice.settings.alpha)
        if name.endswith("attn2_to_q"):
            assert sizes == (2, 1.0)
        elif block == "MID":
            assert sizes == (4, 2.0)
        elif block == "IN04":
            assert sizes == (32, 1.0)
        elif block in ("IN05", "IN07", "IN08"):
            assert sizes == (32, 16.0)
        else:
            assert sizes == (16, 8.0)


def test_the_first_pattern_counts():
    found = chosen(block_ranks="*attn2_to_q=2, attn2=3")
    assert {choice.settings.rank for name, choice in found.items() if name.endswith("attn2_to_q")} == {2}
    assert {choice.settings.rank for name, choice in found.items() if name.endswith("attn2_to_k")} == {3}


@pytest.mark.parametrize("field", ["block_ranks", "block_lrs"])
@pytest.mark.parametrize(("text", "blocks"), [("MID=0", {"MID"}), ("NOTEXT", {"BASE"}), ("OUT=0, BASE=0", None)])
def test_zero_leaves_a_block_out(field, text, blocks):
    out = blocks or {"BASE", *(block for block in names("sd1") if block.startswith("OUT"))}
    assert set(chosen(**{field: text})) == {name for name in SD if block_of(name, "sd1") not in out}


def test_a_list_for_every_block():
    ranks = [1 + n for n in range(26)]
    found = chosen(block_ranks=",".join(map(str, ranks)))
    by_block = dict(zip(names("sd1"), ranks, strict=True))
    assert all(choice.settings.rank == by_block[block_of(name, "sd1")] for name, choice in found.items())


def test_rates_are_factors():
    found = chosen(block_lrs="OUT=0.5, attn2=2")
    for name, choice in found.items():
        out = block_of(name, "sd1").startswith("OUT")
        assert choice.rate == (2 if "_attn2_" in name else 0.5 if out else 1)
    assert rates_differ(settings(block_lrs="OUT=0.5"))
    assert not rates_differ(settings(block_lrs="OUTALL"))
    assert not rates_differ(settings(block_lrs="what?"))


def test_convolutions_have_sizes_of_their_own():
    own = network("locon", rank=8, alpha=8.0, conv_rank=4, conv_alpha=2.0, block_conv_ranks="MID=2, OUT=0")
    every = known_names(settings(algo="locon", conv_rank=4))
    found = select(every, own, "sd1")
    sizes = {
        block_of(n, "sd1"): (c.settings.conv_rank, c.settings.conv_alpha, c.settings.rank) for n, c in found.items()
    }
    assert sizes["MID"] == (2, 1.0, 8)
    assert sizes["IN01"] == (4, 2.0, 8)
    out = {name for name in every if block_of(name, "sd1").startswith("OUT")}
    assert {name for name in out if name not in found} == {name for name in out if is_kernel(name)} != set()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "flux"])
def test_a_convolution_is_told_by_its_name(family):
    shapes = known.layers(family)
    assert {n for n in shapes if is_kernel(n)} == {n for n, shape in shapes.items() if max(shape[2:], default=1) > 1}


def test_oft_has_ranks_and_no_alphas():
    found = chosen("oft", rank=8, block_ranks="MID=4")
    assert {(c.settings.rank, c.settings.alpha) for c in found.values()} == {(8, 8.0), (4, 4.0)}


@pytest.mark.parametrize(
    ("family", "algo", "text", "expected"),
    [
        ("sd1", "lora", True, (264, 72)),
        ("sd1", "lora", False, (192, 0)),
        ("sdxl", "lora", False, (722, 0)),
        ("flux", "lora", True, (376, 72)),
    ],
)
def test_the_layers_of_the_real_models_are_those_that_sd_scripts_trains(family, algo, text, expected):
    found = count(settings(family, algo, train={"train_text_encoder": text}))
    assert (found.chosen, found.text) == expected
    assert found.of == found.chosen
    assert found.ranks == (16, 16)
    assert found.rates == (1.0, 1.0)


def test_a_convolution_rank_brings_in_the_residual_blocks_and_nothing_else():
    added = set(known_names(settings(algo="locon"))) - set(known_names(settings()))
    assert len(added) == 86
    assert all("_resnets_" in name or "samplers_" in name for name in added)
    more = set(known_names(settings("sdxl", "locon"))) - set(known_names(settings("sdxl")))
    assert more
    assert not any(
        part in name for name in more for part in ("time_embed", "label_emb", "input_blocks_0_0", "unet_out_")
    )


def test_patterns_are_parted_by_commas_and_lines():
    assert patterns("a, b*\n/x,y\\/z/ , ,\n") == ["a", "b*", "/x,y\\/z/"]


def test_every_field_for_blocks_is_one_of_the_settings():
    everything = {name for algo in ("locon", "oft") for name in type(network(algo)).model_fields}
    assert set(selection.VALUES) | set(selection.PATTERNS) <= everything
