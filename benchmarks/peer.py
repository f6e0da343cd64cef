"""The peers' side of the benchmarks: TRL's trainers and transformers' generate, a step per turn.

python peer.py TASK FOLDER PRECISION      (started by bench.py, in the peer's own environment)

Each is given its best settings on a CPU that were found: bf16 where the conductor tries it, no gradient checkpointing,
dropout off, the same optimizer. TRL's PPO takes bf16 from the environment only (ACCELERATE_MIXED_PRECISION).
"""

import json
import os
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import curve
import torch
import transformers
from material import EOS, PAD, pairs_of, read_sizes, read_tokens
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from turns import Finished, Turns

LR = 1e-4
transformers.logging.set_verbosity_error()


class TurnByTurn(TrainerCallback):
    """Reports every optimizer step of a Trainer and waits for the next turn. The loss of a step is logged after it."""

    def __init__(self, turns: Turns, work: list[int]):
        self.turns, self.work = turns, work
        self.logged: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        work = self.work[(state.global_step - 1) % len(self.work)]
        self.turns.done(work=work, losses=self.logged)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.logged.append(float(logs["loss"]))


def load(kind, folder: Path, **more):
    return kind.from_pretrained(folder, dtype=torch.float32, **more)


def trainer_settings(output: str, batch: int, precision: str) -> dict:
    """What SFT and reward model share; the optimizer is that of ours.py."""
    return {
        "output_dir": output,
        "per_device_train_batch_size": batch,
        "max_steps": 10**6,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": precision == "bf16",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def run_sft(turns: Turns, folder: Path, precision: str) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    steps = read_tokens(folder)["sft"]
    rows = [
        {
            "input_ids": row["prompt"] + row["answer"],
            "labels": [-100] * len(row["prompt"]) + row["answer"],
        }
        for step in steps
        for row in step
    ]
    model = load(AutoModelForCausalLM, folder / "full")
    turns.count(model.base_model)
    with tempfile.TemporaryDirectory() as output:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**trainer_settings(output, len(steps[0]), precision)),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder / "full"),
            callbacks=[TurnByTurn(turns, [sum(len(r["prompt"] + r["answer"]) for r in step) for step in steps])],
        )
        turns.ready()
        trainer.train()


def rankings(turns: Turns, folder: Path, precision: str, k: int) -> None:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    steps = [[pair for ranking in step for pair in pairs_of(ranking)] for step in read_tokens(folder)[f"rankings_{k}"]]
    model = load(AutoModelForSequenceClassification, folder / "reward")
    turns.count(model.base_model)
    with tempfile.TemporaryDirectory() as output:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(**trainer_settings(output, len(steps[0]), precision)),
            train_dataset=Dataset.from_list([pair for step in steps for pair in step]),
            processing_class=AutoTokenizer.from_pretrained(folder / "reward"),
            callbacks=[TurnByTurn(turns, [len(step) for step in steps])],
        )
        turns.ready()
        trainer.train()


def run_rm_k9(turns: Turns, folder: Path, precision: str) -> None:
    rankings(turns, folder, precision, 9)


def run_rm_k4(turns: Turns, folder: Path, precision: str) -> None:
    rankings(turns, folder, precision, 4)


def iterations(
    turns: Turns, folder: Path, precision: str, kind: str, judged_by: str, prompts: list, **settings
) -> None:
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if precision == "bf16" else "no"
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    tokenizer = AutoTokenizer.from_pretrained(folder / kind, padding_side="left")
    policy, reference = (load(AutoModelForCausalLM, folder / kind) for _ in range(2))
    value, judge = (load(AutoModelForSequenceClassification, folder / judged_by) for _ in range(2))
    turns.count(*(model.base_model for model in (policy, reference, value, judge)))
    facts: dict[str, float] = {}
    draw = ppo_trainer.batch_generation

    def counted(model, queries, *rest):
        """What the trainer draws, looked at on its way."""
        drawn = draw(model, queries, *rest)
        facts["share"] = curve.share_good(drawn[0][:, queries.shape[1] :].tolist())
        return drawn

    ppo_trainer.batch_generation = counted

    class PpoTurns(TurnByTurn):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and "objective/scores" in logs:
                facts["score"] = logs["objective/scores"]

        def on_step_end(self, args, state, control, **kwargs):
            self.turns.done(work=args.batch_size, **facts)

    with tempfile.TemporaryDirectory() as output:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=output,
                # Eight real optimizer steps: with 8 accumulation steps it would make one.
                gradient_accumulation_steps=1,
                num_mini_batches=8,
                num_ppo_epochs=1,
                total_episodes=10**6,
                stop_token="eos",
                temperature=0.7,
                kl_coef=0.05,
                lr_scheduler_type="constant",
                num_sample_generations=0,
                bf16=precision == "bf16",
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
                logging_steps=1,
                **settings,
            ),
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=judge,
            value_model=value,
            train_dataset=Dataset.from_list([{"input_ids": prompt} for prompt in prompts]),
            callbacks=[PpoTurns(turns, [])],
        )
        turns.ready()
        trainer.train()


