"""A report with plausible placeholder numbers, none of them measured."""

import math

from preceptor.report.data import (
    Accuracy,
    Agreement,
    Ancestor,
    Answer,
    BestOfN,
    Component,
    Loss,
    Measured,
    Model,
    NotMeasured,
    OverOptimisation,
    Point,
    Process,
    ReportData,
    RewardCheck,
    Sample,
    Score,
    Series,
    Strength,
    Tax,
    Training,
    Verdict,
    WinRate,
)
from preceptor.statistics.interval import Interval

MODELS = [
    Model(name="base-small", role="base", label="Base", size="0.25M", parameters=246_528),
    Model(name="base-large", role="base", label="Base", size="1.1M", parameters=1_089_920),
    Model(name="base-small-prompted", role="prompted", label="Base, prompted", size="0.25M", parameters=246_528),
    Model(name="base-large-prompted", role="prompted", label="Base, prompted", size="1.1M", parameters=1_089_920),
    Model(name="sft-small", role="sft", label="SFT", size="0.25M", parameters=246_528),
    Model(name="ppo-small", role="ppo", label="PPO", size="0.25M", parameters=246_528),
    Model(name="ppo-ptx-small", role="ppo-ptx", label="PPO-ptx", size="0.25M", parameters=246_528),
]


def about(value, half, n=1200, clusters=300):
    return Interval(value=value, low=value - half, high=value + half, n=n, clusters=clusters)


def rows(decoding, values, baseline="sft-small", judge="gold judge"):
    return [
        WinRate(model=model, baseline=baseline, judge=judge, decoding=decoding, win=about(value, half, 4800))
        for model, value, half in values
    ]


MODELS_MEASURED = ("sft-small", "ppo-small", "ppo-ptx-small")
MEASURED = [
    Measured(
        group=group,
        task=task,
        metric=metric,
        model=model,
        value=about(value, 0.04, 300, 300),
        missing=gone,
        note=note,
    )
    for group, task, metric, values, gone, note in [
        ("truth", "TruthfulQA, qa prompt", "true, lexical", (0.41, 0.55, 0.52), 0, "judge: lexical 1, 4f2a91c07e11"),
        ("truth", "TruthfulQA, qa prompt", "true+info, lexical", (0.22, 0.5, 0.47), 0, ""),
        ("truth", "closed-domain hallucination", "unsupported claim", (0.2, 0.31, 0.27), 12, ""),
        ("harm", "RealToxicityPrompts", "toxicity, basic prompt", (0.2, 0.21, 0.22), 3, ""),
        ("harm", "CrowS-Pairs", "entropy (bits), respectful prompt", (0.3, 0.28, 0.41), 0, ""),
        ("harm", "BBQ", "bias score, ambiguous", (0.02, -0.05, 0.04), 0, ""),
        ("instructions", "IFEval", "prompts followed, strict", (0.12, 0.2, 0.22), 0, ""),
        ("instructions", "reported failure modes", "false premise accepted", (0.6, 0.8, 0.75), 0, ""),
        ("depth", "depth of refusal", "refused, harmful, direct", (0.9, 0.85, 0.88), 0, "judge: lexical 1"),
        ("depth", "depth of refusal", "refused, harmful, many-shot", (0.4, 0.2, 0.3), 7, "judge: lexical 1"),
        ("depth", "depth of refusal", "refused, harmful, 6 prefilled words", (0.2, 0.1, 0.15), 0, ""),
        ("depth", "depth of refusal", "refused, benign, direct", (0.3, 0.1, 0.12), 0, ""),
        ("depth", "depth of refusal", "same verdict under paraphrase, harmful", (0.7, 0.6, 0.65), 0, ""),
        ("variety", "diversity", "distinct-2", (0.7, 0.5, 0.55), 0, ""),
        ("variety", "diversity", "self-BLEU", (31.0, 55.0, 48.0), 0, ""),
    ]
    for model, value in zip(MODELS_MEASURED, values, strict=True)
]


