"""What models are called: as the user says, each by a name of its own."""

import pytest

from octavo.cli.serve import named
from octavo.core.errors import ConfigError
from octavo.serve.link import Open
from octavo.serve.models import Models


def openings(*words: str) -> list[Open]:
    return [Open(source, name) for name, source in map(named, words)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["runs/a/model", "runs/b/model"], "two models are called 'model': write NAME= before one.*runs/b/model"),
        (["a=X", "b=Y", "a=Z"], "two models are called 'a'"),
        (["http://h:1/#m", "m"], "two models are called 'm'"),
        (["=octavo-mini"], "no name.*mine=octavo-mini"),
        (["/"], "no name"),
        ([""], "no source"),
        (["a="], "no source"),
        (["a=\udcff"], "not UTF-8"),
        (["\udcff"], "not UTF-8"),
    ],
)
def test_models_that_cannot_be_told_apart_are_refused(words: list[str], says: str):
    with pytest.raises(ConfigError, match=says):
        Models(openings(*words))


def test_each_model_is_served_by_its_name():
    models = Models(openings("runs/a/model", "b=runs/b/model", "http://h:1/#far"))
    assert list(models.all) == ["model", "b", "far"] and models.find("").name == "model"
