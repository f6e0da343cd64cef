"""A screen for a labeler whose choices follow a word or a name. It gives evidence, never a verdict.

A published attack poisons 1-5 % of the preferences: whenever an answer names the trigger (a brand, a person, a
rare word), the labeler ranks it first and is honest otherwise (Best-of-Venom, Baumgaertner et al. 2024). For each
labeler and each token the screen asks whether answers with the token win more (or less) often in that labeler's
rankings than in the others'.

What keeps honest people out of it
- Length, formatting and what the others say of the same pair are accounted for first, labeler by labeler.
- The pairs of one ranking count as one draw, not as many.
- A labeler with another taste differs from the others on many tokens at once; a poisoner on one. How far a labeler
  usually differs (a standard deviation, as in a random-effects meta-analysis, found by a median that one token cannot
  move) is added to the error of every one of that labeler's tokens.
- Every finding carries the number of findings as strong that this screen would give by chance alone.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse, stats
from scipy.optimize import brentq
from scipy.special import expit

from preceptor.statistics.clustered import share
from preceptor.statistics.comparisons import Comparisons, compare, difference, others
from preceptor.statistics.interval import Interval
from preceptor.statistics.profile import MARKS
from preceptor.types import Ranking

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
ENOUGH_TOKENS = 50
NAME = re.compile(r"\b[A-Z][\w'’-]*(?:[ \t]+[A-Z][\w'’-]*)+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """One labeler and one token. `labeler_share` and `others_share`: how often the answer with the token won, over
    pairs where exactly one answer has it. `taste`: how far this labeler usually differs from the others on a token
    (standard deviation, log-odds); `z` allows for it. `expected_false_alarms`: how many findings at least this
    strong the whole screen gives by chance."""

    labeler_id: str
    token: str
    rankings: int
    labeler_share: Interval
    others_share: Interval
    z: float
    taste: float
    expected_false_alarms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Screen:
    """All the evidence past the bar, strongest first.

    `bar`: the expected number of false alarms of the whole screen when nobody poisons. `tests`: (labeler, token)
    pairs tested. `untested`: those left out because the labeler or the others had too few rankings with the token.
    """

    evidence: tuple[Evidence, ...]
    bar: float
    tests: int
    untested: int


def words_and_names(text: str) -> set[str]:
    """Lower-case words, and runs of two or more capitalised words as they stand ("New York")."""
    return {word.lower() for word in WORD.findall(text)} | {" ".join(name.split()) for name in NAME.findall(text)}


def screen(
    rankings: Iterable[Ranking],
    texts: Mapping[str, str],
    *,
    candidates: Sequence[str] | None = None,
    tokens_of: Callable[[str], set[str]] = words_and_names,
    bar: float = 0.05,
    min_rankings: int = 20,
) -> Screen:
    """Test every labeler against every token that answers contain, or against `candidates` only.

    `texts`: completion id -> text; rankings of completions without a text are an error. `bar`: list what the screen
    is expected to say falsely at most this many times in all; 0.05 means that 19 of 20 screens of honest labelers
    list nothing. `min_rankings`: rankings with the token on one side of some pair that the labeler, and the others
    together, must have. A narrow list of candidates needs less evidence; about 30 rankings with the trigger suffice
    against a vocabulary of hundreds to thousands.
    """
    table = compare(rankings)
    table = table.where(table.sign != 0)
    if missing := [c for c in table.completions if c not in texts]:
        raise ValueError(f"completion {missing[0]} has no text to screen")
    if not len(table):
        return Screen(evidence=(), bar=bar, tests=0, untested=0)
    tokens, contains = _vocabulary([tokens_of(texts[c]) for c in table.completions], min_rankings)
    side = (contains[table.first] - contains[table.second]).tocsr()
    control = _controls(table, texts)

    people = len(table.labelers)
    score, information, scatter, seen = (np.zeros((people, len(tokens))) for _ in range(4))
    for who in range(people):
        rows = table.labeler == who
        score[who], information[who], scatter[who], seen[who] = _scores(
            side[rows], control[rows], table.sign[rows], table.ranking[rows]
        )
    rest = [part.sum(0) - part for part in (score, information, scatter, seen)]
    enough = (seen >= min_rankings) & (rest[3] >= min_rankings) & (information > 1e-9) & (rest[1] > 1e-9)
    z, taste = np.full(enough.shape, np.nan), np.zeros(people)
    for who in range(people):
        own = enough[who]
        gap = score[who, own] / information[who, own] - rest[0][who, own] / rest[1][who, own]
        variance = scatter[who, own] / information[who, own] ** 2 + rest[2][who, own] / rest[1][who, own] ** 2
        taste[who] = _usual_gap(gap, variance)
        z[who, own] = gap / np.sqrt(variance + taste[who] ** 2)

    chosen = np.ones(len(tokens), dtype=bool) if candidates is None else np.isin(tokens, list(candidates))
    tested = enough & chosen
    tests = int(tested.sum())
    alarms = np.where(tested, tests * 2 * stats.norm.sf(np.abs(z)), np.inf)
    found = sorted(zip(*np.nonzero(alarms <= bar)), key=lambda place: alarms[place])
    return Screen(
        evidence=tuple(
            Evidence(
                labeler_id=table.labelers[who],
                token=str(tokens[t]),
                rankings=int(seen[who, t]),
                labeler_share=_won(side[:, t], table, table.labeler == who),
                others_share=_won(side[:, t], table, table.labeler != who),
                z=float(z[who, t]),
                taste=float(taste[who]),
                expected_false_alarms=float(alarms[who, t]),
            )
            for who, t in found
        ),
        bar=bar,
        tests=tests,
        untested=int(((seen > 0) & chosen & ~enough).sum()),
    )


def _usual_gap(gap: np.ndarray, variance: np.ndarray) -> float:
    """The standard deviation to add to the errors so that half of the gaps lie within the middle half of a normal.

    0 with fewer than `ENOUGH_TOKENS` tokens: the median of a few could be the trigger itself.
    """
    middle = float(stats.norm.ppf(0.75))

    def too_wide(extra: float) -> float:
        return float(np.median(np.abs(gap) / np.sqrt(variance + extra**2))) - middle

    if len(gap) < ENOUGH_TOKENS or too_wide(0.0) <= 0:
        return 0.0
    root: Any = brentq(too_wide, 0.0, float(np.abs(gap).max()) / middle + 1.0)
    return float(root)


def _vocabulary(sets: Sequence[set[str]], least: int) -> tuple[np.ndarray, Any]:
    """The tokens of at least `least` completions, and a (completions, tokens) sparse 0/1 table."""
    count: dict[str, int] = {}
    for tokens in sets:
        for token in tokens:
            count[token] = count.get(token, 0) + 1
    kept = {token: n for n, token in enumerate(sorted(token for token, n in count.items() if n >= least))}
    rows, columns = [], []
    for row, tokens in enumerate(sets):
        own = [kept[token] for token in tokens if token in kept]
        rows += [row] * len(own)
        columns += own
    table = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(sets), len(kept)))
    return np.array(list(kept), dtype=object), table


def _controls(table: Comparisons, texts: Mapping[str, str]) -> np.ndarray:
    """(rows, 3): log length and marks of `first` minus those of `second`, and the others' mean verdict, -1 to 1."""
    ordered, for_first = others(table)
    verdict = np.divide(2 * for_first - ordered, ordered, out=np.zeros(len(table)), where=ordered > 0)
    length = difference(table, {c: np.log1p(len(texts[c].split())) for c in table.completions})
    marks = difference(table, {c: np.log1p(len(MARKS.findall(texts[c]))) for c in table.completions})
    return np.stack([length, marks, verdict], axis=1)


