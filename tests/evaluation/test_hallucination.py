import pytest

from preceptor.errors import UserError
from preceptor.evaluation import hallucination
from preceptor.evaluation.classifier import EntailmentFolder
from preceptor.evaluation.hallucination import Answered, supported_share


def values(figures):
    return {figure.metric: figure.interval.value for figure in figures}


@pytest.mark.parametrize(
    ("answer", "made_up"),
    [
        ("It was built in 1889.", []),
        ("It was built in 1887 by Eiffel.", ["1887"]),
        ("It cost 1,000,000 francs", ["1,000,000"]),
        ("The tower was designed by Sauvestre.", ["Sauvestre"]),
        ("Paris has it. Visitors like it.", []),
        ("Gustave", []),
        ("about 300 metres", []),
    ],
)
def test_unsupported(answer, made_up):
    passage = "The tower of Gustave Eiffel in Paris was built in 1889 and is 300 metres high."
    assert hallucination.unsupported(passage, answer) == made_up


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("built in 1889", 1.0),
        ("Built, in 1889!", 1.0),
        ("It was built in 1889", 4 / 5),
        ("1889", 1.0),  # one word that is the whole answer
        ("the high Paris", 0.0),  # single words, in no run
        ("in Paris was high is 300 metres", 6 / 7),
        ("made of cheese", 0.0),
        ("", None),
    ],
)
def test_words_in_copied_spans_by_hand(answer, share):
    passage = "The tower of Gustave Eiffel in Paris was built in 1889 and is 300 metres high."
    assert supported_share(passage, answer) == (None if share is None else pytest.approx(share))


class Believes:
    name, version, hash = "believes", "1", "0" * 64

    def entailed(self, passages, answers):
        return [None if "?" in answer else float("1889" in answer) for answer in answers]


ANSWERS = [
    Answered(prompt="Title: Tower. In 1889 it opened.", passage=passage, text=text, answerable=answerable)
    for passage, text, answerable in (
        ("In 1889 it opened.", "In 1889.", True),
        ("In 1889 it opened.", "In 1890.", True),
        ("Nothing here.", "Not in background.", False),
        ("Nothing here.", "In 1700 or 1889?", False),
    )
]


def test_figures_by_hand():
    found = hallucination.figures(ANSWERS, Believes())
    assert values(found) == {
        "unsupported claim": pytest.approx(2 / 3),
        "words in spans of the passage": pytest.approx(1 / 3),
        "answer is one span of the passage": pytest.approx(1 / 3),
        "not entailed by the passage": 0.5,
        "answered the unanswerable": 0.5,
    }
    entailed = found[3]
    assert (entailed.interval.n, entailed.missing) == (2, 1)
    assert entailed.note == "believes 1, 000000000000"
    assert "not entailed by the passage" not in values(hallucination.figures(ANSWERS))


def entailment_model(folder, labels=("contradiction", "neutral", "entailment")):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "rain": 2, "sun": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=16, id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)}, initializer_range=2.0,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_an_entailment_model_in_a_folder(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    scorer = EntailmentFolder(entailment_model(tmp_path / "nli"))
    assert scorer.version == "nli, label entailment"
    assert len(scorer.hash) == 64
    one, two, both = scorer.entailed(["rain rain", "rain rain", "rain rain"], ["rain.", "sun sun.", "rain. sun sun."])
    assert 0 < one < 1
    assert one != two
    assert both == pytest.approx(min(one, two))  # an answer is as good as its worst sentence
    # The claim alone is longer than the 16 places: the model fails, and the score is missing, not 0.
    assert scorer.entailed(["rain"], ["sun " * 40]) == [None]
    assert len(scorer.failed) == 1
    assert scorer.entailed(["rain"], [""]) == [None]
    with pytest.raises(UserError, match="has labels entailment and contradiction"):
        EntailmentFolder(entailment_model(tmp_path / "other", ("good", "bad")))
