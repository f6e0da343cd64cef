"""`preceptor import`: files in, rows of the store out, and a report of what was taken, skipped and why.

Everything is read and checked before the database is touched; then one transaction adds it all. A structural fault
(a file that is damaged, a row that is not what its format says, an id used twice for different things) stops the
import and nothing is kept. A row with nothing to learn from is skipped and counted.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from preceptor.errors import UserError
from preceptor.intake.dedup import THRESHOLD, CommonPrefix, NearDuplicates
from preceptor.intake.disk import writing
from preceptor.intake.files import stem
from preceptor.intake.formats import Record, Skip
from preceptor.intake.language import guess_language
from preceptor.intake.pii import kinds
from preceptor.intake.progress import Watch, watch
from preceptor.intake.readers import check_map, named, read_records
from preceptor.intake.report import Report
from preceptor.intake.splits import CAP, SHARES, check_shares, split_of
from preceptor.intake.spool import Entry, Spool
from preceptor.store import Added, Workspace
from preceptor.store.set_aside import Held, hold
from preceptor.store.store import Connection
from preceptor.types import Completion, Demonstration, Labeler, Prompt, Ranking, Sampling, Source, Split

BATCH = 500
MAX_TOKENS = 1000  # of a prompt (paper, appendix A.2)
CHARACTERS_PER_TOKEN = 4  # of English text; intake has no tokenizer

Check = Callable[[Record, Prompt], str | None]  # the reason to skip a record, if there is one


class SetAside(str):
    """A reason to skip a prompt that a researcher may overrule; `kind` is one of `set_aside.REASONS`."""

    kind: str

    def __new__(cls, kind: str, text: str) -> "SetAside":
        made = super().__new__(cls, text)
        made.kind = kind
        return made


def import_prompts(
    workspace: Workspace,
    files: Sequence[Path | str],
    *,
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    user: str | None = None,
    source: Source = "customer",
    shares: Mapping[Split, float] = SHARES,
    max_tokens: int | None = MAX_TOKENS,
    cap: int | None = CAP,
    common_prefix: bool = True,
    near_duplicates: float | None = THRESHOLD,
    languages: Collection[str] = (),
    hold_personal_data: bool = False,
    progress: bool | None = None,
) -> Report:
    """Add the prompts of `files`; answers in them are left alone.

    `user` is the user of rows that name none. Skipped and counted: prompts that are empty, begin like another prompt
    or are near-duplicates (MinHash similarity). Set aside for a researcher to decide on: prompts longer than
    `max_tokens` (estimated at four characters a token), over the `cap` of their user, in a language (as guessed) that
    is not one of `languages`, and with `hold_personal_data` those in which `pii.find` finds something. None, or no
    language, switches a rule off. Raises UserError; then nothing was added.
    """
    check = _PromptRules(
        workspace, max_tokens, cap, common_prefix, near_duplicates, frozenset(languages), hold_personal_data
    )
    return _import(workspace, "prompts", files, format, map, user, source, shares, progress, check, _no_judgements)


def import_demonstrations(
    workspace: Workspace,
    files: Sequence[Path | str],
    *,
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    user: str | None = None,
    source: Source = "plain",
    shares: Mapping[Split, float] = SHARES,
    max_tokens: int | None = MAX_TOKENS,
    progress: bool | None = None,
) -> Report:
    """Add the demonstrations of `files` with their prompts and labelers.

    Where a file ranks several answers, the best one is the demonstration. A row without a labeler is by
    `imported:FILE`. Raises UserError; then nothing was added.
    """

    def check(record: Record, prompt: Prompt) -> str | None:
        if not record.answers:
            return "no answer"
        return _length(prompt, max_tokens) or (None if _best(record).strip() else "the answer is empty")

    return _import(
        workspace, "demonstrations", files, format, map, user, source, shares, progress, check, _demonstrations
    )


def import_rankings(
    workspace: Workspace,
    files: Sequence[Path | str],
    *,
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    user: str | None = None,
    source: Source = "customer",
    shares: Mapping[Split, float] = SHARES,
    max_tokens: int | None = MAX_TOKENS,
    progress: bool | None = None,
) -> Report:
    """Add the rankings of `files` with their prompts, answers and labelers.

    An answer without a model is by `imported`, a row without a labeler by `imported:FILE`. Raises UserError where
    no row ranks anything, or a row is wrong; then nothing was added.
    """

    def check(record: Record, prompt: Prompt) -> str | None:
        if record.ranks is None:
            return "no ranks"
        if len({answer.text for answer in record.answers}) == 1:
            return "all answers are the same"
        return _length(prompt, max_tokens)

    return _import(workspace, "rankings", files, format, map, user, source, shares, progress, check, _rankings)


# -- first pass: read and check -------------------------------------------------------------------------------


def _import(
    workspace: Workspace,
    kind: str,
    files: Sequence[Path | str],
    format: str | None,
    map: Mapping[str, str] | None,
    user: str | None,
    source: Source,
    shares: Mapping[Split, float],
    progress: bool | None,
    check: Check,
    judge: "Judge",
) -> Report:
    check_shares(shares)
    if format is not None:
        named(format)
    check_map(map or {})
    paths = [Path(file) for file in files]
    if not paths:
        raise UserError("no file to import; name one or more")
    report = Report(kind=kind)
    with (
        Spool(workspace.root) as spool,
        Spool(workspace.root) as aside,
        watch(paths, f"import {kind}", progress) as seen,
    ):
        with writing(workspace.root):
            _gather(spool, aside, report, paths, format, map, user, source, shares, check, seen)
        if not len(spool) and not report.skipped:
            raise UserError(f"{paths[0]}: no rows in it; there is nothing to import")
        if not len(spool) and set(report.skipped) <= {"no answer", "no ranks"}:
            wanted = "answers to learn from" if kind == "demonstrations" else "ranks"
            raise UserError(f"{paths[0]}: its rows have no {wanted}; import it as prompts, or name the keys with --map")
        with workspace.store.write() as connection:
            seen.adding()
            _add(workspace, connection, spool, paths, report, judge)
            _set_aside(connection, aside, paths, report)
    return report


def _gather(
    spool: Spool,
    aside: Spool,
    report: Report,
    paths: Sequence[Path],
    format: str | None,
    map: Mapping[str, str] | None,
    user: str | None,
    source: Source,
    shares: Mapping[Split, float],
    check: Check,
    seen: Watch,
) -> None:
    for number, path in enumerate(paths):
        last = 0
        for row, record in read_records(path, format=format, map=map, progress=seen.read):
            report.rows += row != last
            last = row
            if isinstance(record, Skip):
                report.skip(record.reason, path, row)
                continue
            reason = _unfit(record)
            if reason is None:
                prompt = _prompt(record, user, source, shares, noted=report.kind == "prompts")
                reason = check(record, prompt)
                if reason is None:
                    spool.put(Entry(number, row, replace(record, prompt=_prompt_fields(prompt))))
                    if record.note:
                        report.notes[record.note] += 1
                elif isinstance(reason, SetAside) and report.kind == "prompts":
                    note = f"{reason.kind}\n{reason}"
                    aside.put(Entry(number, row, replace(record, prompt=_prompt_fields(prompt), note=note)))
            if reason is not None:
                report.skip(str(reason), path, row)


def _unfit(record: Record) -> str | None:
    """Why no noun can hold the text of a record."""
    if not any(message.content.strip() for message in record.messages if message.role == "user"):
        return "the prompt is empty"
    texts = [message.content for message in record.messages] + [answer.text for answer in record.answers]
    if any("\0" in text for text in texts):
        return "the text has a NUL character"
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        return "the text has half of a surrogate pair"
    return None


def _prompt(record: Record, user: str | None, source: Source, shares: Mapping[Split, float], *, noted: bool) -> Prompt:
    """The prompt of a record; `noted`: with a guess at its language in `meta`, unless the row is an export of ours."""
    fields = dict(record.prompt)
    if noted and "id" not in fields and (language := guess_language(record.messages[-1].content)):
        fields["meta"] = {"language": language} | dict(fields.get("meta", {}))
    fields["user_id"] = fields.get("user_id") or user
    key = fields.pop("id", None)
    prompt = Prompt.chat(record.messages, **({"source": source} | fields))
    if key is not None:
        prompt = replace(prompt, id=key)
    if "split" not in fields:
        prompt = replace(prompt, split=split_of(prompt.user_id or record.group or prompt.id, shares))
    return prompt


def _prompt_fields(prompt: Prompt) -> dict[str, Any]:
    names = ("id", "user_id", "source", "split", "use_case", "consent")
    return {name: getattr(prompt, name) for name in names} | {"meta": dict(prompt.meta)}


def _length(prompt: Prompt, max_tokens: int | None) -> str | None:
    if max_tokens is None or estimated_tokens(prompt) <= max_tokens:
        return None
    return SetAside("length", f"the prompt is longer than {max_tokens} tokens (estimated)")


def estimated_tokens(prompt: Prompt) -> int:
    """Tokens of a prompt at four characters each, rounded up."""
    return -(-sum(len(message.content) for message in prompt.messages) // CHARACTERS_PER_TOKEN)


class _PromptRules:
    """The rules for prompts of customers, with what the store holds already as their past."""

    def __init__(
        self,
        workspace: Workspace,
        max_tokens: int | None,
        cap: int | None,
        common_prefix: bool,
        near_duplicates: float | None,
        languages: frozenset[str],
        hold_personal_data: bool,
    ):
        self.max_tokens, self.cap = max_tokens, cap
        self.languages, self.hold_personal_data = languages, hold_personal_data
        self.prefixes = CommonPrefix() if common_prefix else None
        self.near = NearDuplicates(near_duplicates) if near_duplicates is not None else None
        self.users: Counter[str] = Counter()
        self.known: set[str] = set()
        for prompt in workspace.store.prompts():
            self._remember(prompt)
            self._like(prompt)

    def _remember(self, prompt: Prompt) -> None:
        self.known.add(prompt.id)
        if prompt.user_id is not None:
            self.users[prompt.user_id] += 1

    def _like(self, prompt: Prompt) -> str | None:
        if self.prefixes is not None and self.prefixes.find_or_add(prompt.id, prompt.text):
            return "begins like another prompt"
        if self.near is not None and self.near.find_or_add(prompt.id, prompt.text):
            return "nearly the same as another prompt"
        return None

    def _held(self, prompt: Prompt) -> SetAside | None:
        if self.cap is not None and self.users[prompt.user_id or ""] >= self.cap:
            return SetAside("cap", f"its user has {self.cap} prompts already")
        if self.languages:
            guess = guess_language(prompt.messages[-1].content)
            if guess is not None and guess not in self.languages:
                return SetAside("language", f"its language seems to be {guess}")
        if self.hold_personal_data and (found := kinds(prompt.text)):
            return SetAside("personal data", f"it has personal data: {', '.join(found)}")
        return None

    def __call__(self, record: Record, prompt: Prompt) -> str | None:
        if prompt.id in self.known:
            return None
        reason = _length(prompt, self.max_tokens) or self._like(prompt) or self._held(prompt)
        if reason is None:
            self._remember(prompt)
        return reason


# -- second pass: add -----------------------------------------------------------------------------------------

Judge = Callable[[Record, Prompt, str], tuple[list[Completion], Demonstration | Ranking | None]]


def _add(
    workspace: Workspace,
    connection: Connection,
    spool: Spool,
    paths: Sequence[Path],
    report: Report,
    judge: Judge,
) -> None:
    store = workspace.store
    labelers = {labeler.id for labeler in store.labelers()}
    adders: Mapping[type, Callable[..., Added]] = {
        Demonstration: store.add_demonstrations,
        Ranking: store.add_rankings,
    }
    entries = iter(spool)
    while batch := list(islice(entries, BATCH)):
        prompts = [Prompt(messages=entry.record.messages, **entry.record.prompt) for entry in batch]
        known = store.prompts_by_id({prompt.id for prompt in prompts}, connection)
        fresh: dict[str, Prompt] = {}
        for entry, prompt in zip(batch, prompts):
            old = known.get(prompt.id) or fresh.setdefault(prompt.id, prompt)
            if (old.messages, old.user_id) != (prompt.messages, prompt.user_id):
                raise UserError(
                    f"{paths[entry.file]}: row {entry.row}: the prompt id {prompt.id!r} is used already with "
                    "another text or user; give each prompt its own id"
                )
        added = store.add_prompts(fresh.values(), connection)
        report.prompts += added.new
        judged = []
        for entry, prompt in zip(batch, prompts):
            labeler = _labeler(entry.record, paths[entry.file])
            completions, judgement = judge(entry.record, prompt, labeler.id)
            if judgement is None:
                continue
            if labeler.id not in labelers:
                labelers.add(labeler.id)
                report.labelers += store.add_labelers([labeler], connection).new
            judged.append((entry, completions, judgement))
        if not judged:
            report.add(Added(new=added.new, known=len(batch) - added.new))
            continue
        pairs = [(entry, answer) for entry, completions, _ in judged for answer in completions]
        report.completions += _placed(store.add_completions, pairs, paths, connection).new
        add = adders[type(judged[0][2])]
        report.add(_placed(add, [(entry, judgement) for entry, _, judgement in judged], paths, connection))


def _set_aside(connection: Connection, aside: Spool, paths: Sequence[Path], report: Report) -> None:
    entries = iter(aside) if len(aside) else iter(())
    count = 0
    while batch := list(islice(entries, BATCH)):
        held = []
        for entry in batch:
            kind, _, detail = (entry.record.note or "").partition("\n")
            prompt = Prompt(messages=entry.record.messages, **entry.record.prompt)
            held.append(Held(prompt=prompt, reason=kind, detail=detail, origin=paths[entry.file].name))
        count += hold(connection, held)
    if count:
        report.notes["prompts wait under Set aside in the labelling pages, to be released or dropped"] += count


def _placed(
    add: Callable[..., Added], pairs: Sequence[tuple[Entry, Any]], paths: Sequence[Path], connection: Connection
) -> Added:
    """Add nouns; where the store refuses one, find out which row it came from (a refused batch adds nothing)."""
    try:
        return add([noun for _, noun in pairs], connection)
    except UserError:
        for entry, noun in pairs:
            try:
                add([noun], connection)
            except UserError as error:
                raise UserError(f"{paths[entry.file]}: row {entry.row}: {error}") from error
        raise


def _labeler(record: Record, path: Path) -> Labeler:
    key = record.labeler_id or f"imported:{stem(path)}"
    fields: dict[str, Any] = {"simulated": key.startswith("model:")} | dict(record.labeler)
    return Labeler(id=key, **fields)


def _no_judgements(record: Record, prompt: Prompt, labeler_id: str) -> tuple[list[Completion], None]:
    return [], None


def _best(record: Record) -> str:
    ranks = record.ranks or (1,) * len(record.answers)
    return record.answers[ranks.index(min(ranks))].text


def _demonstrations(record: Record, prompt: Prompt, labeler_id: str) -> tuple[list[Completion], Demonstration]:
    fields = dict(record.judgement)
    key = fields.pop("id", None)
    made = Demonstration.of(prompt.id, labeler_id, _best(record), **fields)
    return [], made if key is None else replace(made, id=key)


def _rankings(record: Record, prompt: Prompt, labeler_id: str) -> tuple[list[Completion], Ranking]:
    completions = list(_completions(record, prompt))
    fields = dict(record.judgement)
    key = fields.pop("id", None)
    ids = tuple(completion.id for completion in completions)
    made = Ranking.of(prompt.id, labeler_id, ids, record.ranks or (), **fields)
    return completions, made if key is None else replace(made, id=key)


def _completions(record: Record, prompt: Prompt) -> Iterator[Completion]:
    """Two answers of one row with the same text and model are told apart by their number."""
    times: Counter[tuple[str, str]] = Counter()
    for answer in record.answers:
        fields: dict[str, Any] = dict(answer.details)
        key = fields.pop("id", None)
        if "sampling" in fields:
            fields["sampling"] = Sampling(**fields["sampling"])
        model = answer.model or "imported"
        index = times[model, answer.text]
        times[model, answer.text] += 1
        made = Completion.of(prompt.id, model, answer.text, index=index, **fields)
        yield made if key is None else replace(made, id=key)
