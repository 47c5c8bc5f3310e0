"""Law: whatever the cuts, the pieces joined equal all bytes decoded at once, and no character is ever split."""

import random

from hypothesis import given
from hypothesis import strategies as st

from octavo.text.detokenizer import Detokenizer, Utf8Decoder

TEXTS = (
    "The quick brown fox, naïve café",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 thumb, 🇯🇵",
    "杭州西湖の天気は晴れ、気温は二十一度。한국어도",
    "مرحبا بالعالم، كيف حالك؟",
    "नमस्ते दुनिया, क्षत्रिय ज़िंदगी",
    "e\u0301 ȩ́ 𝔘𝔫𝔦 \x00\x7f\u2028\ufffd\U0010ffff",
)


def pushed(data: list[bytes]) -> str:
    decoder = Utf8Decoder()
    return "".join(decoder.push(piece) for piece in data) + decoder.finish()


def cut(data: bytes, random_: random.Random) -> list[bytes]:
    at = sorted(random_.choices(range(len(data) + 1), k=random_.randint(0, 12)))
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


def test_ten_thousand_random_cuts_change_nothing():
    random_ = random.Random(1)
    for _ in range(10_000):
        text = "".join(random_.choices(TEXTS, k=random_.randint(1, 3)))
        assert pushed(cut(text.encode(), random_)) == text


def test_ten_thousand_broken_texts_decode_as_python_decodes_the_whole():
    random_ = random.Random(2)
    nasty = [b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xff", b"\xe2\x82", b"\x80", b"\xf5"]
    for _ in range(10_000):
        data = bytearray(random_.choice(TEXTS).encode())
        for _ in range(random_.randint(1, 6)):
            at = random_.randrange(len(data))
            data[at : at + random_.randint(0, 3)] = random_.choice([*nasty, random_.randbytes(random_.randint(1, 4))])
        assert pushed(cut(bytes(data), random_)) == bytes(data).decode("utf-8", "replace")


@given(st.lists(st.binary(max_size=6), max_size=20))
def test_any_bytes_in_any_pieces(pieces: list[bytes]):
    assert pushed(pieces) == b"".join(pieces).decode("utf-8", "replace")


@given(st.text(max_size=40))
def test_no_character_comes_before_its_last_byte_nor_after_it(text: str):
    decoder, seen = Utf8Decoder(), ""
    for char in text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"):
        data = char.encode()
        assert [decoder.push(data[i : i + 1]) for i in range(len(data))] == [""] * (len(data) - 1) + [char]
        seen += char
    assert decoder.finish() == ""


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=10), st.data())
def test_a_clone_goes_on_as_the_original_would_and_leaves_it_alone(pieces: list[bytes], data: st.DataObject):
    at = data.draw(st.integers(0, len(pieces)))
    detokenizer = Detokenizer(pieces.__getitem__)
    head = "".join(detokenizer.push(i) for i in range(at))
    clone = detokenizer.clone()
    detokenizer.push(0)  # must not reach the clone
    assert head + "".join(clone.push(i) for i in range(at, len(pieces))) + clone.finish() == pushed(pieces)


def test_finish_gives_the_replacement_for_a_cut_character_once_and_then_nothing():
    detokenizer = Detokenizer([b"a", "€".encode()[:2]].__getitem__)
    assert [detokenizer.push(0), detokenizer.push(1), detokenizer.finish(), detokenizer.finish()] == ["a", "", "�", ""]
    assert detokenizer.push(0) == "a"


def test_skipped_tokens_do_not_break_the_character_around_them():
    euro = "€".encode()
    detokenizer = Detokenizer([euro[:2], b"<control>", euro[2:]].__getitem__, skip=frozenset({1}))
    assert [detokenizer.push(i) for i in range(3)] == ["", "", "€"]
