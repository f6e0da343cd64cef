import pytest
from ifeval_labels import LABELS

from preceptor.errors import UserError
from preceptor.evaluation import ifeval
from preceptor.evaluation.language import language_of

CASES = [
    pytest.param(kind, arguments, answer, wanted, id=f"{kind}-{'follows' if wanted else 'misses'}-{number}")
    for kind, (arguments, *answers) in LABELS.items()
    for wanted, group in zip((True, False), answers)
    for number, answer in enumerate(group)
]


def test_ten_labels_for_each_of_the_25_types():
    assert set(LABELS) == set(ifeval.CHECKS)
    assert len(LABELS) == 25
    for _, good, near in LABELS.values():
        assert len(good) >= 5
        assert len(near) >= 5


@pytest.mark.parametrize(("kind", "arguments", "answer", "wanted"), CASES)
def test_checker_agrees_with_the_label(kind, arguments, answer, wanted):
    assert ifeval.follows(answer, kind, arguments) is wanted


def test_the_other_relation_is_the_opposite():
    for kind, name in (
        ("length_constraints:number_words", "relation"),
        ("length_constraints:number_sentences", "relation"),
        ("keywords:frequency", "relation"),
        ("keywords:letter_frequency", "let_relation"),
        ("change_case:capital_word_frequency", "capital_relation"),
    ):
        arguments, good, near = LABELS[kind]
        other = "less than" if arguments[name] == "at least" else "at least"
        for answer in good + near:
            swapped = ifeval.follows(answer, kind, {**arguments, name: other})
            assert swapped is not ifeval.follows(answer, kind, arguments)
    with pytest.raises(ValueError, match="at most"):
        ifeval.number_words("a", 1, "at most")


def test_an_empty_answer_follows_nothing():
    assert not ifeval.follows("  \n", "punctuation:no_comma", {})
    assert not ifeval.follows("", "punctuation:no_comma", {}, loose=True)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("punctuation:no_comma", "Sure, here it is:\nNo such mark."),
        ("punctuation:no_comma", "No such mark.\nBye, friend."),
        ("punctuation:no_comma", "Sure, here:\nNo such mark.\nBye, friend."),
        ("startend:quotation", '**"All of it."**'),
        ("detectable_format:json_format", 'Here you are:\n{"a": 1}'),
    ],
)
def test_loose_forgives_wrapping(kind, answer):
    assert not ifeval.follows(answer, kind, {})
    assert ifeval.follows(answer, kind, {}, loose=True)


def test_loose_does_not_forgive_the_middle():
    assert not ifeval.follows("a\nb, c\nd", "punctuation:no_comma", {}, loose=True)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("en", "This is the house that they built for you."),
        ("de", "Das ist ein Haus und wir sind nicht da."),
        ("fr", "Je ne sais pas où est la maison des enfants."),
        ("es", "No sé dónde está la casa de los niños."),
        ("it", "Non so dove è la casa dei bambini, ma è bella."),
        ("pt", "Não sei onde está a casa das crianças."),
        ("fi", "En tiedä, mutta se on hyvä ja minä olen täällä."),
        ("sw", "Hii ni nyumba ya watoto na wazazi wao kwa sasa."),
        ("vi", "Đây là một ngôi nhà của tôi và bạn."),
        ("ru", "Я не знаю, где он, но это хорошо."),
        ("bg", "Аз не знам къде е, но това е добре и ще се видим."),
        ("ar", "هذا هو البيت الذي كان في المدينة"),
        ("fa", "این کتاب را از آن شهر آورده است و خوب است"),
        ("ur", "یہ کتاب بہت اچھی ہے اور میں اس کو پڑھتا ہوں"),
        ("mr", "हे पुस्तक चांगले आहे आणि मी ते वाचतो"),
        ("ne", "यो किताब राम्रो छ र म यो पढ्छु"),
        ("ko", "이 책은 아주 좋습니다"),
        ("th", "หนังสือเล่มนี้ดีมาก"),
        ("kn", "ಈ ಪುಸ್ತಕ ಚೆನ್ನಾಗಿದೆ"),
        ("gu", "આ પુસ્તક સારું છે"),
        ("pa", "ਇਹ ਕਿਤਾਬ ਚੰਗੀ ਹੈ"),
        ("te", "ఈ పుస్తకం బాగుంది"),
        ("ta", "இந்த புத்தகம் நல்லது"),
        ("bn", "এই বইটি ভালো"),
        ("ja", "この本はとても良いです。東京都"),
        ("zh", "这本书非常好"),
        (None, "12345 !!!"),
        (None, "xyzzy plugh"),
    ],
)
def test_language(code, text):
    assert language_of(text) == code


def test_every_type_of_the_released_file_is_read(shared_data):
    items = ifeval.read(shared_data / "ifeval" / "input_data.jsonl.gz")
    assert len(items) == 541
    kinds = {kind for item in items for kind, _ in item.instructions}
    assert kinds == set(ifeval.CHECKS)
    for item in items:
        for kind, arguments in item.instructions:
            ifeval.follows("An answer, of sorts.", kind, arguments, loose=True)


def test_unknown_type_names_the_row(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"key": 1, "prompt": "p", "instruction_id_list": ["a:b"], "kwargs": [{}]}\n')
    with pytest.raises(UserError, match=r"x\.jsonl: row 1: .*'a:b'"):
        ifeval.read(path)
