"""`preceptor chat`: talk to a model in the terminal; its words appear as they are drawn."""

import secrets
from queue import Empty

from rich.console import Console

from preceptor.config import ServeConfig
from preceptor.errors import UserError
from preceptor.serving.errors import ApiError
from preceptor.serving.models import Models, Served
from preceptor.serving.news import Broken, Inbox, Order
from preceptor.store import Workspace
from preceptor.types import Message, Sampling

HELP = "/reset forgets the conversation, /quit leaves; Ctrl-C stops an answer"


def chat(
    workspace: Workspace,
    model: str,
    *,
    system: str = "",
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int = 512,
    seed: int | None = None,
    console: Console | None = None,
) -> None:
    """Ask for messages and answer them until /quit or the end of the input. Nothing of it is stored.

    `system`: text that stands before the conversation. `max_new_tokens`: tokens per answer, less where the model's
    context is full. `seed` fixes every answer; a new one is drawn when absent. Raises UserError for an unknown model.
    """
    console = console or Console(highlight=False)
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}; give 1 or more")
    if temperature < 0 or not 0 < top_p <= 1:
        raise UserError(f"temperature {temperature}, top_p {top_p}: give 0 or more, and more than 0 up to 1")
    seed = secrets.randbits(31) if seed is None else seed
    models = Models(workspace, ServeConfig(rows=1, queue=1, loaded=1))
    try:
        with models.use(model) as served:
            console.print(f"[bold]{model}[/bold] · seed {seed} · {HELP}", soft_wrap=True)
            sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
            _converse(served, sampling, system, console)
    except ApiError as error:
        raise UserError(error.message) from error
    finally:
        models.close()


def _converse(served: Served, sampling: Sampling, system: str, console: Console) -> None:
    start = [Message(role="system", content=system)] if system else []
    messages = list(start)
    turn = 0
    while True:
        try:
            said = console.input("[bold]you[/bold] › ").strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print(f"\n{HELP}", soft_wrap=True)
            continue
        if said == "/quit":
            return
        if said == "/reset":
            messages = list(start)
            console.print("The conversation begins anew.")
        elif said.startswith("/"):
            console.print(f"There is no command {said.split()[0]}: {HELP}", markup=False, soft_wrap=True)
        elif said:
            messages.append(Message(role="user", content=said))
            text = answer(served, messages, sampling, turn, console)
            turn += 1
            if text is None:
                messages.pop()
            else:
                messages.append(Message(role="assistant", content=text))


def answer(served: Served, messages: list[Message], sampling: Sampling, turn: int, console: Console) -> str | None:
    """Print the model's answer as it comes and return it; what there is of it after Ctrl-C; None where it failed."""
    prompt = served.chat_tokens(messages)
    room = min(sampling.max_new_tokens, served.context - len(prompt))
    if room < 1:
        console.print(f"The conversation fills the model's context of {served.context} tokens; /reset begins anew.")
        return None
    limits = Sampling(temperature=sampling.temperature, top_p=sampling.top_p, max_new_tokens=room, seed=sampling.seed)
    inbox = Inbox()
    request = served.running.submit(inbox, [Order(prompt=prompt, sampling=limits, number=turn, strip=True)])
    text = ""
    console.print(f"[bold]{served.name}[/bold] › ", end="")
    try:
        while True:
            try:
                piece = inbox.pieces.get(timeout=0.1)  # short, so that Ctrl-C is heard between two tokens
            except Empty:
                continue
            if piece.error is not None:
                raise piece.error
            text += piece.text
            console.print(piece.text, end="", markup=False, soft_wrap=True)
            if piece.finish:
                break
    except KeyboardInterrupt:
        served.running.cancel(request)
        console.print(" [dim](stopped)[/dim]", end="")
    except (Broken, UserError) as error:
        console.print(f"[bold red]{type(error).__name__}[/bold red]: {error}")
        return None
    console.print()
    return text
