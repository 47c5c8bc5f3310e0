"""IFEval's instructions: of each kind, texts that keep to it and texts that do not; and the task on its data."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.core.errors import TaskError
from octavo.core.messages import Message
from octavo.tasks.ifeval import IFEval
from octavo.tasks.verify.formats import CHECKS, follows, language, loosely, sentences, words
from tests.tasks.data import DATA, needs

PAIRS = {  # kind -> arguments, texts that keep to it, texts that do not
    "keywords:existence": ({"keywords": ["Sun", "red (ish)"]}, ["a SUN, red (ish)"], ["sun", "red ish sun"]),
    "keywords:frequency": (
        {"keyword": "war", "relation": "at least", "frequency": 2},
        ["war, wars", "War war war"],
        ["war", "peace"],
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["rock", "a.b"]}, ["rocks", "axb"], ["no ROCK", "(a.b)"]),
    "keywords:letter_frequency": (
        {"letter": "#", "let_relation": "less than", "let_frequency": 2},
        ["# one", "none"],
        ["##", "# and #"],
    ),
    "language:response_language": (
        {"language": "de"},
        ["Das Wetter ist heute schön und wir gehen in den Garten.", "123"],
        ["The weather is nice today and we go into the garden."],
    ),
    "length_constraints:number_sentences": (
        {"relation": "less than", "num_sentences": 3},
        ["One. Two!", "Mr. Li met Dr. A. Wu. Fine"],
        ["All is. Said? Now go.", "No. He said no. Go.", "甲。乙！丙。"],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na *** b\n***"],
        ["a\n\nb", "a\n***\n\n***\nb", "a\n***\nb\n***\nc"],
    ),
    "length_constraints:number_words": (
        {"relation": "at least", "num_words": 4},
        ["it's one two", "a b c d"],
        ["a, b, c!", "one-two three"],
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "yes"},
        ["No.\n\nYes, it is.", 'x\n\n"yes"'],
        ["Yes\n\nno", "a\n\nb\n\nyes", "a\nyes", "a\n\nyesterday", "a\n\n..."],
    ),
    "detectable_content:number_placeholders": (
        {"num_placeholders": 2},
        ["[name] [place]"],
        ["[name]", "[name place", "(a) (b)"],
    ),
    "detectable_content:postscript": (
        {"postscript_marker": "P.S."},
        ["Bye\nP.S. call", "p. s. hi"],
        ["PS call", "P.S", "Q.S."],
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ["* a\n* b", "  - a\n- b"],
        ["* a", "* a\n* b\n* c", "a * b\n* c", "**a**\n**b**"],
    ),
    "detectable_format:constrained_response": (
        {},
        ["So: My answer is no."],
        ["my answer is no.", "My answer is no", "No."],
    ),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ["*a* and *b c*", "**a** *b*"],
        ["*a*", "* a\n* b", "** ** *a*", "*a\nb* c *d*"],
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb"],
        ["Section 1 a", "SECTION 1 SECTION 2"],
    ),
    "detectable_format:json_format": (
        {},
        ['{"a": [1]}', '```json\n{"a": 1}\n```', "```{}```"],
        ["{'a': 1}", 'here: {"a": 1}', '{"a": 1', "[" * 100_000],
    ),
    "detectable_format:title": ({}, ["<<A day>>\ntext"], ["<A day>", "<<>>", "<<a\nb>>", "<< >>"]),
    "combination:two_responses": (
        {},
        ["a\n******\nb", "******a******b******"],
        ["a", "a******a", "a******b******c", "a******  ******b", "a***b"],
    ),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": "Say hi, "},
        ["Say hi,\nhi", "say HI, ok"],
        ["hi", "Sure! Say hi, hi"],
    ),
    "startend:end_checker": (
        {"end_phrase": "Any more?"},
        ["ok. any more?", '"Ok. Any more?"'],
        ["Any more? No.", "more?"],
    ),
    "startend:quotation": ({}, ['"hi"', ' "a" b "c" '], ['"', '"hi', "'hi'", 'say "hi"']),
    "change_case:capital_word_frequency": (
        {"capital_relation": "at least", "capital_frequency": 2},
        ["NASA and ESA", "I am A"],
        ["NASA", "Nasa Esa", "NASA-ESA"],
    ),
    "change_case:english_capital": (
        {},
        ["THE WEATHER IS NICE TODAY AND WE GO OUT."],
        ["THE WEATHER IS NICE TODAY, we go.", "DAS WETTER IST HEUTE SCHÖN UND WARM."],
    ),
    "change_case:english_lowercase": (
        {},
        ["the weather is nice today and we go out."],
        ["The weather is nice today.", "das wetter ist heute schön und warm."],
    ),
    "punctuation:no_comma": ({}, ["a; b", "甲，乙"], ["a, b", "1,000"]),
}

IN = {
    "ar": "الطقس جميل اليوم وسنذهب إلى السوق مع أصدقائنا",
    "bg": "Днес времето е хубаво и ще отидем на пазара с нашите приятели",
    "bn": "আজ আবহাওয়া খুব ভালো এবং আমরা বাজারে যাব",
    "de": "Heute ist das Wetter schön und wir gehen mit Freunden auf den Markt",
    "fa": "امروز هوا خوب است و ما با دوستان خود به بازار می‌رویم",
    "fi": "Tänään on kaunis sää ja menemme ystävien kanssa torille",
    "gu": "આજે હવામાન સારું છે અને અમે બજારમાં જઈશું",
    "hi": "आज मौसम बहुत अच्छा है और हम दोस्तों के साथ बाज़ार जा रहे हैं",
    "it": "Oggi il tempo è bello e andiamo al mercato con i nostri amici",
    "kn": "ಇಂದು ಹವಾಮಾನ ಚೆನ್ನಾಗಿದೆ ಮತ್ತು ನಾವು ಮಾರುಕಟ್ಟೆಗೆ ಹೋಗುತ್ತೇವೆ",
    "ko": "오늘은 날씨가 좋아서 친구들과 시장에 갑니다",
    "mr": "आज हवामान खूप चांगले आहे आणि आम्ही मित्रांसोबत बाजारात जाणार आहोत",
    "ne": "आज मौसम राम्रो छ र हामी साथीहरूसँग बजार जान्छौं",
    "pa": "ਅੱਜ ਮੌਸਮ ਬਹੁਤ ਚੰਗਾ ਹੈ ਅਤੇ ਅਸੀਂ ਬਾਜ਼ਾਰ ਜਾਵਾਂਗੇ",
    "pt": "Hoje o tempo está bonito e nós vamos ao mercado com os nossos amigos",
    "ru": "Сегодня хорошая погода, и мы идём на рынок с друзьями",
    "sw": "Leo hali ya hewa ni nzuri na tutakwenda sokoni pamoja na marafiki zetu",
    "ta": "இன்று வானிலை நன்றாக உள்ளது நாங்கள் சந்தைக்கு செல்கிறோம்",
    "te": "ఈ రోజు వాతావరణం బాగుంది మేము మార్కెట్‌కి వెళ్తున్నాము",
    "th": "วันนี้อากาศดีและเราจะไปตลาดกับเพื่อน",
    "ur": "آج موسم بہت اچھا ہے اور ہم دوستوں کے ساتھ بازار جا رہے ہیں",
    "vi": "Hôm nay thời tiết đẹp và chúng tôi đi chợ với bạn bè",
}


def test_there_are_pairs_for_every_kind():
    assert PAIRS.keys() == CHECKS.keys() and len(CHECKS) == 25


@pytest.mark.parametrize("kind", PAIRS)
def test_each_kind_is_checked(kind):
    given, keep, broken = PAIRS[kind]
    assert [text for text in keep if not follows(text, kind, given)] == []
    assert [text for text in ["", " \n", *broken] if follows(text, kind, given)] == []


@pytest.mark.parametrize("code", IN)
def test_the_languages_of_the_data_are_told(code):
    assert language(IN[code]) == code


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("Hi", 1),
        ("Hi...", 1),
        ("3.14 is pi. Yes!", 2),
        ('He said "no." Then left.', 2),
        ("Come at 5 p.m. to J. Li, e.g. today.", 1),
        ("甲。乙！", 2),
        ("!!! ???", 0),
    ],
)
def test_sentences_are_counted(text, count):
    assert sentences(text) == count


def test_both_relations_and_no_other():
    for relation, good in (("at least", ["a b", "a b c"]), ("less than", ["a"])):
        given = {"relation": relation, "num_words": 2}
        assert [t for t in ("a", "a b", "a b c") if follows(t, "length_constraints:number_words", given)] == good
    with pytest.raises(TaskError, match="relation"):
        follows("a", "length_constraints:number_words", {"relation": "about", "num_words": 2})


def test_without_the_detector_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(TaskError, match=r"octavo\[ifeval\]"):
        language("hello")


def test_loosely_is_without_first_line_last_line_and_asterisks():
    assert set(loosely("Sure:\n*hi*\nBye")) == {
        "Sure:\n*hi*\nBye",
        "*hi*\nBye",
        "Sure:\n*hi*",
        "*hi*",
        "Sure:\nhi\nBye",
        "hi\nBye",
        "Sure:\nhi",
        "hi",
    }


@settings(max_examples=60)
@given(text=st.text(max_size=80) | st.text(alphabet='*-[]<>{}"\n .,`PS1', max_size=60))
def test_no_text_makes_a_check_fail(text):
    for kind, (arguments, _, _) in PAIRS.items():
        if "lang" not in kind and "english" not in kind:  # the detector is slow, and its errors are read
            assert follows(text, kind, arguments) in (True, False)
    assert words(text) >= 0 <= sentences(text)


@pytest.fixture(scope="module")
def task():
    return IFEval(DATA)


@pytest.fixture(scope="module")
def problems(task):
    return [task.problem(i, level=n) for n in (1, 2, 3) for i in range(task.count(level=n))]


@needs("ifeval")
def test_gold_replies_keep_all_and_spoilt_ones_do_not(task, problems):
    task.validate(count=600)
    assert len(problems) == 541
    empty = [problem for problem in problems if not problem.gold.text]
    foreign = [p for p in empty if any(each["kind"] == "language:response_language" for each in p.answer)]
    assert (len(foreign), len(empty)) == (30, 36)  # six more contradict themselves, as a prompt to repeat with commas


@needs("ifeval")
def test_strict_and_loose(task, problems):
    problem = next(p for p in problems if [each["kind"] for each in p.answer] == ["startend:quotation"])
    polite = Message(role="assistant", content='Sure, here it is:\n"As you like"')
    assert task.followed(problem, polite) == [False] and task.followed(problem, polite, loose=True) == [True]
    assert task.score(problem, polite).value == 0 and "quotation" in task.score(problem, polite).why
    for problem in problems:
        assert not any(task.followed(problem, Message(role="assistant"), loose=True))


@needs("ifeval")
def test_one_kept_of_two_is_counted_by_instruction_and_not_by_prompt(task, problems):
    kinds = {"punctuation:no_comma", "detectable_format:number_highlighted_sections"}
    problem = next(p for p in problems if {each["kind"] for each in p.answer} == kinds)
    reply = Message(role="assistant", content="*a*, " * 20)
    assert sorted(task.followed(problem, reply)) == [False, True]
    assert task.score(problem, reply).value == 0 and task.score(problem, reply).answer == "1 of 2"


def test_unknown_instructions_are_refused(tmp_path):
    (tmp_path / "ifeval").mkdir()
    row = '{"key": 1, "prompt": "?", "instruction_id_list": ["punctuation:no_dots"], "kwargs": [{}]}'
    (tmp_path / "ifeval" / "input_data.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(TaskError, match="no_dots"):
        IFEval(tmp_path).problem(0)
