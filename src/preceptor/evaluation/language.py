"""Which language a text is in: by its script, and where languages share one, by their commonest words.

Meant for answers of a sentence or more. It knows the languages below and says None to anything else, or when nothing
in the text decides; it never guesses from letter statistics.
"""

import re
import unicodedata
from collections import Counter

_ONE_LANGUAGE = {
    "KANNADA": "kn", "HANGUL": "ko", "GURMUKHI": "pa", "GUJARATI": "gu", "TELUGU": "te", "TAMIL": "ta", "THAI": "th",
    "BENGALI": "bn", "MALAYALAM": "ml", "GREEK": "el", "HEBREW": "he", "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh",
}  # fmt: skip

_COMMON_WORDS = {
    "LATIN": {
        "en": "the and of to is in that for it you with are this on be have not as was by from your or can will an my "
        "what how they he she we his her at but",
        "de": "der die das und ist nicht ein eine ich sie mit zu den von auf für es dem im sich auch wie wir werden",
        "fr": "le la les et est un une des que pour dans je vous il ne pas qui sur avec du au ce cette sont nous",
        "es": "el la los las y es un una que de en para por con no se su como pero más está del lo sus son al qué",
        "it": "il la che di e è un una per non con sono del della si le gli questo come mi anche nel ma dei "
        "sulla nella alla dalla dello perché cosa",
        "pt": "o a os as e é um uma que de em para por com não se do da no na seu sua mais como você são",
        "nl": "de het een en is van ik niet dat in op te met voor zijn je er maar aan ook hij zij wij naar",
        "fi": "ja on ei se että hän oli en mutta myös kun niin ovat tai jos mitä minä sinä tämä joka voi olla kuin",
        "sw": "na ya wa kwa ni katika za la kuwa hii hiyo cha au lakini sana yake wake kama yangu mimi wewe huo",
        "vi": "và là của có không một những được cho tôi trong người với các để đã này bạn như khi từ rất",
        "sv": "och att det är en ett som på för med av inte den jag har till om de vi var kan du",
        "pl": "i w na nie się jest to że z do jak ale o co tak po czy są być dla przez od",
        "tr": "ve bir bu için ile de da çok ne gibi daha olarak ama ben sen o var değil mi kadar en",
        "id": "yang dan di ini itu dengan untuk tidak dari dalam adalah saya akan pada juga ke karena bisa ada anda",
    },
    "CYRILLIC": {
        "ru": "и в не на что я он с как это по но из у за вы так же от для бы все она мы они есть был быть "
        "чем почему если когда где только",
        "bg": "и на да се за не от в са е че по това като със си ще или към когато който която съм много",
        "uk": "і в не на що я він з як це по але та у за ви так від для є ми вони бути також її",
    },
    "ARABIC": {
        "ar": "في من على إلى أن هذا التي الذي هو هي ما لا كان مع عن أو كل بعد قد لم يمكن هذه ذلك",
        "fa": "و در به از که این را با است برای آن یک می ها بود شد خود تا هم شما ما کرد اما های",
        "ur": "کے کی میں اور ہے سے کو کا پر یہ ہیں نے کہ ایک بھی نہیں اس تھا ہو کر وہ لئے گیا کیا",
    },
    "DEVANAGARI": {
        "hi": "है के में की और से को का हैं पर यह नहीं एक कि भी था हो कर ने वह लिए अपने मैं था तो",
        "mr": "आहे आणि या मध्ये च्या ते ही हे आहेत नाही एक तो की होते मी त्या असे साठी केले पण आपल्या करा तुम्ही",
        "ne": "छ र को मा छन् यो हो लाई पनि गर्न भएको एक तर छैन थियो म हामी गरेको यस हुन्छ तपाईं बाट लागि",
    },
}  # fmt: skip
_COMMON = {
    script: {code: set(words.split()) for code, words in tongues.items()} for script, tongues in _COMMON_WORDS.items()
}


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language most of `text` is in, or None."""
    counts = Counter(script for letter in text if letter.isalpha() and (script := _script(letter)))
    if not counts:
        return None
    if counts["HIRAGANA"] + counts["KATAKANA"] > 0.1 * sum(counts.values()):
        return "ja"  # Japanese is mostly written in the letters of Chinese, but never without some of its own
    script = counts.most_common(1)[0][0]
    if script in _ONE_LANGUAGE:
        return _ONE_LANGUAGE[script]
    # Combining marks belong to a word in the Indic scripts, so words are what lies between spaces and punctuation.
    words = re.findall(r"[^\s\d!-/:-@\[-`{-~।॥،؛؟“”«»…]+", text.lower())
    hits = {code: sum(word in common for word in words) for code, common in _COMMON.get(script, {}).items()}
    best = max(hits, key=hits.__getitem__, default=None)
    return best if best is not None and hits[best] > 0 else None


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").split(" ", 1)[0].split("-", 1)[0]
