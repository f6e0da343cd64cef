"""Numbers and sentences of the report. Whatever depends on a result is worked out here from the data."""

from preceptor.report.data import Model, Process, ReportData, WinRate
from preceptor.statistics.interval import Interval

MINUS = "−"


def number(value: float, digits: int = 2) -> str:
    """Grouped in thousands, with a real minus, never a minus zero."""
    text = f"{abs(value):,.{digits}f}"
    negative = value < 0 and any(digit not in "0,." for digit in text)
    return (MINUS if negative else "") + text


def signed(value: float, digits: int = 2) -> str:
    text = number(value, digits)
    return text if text.startswith(MINUS) or value == 0 else f"+{text}"


def percent(share: float, digits: int = 1) -> str:
    return f"{number(100 * share, digits)} %"


def span(interval: Interval, scale: float = 1.0, digits: int = 2) -> str:
    """The ends, as in "61 to 69"; words when one cluster alone gave the number."""
    if interval.clusters == 1:
        return "one group: no interval"
    return f"{number(scale * interval.low, digits)} to {number(scale * interval.high, digits)}"


def share(interval: Interval) -> str:
    return f"{percent(interval.value)} ({span(interval, 100, 1)})"


def share_with_n(interval: Interval, things: str = "n") -> str:
    """ "69.1 % (67.1 to 71.1), n = 4,800 on 300 prompts"."""
    return f"{share(interval)}, {counted(interval, things)}"


def counted(interval: Interval, things: str = "n") -> str:
    several = f" on {interval.clusters:,} prompts" if interval.clusters not in (interval.n, 0) else ""
    return f"{things} = {interval.n:,}{several}"


def estimate(interval: Interval, unit: str) -> str:
    """An estimate in its unit; "share" is printed in percent."""
    if unit == "share":
        return share_with_n(interval)
    return f"{number(interval.value, 3)} {unit} ({span(interval, 1, 3)}), n = {interval.n:,}"


def duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def model_name(model: Model) -> str:
    """ "PPO-ptx 0.25M"."""
    if model.size.lower() in model.label.lower().split():
        return model.label  # "Large base" already says its size
    return f"{model.label} {model.size}".strip()


def primary(data: ReportData) -> list[WinRate]:
    """The rows of the headline figure: against the baseline, whole pool, judged and drawn as the main row is."""
    rows = [row for row in data.win_rates if row.baseline == data.baseline and not row.cohort]
    first = next((row for row in rows if row.model == data.main), rows[0] if rows else None)
    if first is None:
        return []
    return [row for row in rows if (row.judge, row.decoding) == (first.judge, first.decoding)]


def main_row(data: ReportData) -> WinRate | None:
    return next((row for row in primary(data) if row.model == data.main), None)


def preference(data: ReportData, row: WinRate) -> str:
    """One sentence on a comparison, with its verdict in words."""
    model, baseline = model_name(data.model(row.model)), model_name(data.model(row.baseline))
    if row.win.above(0.5):
        return f"{model} is preferred to {baseline} in {percent(row.win.value)} of comparisons"
    if row.win.below(0.5):
        return f"{model} is preferred less often than {baseline}, in {percent(row.win.value)} of comparisons"
    return (
        f"{model} and {baseline} cannot be told apart: {model} is preferred in {percent(row.win.value)}, "
        "and the interval holds 50 %"
    )


def headline(data: ReportData) -> str:
    """The claim of the whole report, or what stands in the way of one."""
    row = main_row(data)
    if row is None:
        return "The model under test has not been compared with its baseline, so nothing is claimed here."
    end = f"95 % interval {span(row.win, 100, 1)}; {counted(row.win)}; judge: {row.judge}; decoding: {row.decoding}"
    text = f"{preference(data, row)} ({end})."
    others = [
        other
        for other in data.win_rates
        if (other.model, other.baseline, other.judge, other.cohort) == (row.model, row.baseline, row.judge, "")
        and other.decoding != row.decoding
    ]
    for other in others:
        text += f" Decoding {other.decoding}: {share(other.win)}, {_standing(other.win)}."
    return text


def _standing(win: Interval) -> str:
    if win.above(0.5):
        return "above one half"
    return "below one half" if win.below(0.5) else "not told apart from one half"


