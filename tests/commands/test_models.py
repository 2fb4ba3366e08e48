"""`mixstill models`: the sizes that papers print, by name."""

import json

import pytest


def sizes(mixstill, *words) -> dict[str, dict]:
    said = mixstill("models", *words, "--json")
    assert (said.code, said.err) == (0, "")
    return {size["name"]: size for size in json.loads(said.out)}


def test_the_students_of_the_mixers_have_the_published_sizes(mixstill) -> None:
    found = sizes(mixstill, "std_mixer_[sb]16_224")
    published = {"std_mixer_b16_224": 66.71, "std_mixer_s16_224": 22.16}
    assert {name: round(size["params"] / 1e6, 2) for name, size in found.items()} == published
    shown = mixstill("models", "std_mixer_[sb]16_224").out.splitlines()
    assert shown[0].split() == ["name", "params", "(M)", "MACs", "(G)", "input", "classes", "source"]
    rows = {line.split()[0]: line.split()[1:] for line in shown[1:]}
    assert rows["std_mixer_s16_224"][0] == "22.16"
    assert rows["std_mixer_b16_224"][0] == "66.71"
    assert rows["std_mixer_s16_224"][2:] == ["224", "1000", "timm"]
    assert found["std_mixer_s16_224"]["modules"] == 2


@pytest.mark.parametrize("classes", [None, 10])
def test_mixer_s4_has_its_size_at_any_number_of_classes(mixstill, classes) -> None:
    words = [] if classes is None else ["--num-classes", classes]
    size = sizes(mixstill, "mixer_s4_32", *words)["mixer_s4_32"]
    fewer = 90 * 513  # of 512 features and a bias each
    assert size["params"] == 17_156_196 - (fewer if classes else 0)
    assert (size["num_classes"], size["input_size"], size["modules"]) == (classes or 100, 32, 0)
    assert size["source"] == "mixstill"


def test_without_a_glob_mixstills_own_are_shown(mixstill) -> None:
    found = sizes(mixstill)
    assert {size["source"] for size in found.values()} == {"mixstill"}
    assert {"mixer_digits", "std_mixer_digits", "cifar_resnet56"} <= set(found)
    assert all(size["params"] > 0 and size["macs"] > 0 for size in found.values())
