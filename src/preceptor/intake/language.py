"""A guess at the language of a text from its script and its commonest words. Not a classifier: a note for people."""

import re
import unicodedata
from collections import Counter

_COMMON = {
    "en": "the of and to in is that for it was with as on you be are this have what how",
    "de": "der die und das ist nicht ich ein eine zu mit den auf für sich von wie auch dass was",
    "fr": "le la les des est et une que dans pour pas qui sur vous avec ce au je il plus",
    "es": "el la los que las una por con para es un del se como más pero está qué su lo",
    "it": "il che di la non per una sono con del come gli ho più della anche questo ma nel le",
    "pt": "que não uma os com para é um do da como mais você isso se em por são ao dos",
    "nl": "het een en van ik dat niet je zijn op te voor met die er maar ook aan hoe wat",
}
WORDS = {code: frozenset(words.split()) for code, words in _COMMON.items()}
SCRIPTS = {
    "CYRILLIC": "cyrillic",
    "GREEK": "el",
    "ARABIC": "arabic",
    "HEBREW": "he",
    "DEVANAGARI": "devanagari",
    "HANGUL": "ko",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "zh",
    "THAI": "th",
}
LOOK_AT = 2000  # characters


def guess_language(text: str) -> str | None:
    """A code such as "en", a script such as "cyrillic" where several languages share it, None where unsure.

    Another script decides by the majority of letters (with kana, Chinese signs count as Japanese). In Latin script
    the list of twenty common words that covers most of the text decides, if it covers a tenth and leads.
    """
    head = text[:LOOK_AT]
    letters = [letter for letter in head if letter.isalpha()]
    if not letters:
        return None
    scripts = Counter(unicodedata.name(letter, "?").split(" ")[0].split("-")[0] for letter in letters)
    foreign = Counter[str]()
    for script, count in scripts.items():
        if script in SCRIPTS:
            foreign[SCRIPTS[script]] += count
    if sum(foreign.values()) * 2 > len(letters):
        if foreign["ja"] * 10 > sum(foreign.values()):
            return "ja"
        return foreign.most_common(1)[0][0]
    words = re.findall(r"[^\W\d_]+", head.lower())
    ranked = sorted(((sum(word in known for word in words), code) for code, known in WORDS.items()), reverse=True)
    (best, code), (second, _) = ranked[0], ranked[1]
    return code if best >= 2 and best * 10 >= len(words) and best > second else None