def timed(turns: Turns, folder: Path, precision: str, kind: str, judged_by: str) -> None:
    sizes = read_sizes(folder)
    iterations(
        turns,
        folder,
        precision,
        kind,
        judged_by,
        read_tokens(folder)["prompts"],
        per_device_train_batch_size=sizes.episodes,
        local_rollout_forward_batch_size=sizes.episodes,
        response_length=sizes.answer,
        learning_rate=1e-6,
    )


def run_ppo_full(turns: Turns, folder: Path, precision: str) -> None:
    timed(turns, folder, precision, "full", "reward")


def run_ppo_ragged(turns: Turns, folder: Path, precision: str) -> None:
    timed(turns, folder, precision, "ragged", "reward")


def run_ppo_lora(turns: Turns, folder: Path, precision: str) -> None:
    """The same work with what this PPO has: four whole models."""
    timed(turns, folder, precision, "medium", "reward-medium")


def learn_planted(turns: Turns, folder: Path, precision: str, task: str) -> None:
    """PPO against the planted reward model, for its reward curve; the optimizer is that of ours.py."""
    sizes = read_sizes(folder)
    iterations(
        turns,
        folder,
        precision,
        task,
        "planted",
        json.loads((folder / task / "prompts.json").read_text()),
        per_device_train_batch_size=sizes.curve_episodes,
        local_rollout_forward_batch_size=sizes.curve_episodes,
        response_length=sizes.curve_answer,
        learning_rate=curve.LR,
        adam_beta2=0.95,
        weight_decay=0.0,
        lam=0.95,
        gamma=1.0,
        cliprange=0.2,
        cliprange_value=0.2,
        seed=curve.TASKS[task],
    )


def run_generate(turns: Turns, folder: Path, precision: str) -> None:
    """Four answers to each prompt, as many rows at a time as ours, prompts of similar length together."""
    sizes = read_sizes(folder)
    prompts = sorted(read_tokens(folder)["prompts"][: sizes.prompts], key=len)
    model = load(AutoModelForCausalLM, folder / "ragged").eval()
    if precision == "bf16":
        model.bfloat16()  # what its users do; casting at every operation would cost it more
    turns.count(model.base_model)
    size = sizes.rows // 4
    turns.ready()
    while True:
        lengths: list[int] = []
        for start in range(0, len(prompts), size):
            group = prompts[start : start + size]
            width = max(map(len, group))
            ids = torch.tensor([[PAD] * (width - len(row)) + row for row in group])
            with torch.inference_mode():
                drawn = model.generate(
                    input_ids=ids,
                    attention_mask=(ids != PAD).long(),
                    do_sample=True,
                    temperature=0.7,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=sizes.answer,
                    num_return_sequences=4,
                    eos_token_id=EOS,
                    pad_token_id=PAD,
                )
            before_end = (drawn[:, width:] == EOS).cumsum(-1) == 0
            lengths += (before_end.sum(-1) + 1).clamp(max=before_end.shape[1]).tolist()
        turns.done(work=sum(lengths), answer_tokens=sum(lengths) / len(lengths))


TASKS = {name.removeprefix("run_"): task for name, task in list(globals().items()) if name.startswith("run_")}
TASKS |= {task: partial(learn_planted, task=task) for task in curve.TASKS}

if __name__ == "__main__":
    with suppress(Finished):
        TASKS[sys.argv[1]](Turns(), Path(sys.argv[2]), sys.argv[3])
