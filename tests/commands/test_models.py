import json
import re
import shlex
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = ["name", "params (M)", "plain (M)", "MACs (G)", "plain (G)", "modules", "input", "classes", "source"]


def sizes(mixstill, *words) -> dict[str, dict]:
    said = mixstill("models", *words, "--json")
    assert (said.code, said.err) == (0, "")
    return {size["name"]: size for size in json.loads(said.out)}


@pytest.mark.slow
def test_the_students_have_the_published_sizes(mixstill) -> None:
    found = sizes(mixstill, "std_*")
    published = {
        "std_mixer_s16_224": 22.16,
        "std_mixer_b16_224": 66.71,
        "std_resmlp_24_224": 32.49,  # 32.45 to 32.53
        "std_resmlp_big_24_16_224": 122.56,
        "std_cyclemlp_b1_224": 18.42,
        "std_cyclemlp_b2_224": 30.07,
    }
    for name, millions in published.items():
        assert found[name]["params"] / 1e6 == pytest.approx(millions, abs=0.05)
        assert (found[name]["modules"], found[name]["num_classes"], found[name]["input_size"]) == (2, 1000, 224)


def test_json_holds_the_size_with_modules_and_without(mixstill) -> None:
    found = sizes(mixstill, "*mixer_digits")
    plain, student = (
        {"input_size": 8, "num_classes": 10, "source": "mixstill", "plain_params": 139274, "plain_macs": 2372224} | own
        for own in (
            {"name": "mixer_digits", "params": 139274, "macs": 2372224, "modules": 0},
            {"name": "std_mixer_digits", "params": 177094, "macs": 2988224, "modules": 2},
        )
    )
    assert found == {"mixer_digits": plain, "std_mixer_digits": student}


