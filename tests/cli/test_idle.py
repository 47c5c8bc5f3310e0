"""While the user types, the model prepares the next turn; when he has typed, it stops."""

import threading
import time

import pytest

from octavo.cli.chat import talk
from octavo.cli.idle import idling
from octavo.cli.keys import LineReader
from octavo.cli.screen import PlainScreen
from octavo.core.chat import ScriptedChat
from octavo.core.messages import Message


class Busybody(ScriptedChat):
    """Has `left` things to do while it is idle."""

    def __init__(self, left: int, *, error: Exception | None = None) -> None:
        super().__init__([])
        self.left, self.error, self.where = left, error, set[str]()

    def idle(self) -> bool:
        self.where.add(threading.current_thread().name)
        if self.error:
            raise self.error
        time.sleep(0.001)
        self.left -= 1
        return self.left > 0


def test_all_is_done_meanwhile_and_not_in_the_users_thread():
    chat, before = Busybody(5), threading.active_count()
    with idling(chat):
        while chat.left:
            time.sleep(0.001)
    assert threading.current_thread().name not in chat.where and threading.active_count() == before


def test_it_stops_where_the_user_has_typed():
    chat, before = Busybody(10**9), threading.active_count()
    with pytest.raises(KeyboardInterrupt), idling(chat):
        raise KeyboardInterrupt
    left = chat.left
    time.sleep(0.01)
    assert chat.left == left and threading.active_count() == before


def test_what_goes_wrong_is_not_hidden():
    with pytest.raises(ZeroDivisionError), idling(Busybody(1, error=ZeroDivisionError())):
        pass


def test_a_chat_elsewhere_does_nothing():
    before = threading.active_count()
    with idling(ScriptedChat([])):
        assert threading.active_count() == before


def test_a_conversation_idles_while_it_waits_for_what_is_typed(capsys: pytest.CaptureFixture[str]):
    chat = Busybody(9)
    chat.script = [Message(role="assistant", content="one")]

    class Slow(LineReader):
        def read(self, offered: str = "") -> str | None:
            time.sleep(0.05)
            return super().read(offered)

    assert talk(chat, screen=PlainScreen(), reader=Slow(["first"])) == 0
    assert chat.left <= 0 and "one" in capsys.readouterr().out