def example(hostile: str = "") -> ReportData:
    steps = list(range(0, 41, 2))
    run = {
        "ppo-ptx-small": (0.9, 0.02),
        "ppo-small": (1.4, 0.03),
    }
    training = [
        Training(
            stage="pretrain",
            model="base-small",
            steps=list(range(0, 1801, 50)),
            series=[
                Series(
                    name="loss",
                    unit="nats per token",
                    values=[0.8 + 4.2 * math.exp(-s / 160) for s in range(0, 1801, 50)],
                )
            ],
        ),
        *[
            Training(
                stage="ppo",
                model=name,
                steps=steps,
                series=[
                    Series(
                        name="reward model score", unit="reward", values=[2.2 * (1 - math.exp(-s / 15)) for s in steps]
                    ),
                    Series(name="KL", unit="nats per answer", values=[kl * s / 40 for s in steps]),
                    Series(name="answer length", unit="tokens", values=[14 + slope * s for s in steps]),
                ],
            )
            for name, (kl, slope) in run.items()
        ],
    ]
    points = [(0, 0.0, 0.0, 4.5), (10, 1.9, 0.87, 5.4), (20, 8.0, 1.1, 4.1), (30, 17.0, 1.5, 2.9), (40, 24.0, 1.7, 2.3)]
    return ReportData(
        workspace="placeholder-demo",
        created="2025-06-06",
        seed=17,
        seconds=412.0,
        peak_rss_mib=1830.0,
        version="0.1.0",
        simulated=True,
        main="ppo-ptx-small",
        baseline="sft-small",
        score_name="gold score, 7 at most",
        samples_rule="Chosen by rule: the lowest gold score of each use case, then the first prompt of each.",
        smallest_detectable=0.028,
        process=Process(
            corpus_tokens=1_840_000,
            demonstrations=1000,
            demonstration_writers=7,
            rankings=7000,
            comparisons=38_211,
            labelers=7,
            k_smallest=4,
            k_largest=4,
            rounds=2,
            rl_steps=40,
            kl_coef=0.1,
            ptx_coef=1.0,
            test_prompts=300,
            test_users=15,
            samples_per_prompt=4,
        ),
        models=MODELS,
        verdicts=[
            Verdict.above("PPO-ptx is preferred to SFT", about(0.691, 0.02, 4800)),
            Verdict.above("PPO-ptx is preferred to the larger base model, prompted", about(0.725, 0.024, 4800)),
            Verdict.above("PPO-ptx is preferred to PPO", about(0.491, 0.019, 4800)),
            Verdict(
                claim="PPO raises the pretraining loss",
                outcome="cost",
                sentence="PPO: +0.120 nats per token over SFT; PPO-ptx: +0.003.",
            ),
        ],
        win_rates=[
            *rows(
                "T = 1",
                [
                    ("base-small", 0.342, 0.022),
                    ("base-large", 0.40, 0.022),
                    ("base-small-prompted", 0.387, 0.021),
                    ("base-large-prompted", 0.443, 0.022),
                    ("ppo-small", 0.701, 0.022),
                    ("ppo-ptx-small", 0.691, 0.02),
                ],
            ),
            *rows("greedy", [("ppo-small", 0.523, 0.03), ("ppo-ptx-small", 0.535, 0.03), ("base-large", 0.42, 0.03)]),
            WinRate(
                model="ppo-ptx-small",
                baseline="sft-small",
                judge="held-out labelers",
                decoding="T = 1",
                win=about(0.631, 0.024),
                length_controlled=about(0.612, 0.026),
                position=about(0.508, 0.02, 1200),
                missing=14,
                note="9 contradiction, 5 timeout",
            ),
            *(
                WinRate(
                    model="ppo-ptx-small",
                    baseline="sft-small",
                    judge="held-out labelers",
                    decoding="T = 1",
                    win=about(value, 0.06, 200, 60),
                    cohort=cohort,
                )
                for cohort, value in [("use case: rewrite", 0.71), ("use case: open qa", 0.52)]
            ),
            *rows(
                "T = 1", [("ppo-ptx-small", 0.725, 0.024), ("sft-small", 0.557, 0.025)], baseline="base-large-prompted"
            ),
        ],
        strengths=[
            Strength(model=model, strength=about(value, 0.12, 9000), judge="people")
            for model, value in [("ppo-ptx-small", 0.8), ("ppo-small", 0.82), ("sft-small", 0.0), ("base-large", -0.4)]
        ],
        scores=[
            Score(what="overall quality, 1 to 7", model=model, mean=about(value, 0.2, 800), cohort=cohort)
            for cohort in ("", "labelers: held-out labelers", "labelers: training labelers", "use case: rewrite")
            for model, value in [("ppo-ptx-small", 5.2), ("sft-small", 4.1), ("base-large", 2.4)]
        ],
        measured=MEASURED,
        training=training,
        overoptimisation=OverOptimisation(
            model="ppo-small",
            prompts="150 validation prompts",
            points=[
                Point(step=s, kl=kl, proxy=about(proxy, 0.1, 150, 150), gold=about(gold, 0.25, 150, 150))
                for s, kl, proxy, gold in points
            ],
            note="Trained with β = 0 and twice the learning rate, to show what a penalty prevents.",
        ),
        best_of_n=[
            BestOfN(n=n, kl=math.log(n) - (n - 1) / n, gold=about(4.5 + 0.8 * (1 - 1 / n), 0.2), proxy=about(0.3, 0.1))
            for n in (1, 2, 4, 8, 16)
        ],
        losses=[
            Loss(model=name, loss=about(loss, 0.012, 16_000, 64))
            for name, loss in [
                ("base-small", 0.811),
                ("base-large", 0.803),
                ("sft-small", 0.825),
                ("ppo-ptx-small", 0.828),
                ("ppo-small", 0.945),
            ]
        ],
        tax=[
            Tax(task=task, metric=metric, model=model, score=about(score, 1.6, 500, 500))
            for task, metric, scores in [
                ("SQuAD v2", "F1", (21.0, 17.5, 19.8)),
                ("ARC easy", "accuracy", (31.0, 30.1, 31.4)),
            ]
            for model, score in zip(("sft-small", "ppo-small", "ppo-ptx-small"), scores, strict=True)
        ],
        components=[
            Component(behaviour=behaviour, model=model, rate=about(rate, 0.025), good=good, decoding="T = 1")
            for behaviour, good, rates in [
                ("Does the task", True, (0.45, 0.62, 0.80, 0.82)),
                ("Keeps the constraints", True, (0.50, 0.70, 0.83, 0.84)),
                ("Tells the truth or says it does not know", True, (0.66, 0.79, 0.90, 0.89)),
                ("Stops when done", True, (0.60, 0.76, 0.93, 0.92)),
                ("Is rude", False, (0.16, 0.07, 0.03, 0.03)),
            ]
            for model, rate in zip(("base-small", "sft-small", "ppo-small", "ppo-ptx-small"), rates, strict=True)
        ]
        + [
            Component(behaviour="hallucination", model=model, rate=about(rate, 0.05), good=False, cohort=cohort)
            for cohort in ("users: held-out users", "users: training users")
            for model, rate in [("sft-small", 0.1), ("ppo-ptx-small", 0.2)]
        ],
        samples=[
            Sample(
                prompt=hostile or "change sheep to swan : the sheep ran to the quiet park .",
                user="user 52",
                slice="rewrite",
                group="worst",
                demonstration=hostile or "the swan ran to the quiet park .",
                answers=[
                    Answer(model="ppo-ptx-small", text="the fox ran to the new castle .", score=2.5, notes=["task"]),
                    Answer(
                        model="sft-small",
                        text=hostile or "the sheep ran to the new station . henry bought a white coat .",
                        score=1.5,
                    ),
                ],
            ),
            Sample(
                prompt="what is the job of olga ? be polite .",
                user="user 57",
                slice="open qa",
                demonstration="of course , olga works as a painter .",
                answers=[
                    Answer(model="ppo-ptx-small", text="of course , olga works as a painter .", score=7.0),
                    Answer(model="sft-small", text="olga works as a painter .", score=5.5, notes=["constraint"]),
                    Answer(model="base-large-prompted", text="olga lives in oslo .", score=2.5),
                ],
            ),
        ],
        agreement=[
            Agreement(group="Training labelers", rate=about(0.715, 0.014, 3210, 300)),
            Agreement(group="Held-out labelers", rate=about(0.723, 0.03, 640, 150)),
        ],
        reward_accuracy=[
            Accuracy(reward_model="rm-1", against="training labelers", accuracy=about(0.71, 0.01, 9000, 1000)),
            Accuracy(reward_model="rm-2", against="training labelers", accuracy=about(0.70, 0.01, 9000, 1000)),
            Accuracy(reward_model="rm-2", against="held-out labelers", accuracy=about(0.695, 0.02, 1550, 300)),
            Accuracy(reward_model="rm-2", against="gold judge", accuracy=about(0.822, 0.018, 1550, 300)),
        ],
        reward_checks=[
            RewardCheck(flaw=flaw, reward_model="rm-2", preferred=about(value, 0.045, 200, 200))
            for flaw, value in [
                ("rude line added", 0.95),
                ("thanks left out", 0.94),
                ("one item too many", 0.94),
                ("wrong fact", 0.57),
                ("happy told as sad", 0.43),
            ]
        ],
        lineage=[
            Ancestor(name="base-small", kind="pretrain", sha256="e55a" * 16, seed=17, parameters=246_528),
            Ancestor(
                name="sft-small",
                kind="sft",
                sha256="c07d" * 16,
                parents={"starts from": "base-small"},
                releases={"demonstrations": "1b9e" * 16},
                seed=17,
            ),
            Ancestor(
                name="rm-2",
                kind="reward",
                sha256="a2f8" * 16,
                parents={"starts from": "sft-small"},
                releases={"rankings": "88c3" * 16},
                seed=17,
            ),
            Ancestor(
                name="ppo-ptx-small",
                kind="ppo",
                sha256="9c41" * 16,
                parents={"starts from": "sft-small", "rewarded by": "rm-2"},
                releases={"corpus": "04de" * 16},
                seed=17,
                note="40 steps, β 0.1",
            ),
        ],
        disclosures=["65 % of the demonstrations come from hurried writers, who leave flaws they could avoid."],
        limits=[
            "Every number in this example is invented.",
            "The language has 259 words; nothing here says how a large model behaves.",
        ],
        not_measured=[NotMeasured(what="Toxicity", why="the invented world has no toxic text")],
    )
