"""The demo's recipe: every size, count and learning rate, chosen on seed 0 and then left alone.

Seed 1 was looked at once, to mend a fault in how answers that were cut off are scored. The demo's own seed is 2.
"""

from dataclasses import dataclass

from preceptor.config import PpoConfig, PretrainConfig, RewardConfig, SftConfig

K = 4  # answers per prompt in a labelling round
DECODINGS = {"T = 1": 1.0, "T = 0.5": 0.5, "greedy": 0.0}  # name -> temperature
BEST_OF = (1, 2, 4, 8, 16)
SMALL, LARGE = "base-small", "base-large"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One run of the demo. The defaults are the demo; tests make everything smaller."""

    seed: int = 2
    web_tokens: int = 1_950_000
    """One pass of pretraining text, and some for validation."""
    pretrain_steps: int = 1800
    demonstrations: int = 1000
    sft_epochs: int = 6
    round_1: int = 2500
    """Prompts ranked in the first labelling round."""
    round_2: int = 4500
    overlap: int = 200
    """Validation prompts that every labeler ranks: agreement, and accuracy on held-out labelers."""
    first_ppo_steps: int = 20
    ppo_steps: int = 40
    ppo_batch: int = 256
    over_steps: int = 60
    """Length of the run without a KL price."""
    over_every: int = 10
    """Steps between two looks at it."""
    test_prompts: int = 300
    samples: int = 4
    """Answers per test prompt."""
    curve_prompts: int = 150
    best_prompts: int = 100
    prefix_prompts: int = 150
    prefixes: int = 4
    """Few-shot prefixes tried for a prompted base."""
    prefix_tokens: int = 80
    answer_tokens: int = 48

    def pretrain_small(self) -> PretrainConfig:
        return PretrainConfig(output=SMALL, size="tiny", steps=self.pretrain_steps, seed=self.seed)

    def pretrain_large(self) -> PretrainConfig:
        return PretrainConfig(output=LARGE, size="tiny-large", steps=self.pretrain_steps, lr=3e-3, seed=self.seed)

    def sft(self) -> SftConfig:
        return SftConfig(
            output="sft-small",
            model=SMALL,
            epochs=self.sft_epochs,
            lr=1e-3,
            weight_decay=0.05,
            mix=0.37,
            micro_batch=32,
            seed=self.seed,
        )

    def reward(self, output: str, release: str) -> RewardConfig:
        return RewardConfig(
            output=output,
            model="sft-small",
            release=release,
            batch=8,
            lr=1e-3,
            matrix_lr=0.01,
            held_out=0.0,
            seed=self.seed,
        )

    def ppo(self, output: str, reward_model: str, **changes) -> PpoConfig:
        values = {
            "reference": "sft-small",
            "steps": self.ppo_steps,
            "batch": self.ppo_batch,
            "minibatch": 64,
            "micro_batch": 32,
            "lr": 4e-4,
            "value_lr": 5e-4,
            "warmup": 5,
            "kl_coef": 0.1,
            "kl_stop": 3.0,
            "ema": 0.0,
            "max_new_tokens": self.answer_tokens,
        }
        return PpoConfig(output=output, reward_model=reward_model, seed=self.seed, **values | changes)

    def over_optimised(self, reward_model: str, release: str) -> PpoConfig:
        changes = {"steps": self.over_steps, "lr": 8e-4, "kl_coef": 0.0, "kl_stop": None, "release": release}
        return self.ppo("over-optimised", reward_model, **changes)
