"""Where a teacher speaks to a student: the notation `teacher@place`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from mixstill.errors import UserError

# Places that are heads of the backbone's own, so that no module is needed: the class head (usual distillation) and that
# of a distillation token (DeiT).
CLASS, TOKEN = "class", "token"


@dataclass(frozen=True)
class Placement:
    """A teacher's name and the place in the student that it speaks to, written `teacher@place`."""

    teacher: str
    place: str = "last"

    @classmethod
    def parse(cls, text: str) -> Placement:
        """`resnet50@2/3` -> teacher `resnet50`, place `2/3`. A bare name is placed at `last`."""
        teacher, at, place = text.rpartition("@")
        if not at:
            teacher, place = text, "last"
        if not teacher or not place:
            raise UserError(f"distill.teachers: {text!r} is not of the form TEACHER@PLACE, such as resnet56@2/3")
        return cls(teacher, place)

    def __str__(self) -> str:
        return f"{self.teacher}@{self.place}"

    @property
    def at_head(self) -> bool:
        """Whether the place is a head of the backbone's own, so that there is no block to read."""
        return self.place in (CLASS, TOKEN)

    def index(self, depth: int) -> int:
        """The block, of `depth` many, that the module reads: `last`, a block index from 0, or a fraction of the depth.

        The fraction f stands for the first block at whose end f of the depth is behind: ceil(f * depth) - 1.
        """
        if self.place == "last":
            return depth - 1
        rule = f"a block index 0 to {depth - 1}, a fraction of the depth such as 2/3, or 'last', 'class', 'token'"
        try:
            value = Fraction(self.place)
        except (ValueError, ZeroDivisionError):
            raise UserError(f"distill.teachers: {self}: {self.place!r} is no place; it must be {rule}") from None
        whole = self.place.lstrip("+-").isdigit()
        index = int(value) if whole else math.ceil(value * depth) - 1
        if not 0 <= index < depth:
            raise UserError(f"distill.teachers: {self}: the place is out of range; it must be {rule}")
        return index