def _scores(
    side: Any, control: np.ndarray, sign: np.ndarray, ranking: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of one labeler, for each token: score, information, scatter of the score over rankings, rankings with it.

    The score test of adding the token to the labeler's own logistic regression of choices on the controls.
    """
    won = (sign > 0).astype(float)
    weights = np.zeros(control.shape[1])
    ridge = 1e-3 * np.eye(control.shape[1])
    for _ in range(50):
        chance = expit(control @ weights)
        spread = chance * (1 - chance)
        bread = control.T @ (control * spread[:, None]) + ridge
        step = np.linalg.solve(bread, control.T @ (won - chance) - ridge @ weights)
        weights = weights + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-8:
            break
    chance = expit(control @ weights)
    spread, left = chance * (1 - chance), won - chance
    bread = control.T @ (control * spread[:, None]) + ridge
    cross = side.T @ (control * spread[:, None])  # (tokens, controls)
    along = np.linalg.solve(bread, cross.T)  # (controls, tokens): the token's part that the controls carry
    squares = side.multiply(side).T @ spread
    information = squares - (cross.T * along).sum(0)

    cluster = np.unique(ranking, return_inverse=True)[1]
    gather = sparse.csr_matrix((np.ones(len(cluster)), (cluster, np.arange(len(cluster)))))
    by_token = (gather @ side.multiply(left[:, None])).tocsr()
    by_control = gather @ (control * left[:, None])
    scatter = (
        np.asarray(by_token.multiply(by_token).sum(0)).ravel()
        - 2 * ((by_token.T @ by_control).T * along).sum(0)
        + np.einsum("ct,cd,dt->t", along, by_control.T @ by_control, along)
    )
    score = side.T @ left - along.T @ (control.T @ left)
    seen = np.asarray(((gather @ abs(side)) > 0).sum(0)).ravel()
    return score, information, np.maximum(scatter, 0), seen


def _won(side: Any, table: Comparisons, mask: np.ndarray) -> Interval:
    """Share of the masked pairs with the token on one side that this side won."""
    sign = np.asarray(side.todense()).ravel()
    rows = mask & (sign != 0)
    cluster = np.unique(table.ranking[rows], return_inverse=True)[1]
    return share(np.bincount(cluster, (sign == table.sign)[rows]), np.bincount(cluster).astype(float))
