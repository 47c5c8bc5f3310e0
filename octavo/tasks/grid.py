"""Logic grids: who has which animal, from hints.

What it shows: several possibilities, of which all but one have to be struck out.
"""

import random
from itertools import permutations

from octavo.tasks.worked import Worked

PEOPLE = ("Ana", "Ben", "Eva", "Kai", "Leo", "Mia", "Tom", "Zoe")
PETS = ("cat", "cow", "dog", "fish", "hen", "owl", "pig", "rat")

Hint = tuple[int, bool, int]  # person, has or has not, pet
Names = tuple[str, ...]
Asked = tuple[Names, Names, tuple[Hint, ...], int]  # people, pets, hints, who is asked for


class Grid(Worked):
    """Levels 1 and 2: three people, with and without a plain fact; 3 and 4: four people."""

    name, levels = "grid", 4

    def draw(self, draw: random.Random, level: int) -> Asked:
        """Some people and pets; true hints, each of which strikes something out, until one possibility is left."""
        count = 3 if level < 3 else 4
        truth = draw.sample(range(count), count)
        hints = [(person, has, pet) for person in range(count) for pet in range(count)
                 if (has := truth[person] == pet) is False or level % 2]  # fmt: skip
        draw.shuffle(hints)
        chosen, left = list[Hint](), list(permutations(range(count)))
        for hint in hints:
            after = [one for one in left if _holds(one, hint)]
            if len(after) < len(left):
                chosen, left = [*chosen, hint], after
            if len(left) == 1:
                break
        people, pets = (tuple(sorted(draw.sample(names, count))) for names in (PEOPLE, PETS))
        return people, pets, tuple(chosen), draw.randrange(count)

    def essence(self, instance: Asked) -> Asked:
        """The order of the hints does not matter."""
        people, pets, hints, asked = instance
        return people, pets, tuple(sorted(hints)), asked

    def wordings(self, instance: Asked, language: str) -> list[str]:
        """Hints, one sentence each."""
        people, pets, hints, asked = instance
        said = " ".join(f"{people[p]} has {'the' if has else 'no'} {pets[pet]}." for p, has, pet in hints)
        who, what = ", ".join(people), ", ".join(pets)
        return [f"{who}: {what}. {said} What has {people[asked]}?",
                f"{who} have a {what}. {said} Pet of {people[asked]}?"]  # fmt: skip

    def solve(self, instance: Asked, language: str) -> tuple[str, str]:
        """Person by person: what may still be theirs; once only one is left to somebody, nobody else has it.

        That is enough: where only one matching is left, somebody has only one pet left.
        """
        people, pets, hints, asked = instance
        count = len(people)
        left = next(one for one in permutations(range(count)) if all(_holds(one, hint) for hint in hints))
        may = [{pet for pet in range(count) if all(_may(p, pet, hint) for hint in hints)} for p in range(count)]
        lines = [_shown(people[p], pets, may[p]) for p in range(count)]
        for _ in range(count * count):
            sure = {next(iter(few)): p for p, few in enumerate(may) if len(few) == 1}
            places = {pet: [p for p in range(count) if pet in may[p]] for pet in range(count)}
            for p in range(count):
                only = [pet for pet in sorted(may[p]) if len(places[pet]) == 1]
                after = {only[0]} if only else {pet for pet in may[p] if sure.get(pet, p) == p}
                if after != may[p]:
                    may[p] = after
                    lines.append(_shown(people[p], pets, after))
                    break
            else:
                break
        return "\n".join(lines), pets[left[asked]]

    def near(self, answer: str) -> list[str]:
        """The other pets, and two at once."""
        others = [pet for pet in PETS if pet != answer]
        return [*others, f"{answer} {others[0]}"]


def _holds(one: tuple[int, ...], hint: Hint) -> bool:
    return (one[hint[0]] == hint[2]) == hint[1]


def _may(person: int, pet: int, hint: Hint) -> bool:
    who, has, which = hint
    if has:
        return (person == who) == (pet == which)
    return not (person == who and pet == which)


def _shown(person: str, pets: Names, may: set[int]) -> str:
    return f"{person}: {' '.join(pets[pet] for pet in sorted(may))}"