def test_the_table_shows_both(mixstill) -> None:
    lines = mixstill("models", "*mixer_s16_224").out.splitlines()
    assert lines[0].split("  ")[0] == "name"
    assert lines[0].split() == " ".join(HEAD).split()
    assert [line.split() for line in lines[1:]] == [
        ["mixer_s16_224", "18.53", "18.53", "3.777", "3.777", "0", "224", "1000", "timm"],
        ["std_mixer_s16_224", "22.16", "18.53", "4.243", "3.777", "2", "224", "1000", "timm"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_the_table_in_markdown(mixstill) -> None:
    assert mixstill("models", "std_mixer_s16_224", "--markdown").out.splitlines() == [
        f"| {' | '.join(HEAD)} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| std_mixer_s16_224 | 22.16 | 18.53 | 4.243 | 3.777 | 2 | 224 | 1000 | timm |",
    ]


@pytest.mark.parametrize("classes", [None, 10])
def test_mixer_s4_has_its_size_at_any_number_of_classes(mixstill, classes) -> None:
    words = [] if classes is None else ["--num-classes", classes]
    size = sizes(mixstill, "mixer_s4_32", *words)["mixer_s4_32"]
    fewer = 90 * 513  # of 512 features and a bias each
    assert size["params"] == 17_156_196 - (fewer if classes else 0)
    assert (size["num_classes"], size["input_size"], size["modules"]) == (classes or 100, 32, 0)


def test_the_input_size_is_taken(mixstill) -> None:
    native, larger = (sizes(mixstill, "mixer_digits", *words)["mixer_digits"] for words in ([], ["--input-size", 16]))
    assert (native["input_size"], larger["input_size"]) == (8, 16)
    patches, blocks, hidden = (16, 64), 4, 32
    assert larger["params"] - native["params"] == blocks * (patches[1] - patches[0]) * (2 * hidden + 1)


@pytest.mark.parametrize(("places", "modules"), [("2/3", 1), ("2/3,last", 2), ("0 1,2", 3)])
def test_places_and_tokens_are_taken(mixstill, places, modules) -> None:
    size = sizes(mixstill, "std_mixer_digits", "--places", places, "--tokens", "none")["std_mixer_digits"]
    norm_and_head = 2 * 64 + 64 * 10 + 10
    assert size["modules"] == modules
    assert size["params"] - size["plain_params"] == modules * norm_and_head


def test_without_a_glob_all_that_mixstill_adds_is_shown(mixstill) -> None:
    found = sizes(mixstill)
    assert {"mixer_digits", "std_mixer_digits", "cifar_resnet56", "std_mixer_b16_224"} <= set(found)
    assert set(sizes(mixstill, "std_*")) <= set(found)
    assert "mixer_b16_224" not in found
    for name, size in found.items():
        assert size["modules"] == (2 if name.startswith("std_") else 0)
        assert (size["params"] > size["plain_params"]) is name.startswith("std_")
        assert (size["macs"] > size["plain_macs"] > 0) is name.startswith("std_")
        assert name.startswith("std_") or size["source"] == "mixstill"


def test_a_deit_has_its_size(mixstill) -> None:
    found = sizes(mixstill, "deit_tiny*_patch16_224")
    millions = {name: round(size["params"] / 1e6, 2) for name, size in found.items()}
    assert millions == {"deit_tiny_patch16_224": 5.72, "deit_tiny_distilled_patch16_224": 5.91}


def test_the_papers_table(mixstill) -> None:
    lines = mixstill("models", "--paper").out.splitlines()
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in lines]
    assert rows[0] == ["student", "params (M)", "published", "MACs (G)", "published"]
    assert rows[1] == ["Mixer-S16", "18.53 -> 22.16", "18.5 -> 22.2", "3.78 -> 4.24", "3.8 -> 4.3"]
    assert rows[4] == ["ResMLP-B24/16", "115.74 -> 122.56", "115.7 -> 122.6", "23.02 -> 24.07", "23.0 -> 24.1"]
    assert len(rows) == 7


def test_the_documents_tables_are_those_drawn(mixstill) -> None:
    text = DOCS.read_text(encoding="utf-8")
    tables = re.findall(r"^    mixstill (models .*?)$.*?((?:^\|[^\n]*\n)+)", text, re.MULTILINE | re.DOTALL)
    assert len(tables) == 3
    for words, table in tables:
        drawn, written = mixstill(*shlex.split(words)).out.splitlines(), table.splitlines()
        assert set(written) - set(drawn) == set()
        left_out = set(drawn) - set(written)
        assert {row for row in left_out if not row.endswith("| timm |")} == set()  # another timm may have more


def test_the_papers_table_as_json(mixstill) -> None:
    said = mixstill("models", "--paper", "--json")
    rows = {row["student"]: row for row in json.loads(said.out)}
    assert list(rows) == ["Mixer-S16", "Mixer-B16", "ResMLP-S24", "ResMLP-B24/16", "CycleMLP-B1", "CycleMLP-B2"]
    assert rows["CycleMLP-B1"]["name"] == "std_cyclemlp_b1_224"
    assert rows["CycleMLP-B1"]["params"] == 18_420_690
    assert rows["CycleMLP-B1"]["published"] == {
        "plain_params": 15_200_000,
        "params": 18_400_000,
        "plain_macs": 2_100_000_000,
        "macs": 2_200_000_000,
    }
    for row in rows.values():
        for field, published in row["published"].items():
            assert row[field] == pytest.approx(published, abs=0.05e6 if field.endswith("params") else 0.1e9)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("std_mixer_s16", "model: unknown value 'std_mixer_s16'; did you mean 'std_mixer_s16_224'?"),
        ("std_resnet18*", "model: unknown value 'std_resnet18*'; did you mean"),
        ("a b", "models: takes one GLOB, got a b"),
        ("mixer_digits --lr 1", "models: takes no fields of a config, got optim"),
        ("mixer_digits --num-classes 0", "--num-classes: '0' is not valid; it must be a whole number, 1 or more"),
        ("mixer_digits --input-size x", "--input-size: 'x' is not valid; it must be a whole number, 1 or more"),
        ("std_mixer_s16_224 --input-size 225", "225 pixels are not divisible by the patch of 16"),
        ("std_mixer_digits --places 9", "9: the place is out of range; it must be a block index 0 to 3"),
        ("std_mixer_digits --places ,", "--places: names no place; such as last,last or 2/3,last"),
        ("std_mixer_digits --tokens spatal", "--tokens: unknown value 'spatal'; did you mean 'spatial'?"),
        ("mixer_digits --json --markdown", "--markdown: not together with --json"),
        ("mixer_digits --paper", "--paper: its models and their sizes are fixed, so it takes no mixer_digits"),
        ("--paper --num-classes 10", "--paper: its models and their sizes are fixed, so it takes no --num-classes"),
        ("mixer_digits --jsn", "did you mean '--json'?"),
    ],
)
def test_mistakes_are_told_in_one_line(refused, words, said) -> None:
    assert said in refused("models", *shlex.split(words))
