"""Personal data that has no pattern, names and places above all, found by Presidio: the one door to that library."""

from collections.abc import Callable
from pathlib import Path

from preceptor.errors import UserError, need_extra
from preceptor.intake.pii import Finding

# Presidio's names of what is looked for. Dates, web addresses and organisations are left in: they are seldom personal.
ENTITIES = (
    "PERSON",
    "LOCATION",
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "IBAN_CODE",
    "CRYPTO",
    "MEDICAL_LICENSE",
)
LEAST_SCORE = 0.4  # Presidio's own default for what is worth a look is 0; names of spaCy's models have 0.85
LANGUAGE = "en"

Finder = Callable[[str], list[Finding]]


def presidio_finder(model: str) -> Finder:
    """A finder of names and more in English text, with the spaCy model `model` (a package's name or a folder).

    Nothing is fetched from a network. Raises UserError where Presidio or the model is not installed.
    """
    try:
        import spacy.util  # pyright: ignore[reportMissingImports]
        from presidio_analyzer import AnalyzerEngine  # pyright: ignore[reportMissingImports]
        from presidio_analyzer.nlp_engine import SpacyNlpEngine  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise need_extra("Presidio", "presidio") from error
    if not (spacy.util.is_package(model) or Path(model).is_dir()):
        raise UserError(
            f"presidio = {model!r}: there is no such spaCy model here; run: python -m spacy download {model}"
        )
    engine = SpacyNlpEngine(models=[{"lang_code": LANGUAGE, "model_name": model}])
    analyzer = AnalyzerEngine(nlp_engine=engine, supported_languages=[LANGUAGE])
    known = [name for name in ENTITIES if name in analyzer.get_supported_entities(LANGUAGE)]

    def find(text: str) -> list[Finding]:
        results = analyzer.analyze(text, LANGUAGE, entities=known, score_threshold=LEAST_SCORE)
        return [Finding(result.entity_type.lower().replace("_", "-"), result.start, result.end) for result in results]

    return find
