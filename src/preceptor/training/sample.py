"""Sampling: K answers to each prompt go into the store, where labelers find them."""

from preceptor.config import SampleConfig
from preceptor.errors import UserError
from preceptor.models.load import context_length, load_policy, load_tokenizer
from preceptor.models.save import model_hash
from preceptor.rollout.engine import generate
from preceptor.store import Added, Workspace
from preceptor.text.batches import shuffled
from preceptor.text.chat import Chat
from preceptor.training.run import console
from preceptor.types import Completion, Prompt, Sampling

CHUNK = 512  # prompts between two writes to the store


def sample(workspace: Workspace, config: SampleConfig, prompts: list[Prompt] | None = None) -> Added:
    """Draw `k` answers per prompt of the split (or of `prompts`) into the store. Repeating it adds nothing."""
    source = workspace.find_model(config.model)
    chat = Chat(load_tokenizer(source))
    model = load_policy(source)
    if prompts is None:
        prompts = list(workspace.store.prompts(split=None if config.red_team else config.split, consented=True))
        if config.red_team:
            prompts = [prompt for prompt in prompts if prompt.red_team]
            if not prompts:
                raise UserError(
                    "no attacks to answer; run: preceptor import prompts BEHAVIOURS.csv, or write some in preceptor web"
                )
        if not prompts:
            raise UserError(f"no prompts in the split {config.split!r}; run: preceptor import prompts FILE...")
        if config.prompts is not None:
            chosen = shuffled(len(prompts), config.seed, 0)[: config.prompts]
            prompts = [prompts[place] for place in chosen]
    room = context_length(source) - config.max_new_tokens
    rows = [(prompt, chat.prompt(prompt.messages)) for prompt in prompts]
    rows = [(prompt, ids) for prompt, ids in rows if len(ids) <= room]
    if not rows:
        raise UserError(
            f"no prompt leaves room for {config.max_new_tokens} new tokens in the context of {config.model}"
        )
    if len(rows) < len(prompts):
        console.print(f"{config.model}: left out {len(prompts) - len(rows)} prompts of more than {room} tokens")
    settings = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )
    name = model_id(workspace, config.model)
    total = Added()
    with _bar(config.model, len(rows) * config.k) as advance:
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            answers = generate(
                model,
                [ids for _, ids in part],
                settings,
                stop=frozenset([chat.eos]),
                pad=chat.pad,
                k=config.k,
                batch=config.batch,
                first_number=start * config.k,
                progress=advance,
            )
            total += workspace.store.add_completions(
                Completion.of(
                    prompt.id,
                    name,
                    chat.read(episode.answer_tokens),
                    index=index,
                    sampling=settings,
                    finish_reason=episode.finish_reason,
                )
                for (prompt, _), drawn in zip(part, answers)
                for index, episode in enumerate(drawn)
            )
    return total


def model_id(workspace: Workspace, model: str) -> str:
    """How completions name their model: its name and the hash of its weights."""
    return f"{model}@{model_hash(workspace.find_model(model))[:16]}"


def _bar(name: str, total: int):
    """A progress bar as a context manager that gives a function to advance it."""
    from contextlib import contextmanager

    from rich.progress import Progress

    @contextmanager
    def opened():
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"sample {name}", total=total)
            yield lambda count: bar.advance(task, count)

    return opened()
