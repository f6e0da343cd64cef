"""The demo's recipe: every size, count and learning rate, chosen on the tuning seed 0 and then left alone."""

from preceptor.config import PpoConfig, PretrainConfig, RewardConfig, SftConfig

TUNING_SEED = 0

WEB_TOKENS = 1_950_000  # one pass of pretraining text, and some for validation
DEMONSTRATIONS = 1000
ROUND_1, ROUND_2 = 2500, 4500  # prompts ranked in the first and the second labelling round
K = 4  # answers per prompt
OVERLAP = 200  # validation prompts that every labeler ranks: agreement, and accuracy on held-out labelers
TEST_PROMPTS, SAMPLES = 300, 4  # held-out users' prompts, answers per prompt
ANSWER_TOKENS = 48
PREFIXES, PREFIX_TOKENS = 4, 80  # few-shot prefixes tried for a prompted base
OVER_STEPS, OVER_EVERY = 60, 10  # the run without a KL price, and how often it is looked at
DECODINGS = {"T = 1": 1.0, "T = 0.5": 0.5, "greedy": 0.0}  # name -> temperature
BEST_OF = (1, 2, 4, 8, 16)
SMALL, LARGE = "base-small", "base-large"


def pretrain_small(seed: int) -> PretrainConfig:
    return PretrainConfig(output=SMALL, size="tiny", steps=1800, seed=seed)


def pretrain_large(seed: int) -> PretrainConfig:
    return PretrainConfig(output=LARGE, size="tiny-large", steps=1800, lr=3e-3, seed=seed)


def sft(seed: int) -> SftConfig:
    return SftConfig(
        output="sft-small",
        model=SMALL,
        epochs=6,
        lr=1e-3,
        weight_decay=0.05,
        mix=0.37,
        micro_batch=32,
        seed=seed,
    )


def reward(seed: int, output: str, release: str) -> RewardConfig:
    return RewardConfig(
        output=output,
        model="sft-small",
        release=release,
        batch=8,
        lr=1e-3,
        matrix_lr=0.01,
        held_out=0.0,
        seed=seed,
    )


def ppo(seed: int, output: str, reward_model: str, **changes) -> PpoConfig:
    values = {
        "reference": "sft-small",
        "steps": 40,
        "batch": 256,
        "minibatch": 64,
        "micro_batch": 32,
        "lr": 4e-4,
        "value_lr": 5e-4,
        "warmup": 5,
        "kl_coef": 0.1,
        "kl_stop": 3.0,
        "ema": 0.0,
        "max_new_tokens": ANSWER_TOKENS,
    }
    return PpoConfig(output=output, reward_model=reward_model, seed=seed, **values | changes)


def over_optimised(seed: int, reward_model: str) -> PpoConfig:
    changes = {"steps": OVER_STEPS, "lr": 8e-4, "kl_coef": 0.0, "kl_stop": None}
    return ppo(seed, "over-optimised", reward_model, **changes)