def _several(count: int | None, thing: str, things: str | None = None) -> str:
    if count is None:
        return things or thing + "s"
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def steps(data: ReportData) -> list[tuple[str, str]]:
    """What was done, in six steps, for a reader who never heard of any of it: (name, sentences).

    A step that left no trace in the counts or in the lineage is said not to be on record.
    """
    done: Process = data.process
    kinds = {ancestor.kind for ancestor in data.lineage}
    amount = f"{done.corpus_tokens:,} tokens of" if done.corpus_tokens else "plain"
    if done.base_given:
        base = "A language model that was already trained on text is the start."
    else:
        base = f"A model read {amount} text and learned to guess the next word. It continues text; instructions are "
        base += "only more text to it."
    made = {
        "base": (base, done.base_given or "pretrain" in kinds),
        "sft": (_examples(done), done.demonstrations is not None or "sft" in kinds),
        "rankings": (_rankings(done, data.simulated), done.rankings is not None),
        "reward": (
            "A second model learned from the rankings to score an answer as the labelers would.",
            "reward" in kinds or bool(data.reward_accuracy),
        ),
        "ppo": (_reinforcement(done), done.rl_steps is not None or "ppo" in kinds),
        "test": (_test(done), bool(data.win_rates)),
    }
    names = {
        "base": ("A base model.", "`preceptor pretrain`, or `preceptor init --base`"),
        "sft": ("Examples (SFT).", "`preceptor sft`"),
        "rankings": ("Rankings.", "`preceptor sample`, then `preceptor web`"),
        "reward": ("A reward model.", "`preceptor reward`"),
        "ppo": ("Reinforcement learning (PPO).", "`preceptor ppo`"),
        "test": ("The test.", "`preceptor evaluate`"),
    }
    return [
        (names[step][0], text if happened else f"Not on record here. Next: {names[step][1]}.")
        for step, (text, happened) in made.items()
    ]


def _examples(done: Process) -> str:
    writers = f" by {_several(done.demonstration_writers, 'writer')}" if done.demonstration_writers else ""
    return f"It was shown {_several(done.demonstrations, 'answer')} written{writers} as examples, and imitates them."


def _rankings(done: Process, simulated: bool) -> str:
    which = ""
    if done.k_smallest and done.k_largest:
        k = str(done.k_smallest) if done.k_smallest == done.k_largest else f"{done.k_smallest} to {done.k_largest}"
        which = f" of {k} answers each"
    pairs = f" ({done.comparisons:,} pairs)" if done.comparisons else ""
    again = f" This was done in {done.rounds} rounds." if done.rounds and done.rounds > 1 else ""
    people = " The labelers are simulated: programs with tastes and errors of their own." if simulated else ""
    who = _several(done.labelers, "labeler").capitalize()
    return (
        f"The model answered prompts several times. {who} put {_several(done.rankings, 'list')}{which} "
        f"in order, best first{pairs}.{again}{people}"
    )


def _reinforcement(done: Process) -> str:
    start = f"In {done.rl_steps:,} steps of trial and error the model" if done.rl_steps else "The model"
    beta = f" (β = {done.kl_coef:g})" if done.kl_coef else ""
    penalty = ""
    if done.kl_coef is not None:
        penalty = f", with {'a' if done.kl_coef else 'no'} penalty for moving far from its start"
    ptx = " Plain text was mixed in so that it forgets less: this is the “ptx”." if done.ptx_coef else ""
    return f"{start} was moved towards answers that score high{penalty}{beta}.{ptx}"


def _test(done: Process) -> str:
    unseen = " that no training had seen" if done.test_prompts else ""
    users = f" of {_several(done.test_users, 'user')}" if done.test_users else ""
    samples = f", {done.samples_per_prompt} answers to each" if done.samples_per_prompt else ""
    return (
        f"The models answered {_several(done.test_prompts, 'prompt')}{users}{unseen}{samples}. "
        "Their answers were compared two by two; a tie counts half."
    )


def wrap(text: str, width: int, most: int = 2) -> list[str]:
    """`text` in at most `most` lines of about `width` characters; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    shown = lines[:most] or [""]
    if len(lines) > most:
        shown[-1] = shown[-1][: width - 1] + "…"
    return [line if len(line) <= width + 2 else line[: width - 1] + "…" for line in shown]


def opening(text: str, most: int = 120) -> tuple[list[str], list[str]]:
    """The paragraphs shown at once and those behind a click: whole paragraphs, or about `most` words of a long one."""
    shown: list[str] = []
    rest: list[str] = []
    room = most
    for paragraph in (part.strip() for part in text.splitlines()):
        words = paragraph.split()
        if not words:
            continue
        if rest or room <= 0:
            rest.append(paragraph)
        elif len(words) <= room + 20:
            shown.append(paragraph)
            room -= len(words)
        else:
            shown.append(" ".join(words[:room]))
            rest.append(" ".join(words[room:]))
            room = 0
    return shown, rest


def is_figure(cell: str) -> bool:
    """A table cell that holds a number, an interval or a mark for its absence: set to the right and not broken."""
    starts = cell.startswith((*"0123456789+", MINUS))
    return cell.isdigit() or (starts and len(cell) <= 32 and not cell.isalnum())


def pieces(text: str, size: int = 16) -> list[str]:
    """Where a word too long for a cell (a hash) may be broken; short words stay whole."""
    if len(text) <= 2 * size or " " in text:
        return [text]
    return [text[start : start + size] for start in range(0, len(text), size)]


def held_out(users: int, training_users: int) -> str:
    """Whether the users whose prompts were compared are strangers to training."""
    if not users:
        return "The prompts name no user."
    if not training_users:
        return f"All {users:,} users are held out: none has a prompt in the training split."
    if training_users == users:
        return f"All {users:,} users have prompts in the training split: none is held out."
    return f"{training_users:,} of {users:,} users have prompts in the training split too; the others are held out."
