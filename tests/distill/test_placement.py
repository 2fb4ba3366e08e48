import pytest

from mixstill.distill.placement import Placement
from mixstill.errors import UserError


@pytest.mark.parametrize(
    ("text", "teacher", "place"),
    [
        ("resnet50@2/3", "resnet50", "2/3"),
        ("resnet50", "resnet50", "last"),
        ("resnet50@last", "resnet50", "last"),
        ("resnet50.a1_in1k@0.5", "resnet50.a1_in1k", "0.5"),
        ("runs/me@home/teacher@5", "runs/me@home/teacher", "5"),
        ("hf-hub:timm/resnet50@last", "hf-hub:timm/resnet50", "last"),
        ("cifar_resnet20=runs/a@b.th@last", "cifar_resnet20=runs/a@b.th", "last"),
    ],
)
def test_a_placement_is_a_teacher_and_what_follows_the_last_at(text, teacher, place):
    placement = Placement.parse(text)
    assert placement == Placement(teacher, place)
    assert Placement.parse(str(placement)) == placement


@pytest.mark.parametrize("text", ["", "@", "@last", "resnet50@", "runs/me@home@"])
def test_a_missing_part_is_a_users_mistake(text):
    with pytest.raises(UserError) as caught:
        Placement.parse(text)
    expected = f"distill.teachers: {text!r} is not of the form TEACHER@PLACE, such as resnet56@2/3"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("place", "depth", "index"),
    [
        ("last", 8, 7),
        ("last", 1, 0),
        ("0", 8, 0),
        ("5", 8, 5),
        ("7", 8, 7),
        ("2/3", 8, 5),
        ("2/3", 12, 7),
        ("2/3", 24, 15),
        ("2/3", 4, 2),
        ("2/3", 3, 1),
        ("2/3", 1, 0),
        ("0.5", 8, 3),
        ("0.5", 5, 2),
        ("1/3", 3, 0),
        ("1/100", 8, 0),
        ("1/1", 8, 7),
        ("1.0", 8, 7),
        ("0.28", 25, 6),  # in binary 0.28 * 25 is above 7
    ],
)
def test_a_place_is_a_block(place, depth, index):
    assert Placement("teacher", place).index(depth) == index


@pytest.mark.parametrize("place", ["8", "-1", "100", "0/3", "0.0", "4/3", "-1/3", "1.5"])
def test_a_place_out_of_range_is_a_users_mistake(place):
    with pytest.raises(UserError) as caught:
        Placement("teacher", place).index(8)
    assert str(caught.value) == (
        f"distill.teachers: teacher@{place}: the place is out of range; "
        "it must be a block index 0 to 7, a fraction of the depth such as 2/3, or 'last', 'class', 'token'"
    )


@pytest.mark.parametrize("place", ["first", "2/0", "2/3/4", "nan", "inf", "LAST", "home/run", "²"])
def test_rubbish_is_a_users_mistake(place):
    with pytest.raises(UserError) as caught:
        Placement("teacher", place).index(8)
    assert str(caught.value) == (
        f"distill.teachers: teacher@{place}: {place!r} is no place; "
        "it must be a block index 0 to 7, a fraction of the depth such as 2/3, or 'last', 'class', 'token'"
    )
