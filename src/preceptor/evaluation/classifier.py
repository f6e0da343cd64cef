"""A Hugging Face text classifier in a local folder: a scorer of texts (toxicity) or of pairs of texts (entailment)."""

import re
from collections.abc import Sequence
from pathlib import Path

from preceptor.errors import UserError, need_extra
from preceptor.evaluation.reading import files_hash, read_json


class ClassifierFolder:
    """`label` is the one whose probability is the score.

    Loads torch and transformers when made. A text that makes the model fail is missing, and the reason is kept in
    `failed`. Weights must be safetensors: nothing else is loaded.
    """

    name = "classifier folder"

    def __init__(self, folder: Path, label: str) -> None:
        try:
            import transformers
        except ImportError:
            raise need_extra("transformers", "train") from None
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise UserError(f"{folder}: holds no .safetensors file")
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._model = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, **local
            ).eval()
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        except Exception as error:  # whatever the library makes of files that are not what their names say
            from preceptor.models.load import reason

            raise UserError(f"{folder}: cannot load the classifier: {reason(error)}") from error
        labels = {name.lower(): place for place, name in self._model.config.id2label.items()}
        if label.lower() not in labels:
            raise UserError(f"{folder}: has no label {label!r}; it has {', '.join(labels)}")
        self._place = labels[label.lower()]
        self.labels = tuple(labels)
        self.version = f"{folder.name}, label {label}"
        self.hash = files_hash(weights)
        self.failed: list[str] = []

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """Probability of the label, 0 to 1, for each text."""
        return [self._one(text) for text in texts]

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """The same for two texts that the model reads together; only the first is cut where both are too long."""
        return [self._one(first, second) for first, second in pairs]

    def _one(self, *texts: str) -> float | None:
        import torch

        try:
            row = self._tokenizer(*texts, return_tensors="pt", truncation="only_first")
            with torch.no_grad():
                logits = self._model(**row).logits[0].float()
        except (RuntimeError, ValueError, IndexError) as error:
            self.failed.append(str(error))
            return None
        several = self._model.config.problem_type == "multi_label_classification" or len(logits) == 1
        chance = torch.sigmoid(logits) if several else torch.softmax(logits, -1)
        value = float(chance[self._place])
        return None if value != value else value


class EntailmentFolder:
    """A natural-language-inference model in a local folder: does a passage entail what an answer says?

    Its labels must hold one that begins with "entail" and one that begins with "contradict".
    """

    name = "entailment folder"

    def __init__(self, folder: Path) -> None:
        self._classifier = ClassifierFolder(folder, _entailing(folder))
        self.version, self.hash = self._classifier.version, self._classifier.hash

    @property
    def failed(self) -> list[str]:
        return self._classifier.failed

    def entailed(self, passages: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """Probability that the passage entails the answer: that of its least supported sentence. None when a sentence
        could not be scored."""
        claims = [[part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part] for text in answers]
        pairs = [(passage, claim) for passage, some in zip(passages, claims, strict=True) for claim in some]
        scores = iter(self._classifier.score_pairs(pairs))
        rows = [[next(scores) for _ in some] for some in claims]
        return [None if not row or None in row else min(row) for row in rows]  # type: ignore[type-var]


def _entailing(folder: Path) -> str:
    named = read_json(folder / "config.json").get("id2label", {})
    labels = [label for label in named.values() if label.lower().startswith("entail")]
    if len(labels) != 1 or not any(label.lower().startswith("contradict") for label in named.values()):
        raise UserError(f"{folder}: an entailment model has labels entailment and contradiction; it has {named}")
    return labels[0]
