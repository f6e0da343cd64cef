"""From the reports of the contestants to ratios, and to the page that shows them.

Throughput: ours over peer, higher is better. Memory: ours over peer, lower is better.
"""

from statistics import median

from curve import TASKS as CURVES
from curve import compared_curves, curve_lines
from material import Sizes

# contest -> (key of results.json, what is counted per second)
THROUGHPUT = {
    "sft": ("sft_vs_trl", "real tokens/s"),
    "rm_k9": ("rm_k9_vs_trl", "comparisons/s"),
    "rm_k4": ("rm_k4_vs_trl", "comparisons/s"),
    "ppo_full": ("ppo_vs_trl_full", "episodes/s"),
    "ppo_ragged": ("ppo_vs_trl_ragged", "episodes/s"),
    "generate": ("generate_vs_transformers", "answer tokens/s"),
}
# key of results.json -> contest whose peak memory it compares
MEMORY = {"ppo_memory_vs_trl": "ppo_full", "ppo_lora_memory_vs_trl": "ppo_lora"}
# contest against the machine -> (key of results.json or None, what is counted, its unit, what the machine did)
MACHINE = {
    "sft_medium": ("sft_fraction_of_matmul_peak", "flop", "useful FLOP/s", "a matrix product in {precision}"),
    "decode_one": ("decode_fraction_of_bandwidth", "bytes", "bytes read/s", "those of memory"),
    "decode_many": (None, "bytes", "bytes read/s", "those of memory"),
}
NAMES = {
    "sft": "SFT",
    "rm_k9": "reward model, rankings of 9",
    "rm_k4": "reward model, rankings of 4",
    "ppo_full": "PPO, answers of full length",
    "ppo_ragged": "PPO, answers of half the limit on average",
    "ppo_lora": "PPO, LoRA roles over one base, 24M parameters",
    "generate": "generation, 4 answers to each prompt",
    "sft_medium": "SFT, 24M parameters",
    "decode_one": "decoding, 24M parameters, one answer at a time",
    "decode_many": "decoding, 24M parameters, as many rows at once as in generation",
}
# Losses on the same batch before anything is learned, in nats: fp32 differs by rounding, bf16 by its 8 bits.
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}


def figures(found: dict[str, dict], missing: dict[str, str]) -> dict:
    """The keys of results.json: ratios or null, `reasons` for every null, `details` of every contest."""
    results: dict = {}
    reasons: dict[str, str] = {}
    details: dict[str, dict] = {}
    for task, (key, unit) in THROUGHPUT.items():
        results[key] = None
        if task in missing:
            reasons[key] = missing[task]
        else:
            details[task] = compared(found[task], unit)
            results[key] = details[task]["ratio"]
            check_same_losses(task, found[task])
    for task, (key, counted, _, _) in MACHINE.items():
        if task not in missing:
            details[task] = against_machine(found[task], counted)
        if key:
            results[key] = None if task in missing else details[task]["ratio"]
            if task in missing:
                reasons[key] = missing[task]
    results["reward_curve_difference"] = None
    absent = [task for task in CURVES if task in missing]
    if absent:
        reasons["reward_curve_difference"] = missing[absent[0]]
    else:
        details["reward_curve"] = compared_curves({task: found[task] for task in CURVES})
        results["reward_curve_difference"] = details["reward_curve"]["spans"]["last"]["difference"]
    if "ppo_lora" not in missing:
        details["ppo_lora"] = compared(found["ppo_lora"], "episodes/s")
    for key, task in MEMORY.items():
        results[key] = None
        if task in missing:
            reasons[key] = missing[task]
        else:
            results[key] = details[task]["ours"]["peak_mib"] / details[task]["peer"]["peak_mib"]
    return results | {"reasons": reasons, "details": details}


def compared(outcome: dict, unit: str) -> dict:
    """Medians of a contest's rounds. A side's speed is its median work over its median seconds."""
    sides = {side: summary(outcome["sides"][side]) for side in ("ours", "peer")}
    rounds = [
        (ours["work"] / ours["seconds"]) / (peer["work"] / peer["seconds"])
        for ours, peer in zip(outcome["sides"]["ours"]["reports"], outcome["sides"]["peer"]["reports"])
    ]
    return {
        "unit": unit,
        **sides,
        "ratio": sides["ours"]["per_second"] / sides["peer"]["per_second"],
        "ratio_lowest_round": min(rounds),
        "ratio_highest_round": max(rounds),
        "n": len(rounds),
        "rehearsal": rehearsal(outcome),
        "first_losses": {f"{side} {precision}": loss for (side, precision), loss in first_losses(outcome).items()},
    }


def summary(side: dict) -> dict:
    reports = side["reports"]
    mean = {
        name: sum(report[name] for report in reports) / len(reports)
        for name in ("sequences", "positions", "decode_steps", "answer_tokens", "score", "gap", "weights")
        if all(name in report for report in reports)
    }
    phases = [report["phases"] for report in reports if "phases" in report]
    return {
        "precision": side["precision"],
        "seconds": median(report["seconds"] for report in reports),
        "work": median(report["work"] for report in reports),
        "per_second": median(report["work"] for report in reports) / median(report["seconds"] for report in reports),
        "loaded_mib": side["loaded_mib"],
        "peak_mib": reports[-1]["peak_mib"],
        **mean,
        **({"phases": {name: median(phase[name] for phase in phases) for name in phases[0]}} if phases else {}),
    }


def rehearsal(outcome: dict) -> dict[str, float]:
    """Seconds of the second step of each side and precision, of which the faster went on."""
    return {f"{entry['side']} {entry['precision']}": entry["seconds"] for entry in outcome["rehearsal"]}


def check_same_losses(task: str, outcome: dict) -> None:
    """Raises AssertionError when the sides' losses differ on the first batch, where both hold the same weights."""
    firsts = first_losses(outcome)
    for precision, tolerance in TOLERANCE.items():
        both = [loss for (_, p), loss in firsts.items() if p == precision]
        if len(both) == 2:
            assert abs(both[0] - both[1]) < tolerance, f"{task} in {precision}: losses {both} on the same batch"


def first_losses(outcome: dict) -> dict[tuple[str, str], float]:
    """(side, precision) -> loss of the first step, where a side reports one. The peer's is logged a step later."""
    found = {}
    for entry in outcome["rehearsal"]:
        first, second = entry["reports"]
        loss = first.get("loss", (second.get("losses") or [None])[0])
        if loss is not None:
            found[entry["side"], entry["precision"]] = loss
    return found


def against_machine(outcome: dict, counted: str) -> dict:
    """What must be done per second over what the machine can do: FLOP of training on real tokens against those of a
    matrix product in the same precision, or bytes that decoding must read against those that memory gives."""
    ours, machine = outcome["sides"]["ours"], outcome["sides"]["machine"]
    speeds = [report[counted] / report["seconds"] for report in ours["reports"]]
    peaks = [report["work"] for report in machine["reports"]]
    rounds = [speed / peak for speed, peak in zip(speeds, peaks)]
    return {
        "unit": "FLOP/s" if counted == "flop" else "B/s",
        "ours": summary(ours) | {f"{counted}_per_second": median(speeds)},
        "machine": {"precision": machine["precision"], f"{counted}_per_second": median(peaks), "best": max(peaks)},
        "ratio": median(speeds) / median(peaks),
        "ratio_lowest_round": min(rounds),
        "ratio_highest_round": max(rounds),
        "n": len(rounds),
        "rehearsal": rehearsal(outcome),
    }


def page(results: dict, sizes: Sizes) -> str:
    """The page of a run, in Markdown."""
    about, details = results["about"], results["details"]
    lines = [
        f"# Benchmarks: {about['hardware']}, {about['date']}",
        "",
        "Written by `make bench`. Ratios of throughput are ours over the peer's: higher is better. Ratios of memory",
        "are ours over the peer's: lower is better. A ratio is that of the medians; in brackets the lowest and the",
        "highest of the n rounds, in each of which both sides made one step.",
        "",
        "| what | ours | peer | ratio | n |",
        "|---|---|---|---|---|",
    ]
    for task in THROUGHPUT:
        if task in details:
            d = details[task]
            cells = [f"{d[side]['per_second']:,.4g} {d['unit']} ({d[side]['precision']})" for side in ("ours", "peer")]
            lines.append(f"| {NAMES[task]} | {cells[0]} | {cells[1]} | {ratio_cell(d)} | {d['n']} |")
    for key, task in MEMORY.items():
        if task in details:
            d = details[task]
            cells = [f"{d[side]['peak_mib']:,.0f} MiB" for side in ("ours", "peer")]
            lines.append(
                f"| {NAMES[task]}: peak resident memory | {cells[0]} | {cells[1]} | {results[key]:.2f} | {d['n']} |"
            )
    for task, (_, counted, unit, machine) in MACHINE.items():
        if task in details:
            d = details[task]
            cells = [f"{d[side][f'{counted}_per_second'] / 1e9:,.4g} G{d['unit']}" for side in ("ours", "machine")]
            lines.append(
                f"| {NAMES[task]}: {unit} over {machine.format(precision=d['machine']['precision'])} "
                f"| {cells[0]} | {cells[1]} | {ratio_cell(d)} | {d['n']} |"
            )
    lines += ["", *decoded(about, details), *not_measured(results)]
    if "reward_curve" in details:
        lines += curve_lines(details["reward_curve"], sizes)
    contests = {task: detail for task, detail in details.items() if task in NAMES}
    lines += ["## Equal work", "", *equal_work(contests), "", "## Settings", ""]
    lines += settings(about, sizes)
    return "\n".join(lines) + "\n"


def ratio_cell(detail: dict) -> str:
    return f"**{detail['ratio']:.2f}** ({detail['ratio_lowest_round']:.2f} to {detail['ratio_highest_round']:.2f})"


def decoded(about: dict, details: dict) -> list[str]:
    """What the fractions of memory bandwidth are to be read beside."""
    sides = [details[task]["ours"] for task in ("decode_one", "decode_many") if task in details]
    if not sides:
        return []
    held = dict.fromkeys(f"{side['weights'] / 2**20:,.0f} MiB in {side['precision']}" for side in sides)
    cache = about["last_level_cache"]
    room = f"the last-level cache holds {cache:,.0f} MiB" if cache else "the size of the last-level cache is not known"
    return [
        f"The weights that decoding reads: {', '.join(held)}; {room}. What stays there from step to step is not read",
        "from memory, so that a fraction may pass what memory alone gives.",
        "",
    ]


def not_measured(results: dict) -> list[str]:
    return [f"- `{key}`: not measured; {reason}." for key, reason in results["reasons"].items()] + [""]


def equal_work(details: dict) -> list[str]:
    """What went through the transformers per step, and what came out."""
    lines = [
        "Per step: `sequences` and `positions` (padding included) of passes over whole sequences, forward only; a",
        "prefill is one too, and a packed row is one sequence. `decode` are passes of one token per row. `loss` is",
        "that of the first batch, in fp32, before anything is learned; the benchmark stops when the sides' differ.",
        "",
        "| what | side | seconds | sequences | positions | decode | loss | peak MiB (after loading) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, d in details.items():
        for side in ("ours", "peer"):
            if side in d:
                s = d[side]
                loss = d.get("first_losses", {}).get(f"{side} fp32")
                lines.append(
                    f"| {NAMES[task]} | {side} | {s['seconds']:.3g} | {s['sequences']:.0f} | {s['positions']:,.0f} "
                    f"| {s['decode_steps']:.0f} | {'' if loss is None else f'{loss:.4f}'} "
                    f"| {s['peak_mib']:,.0f} ({s['loaded_mib']:,.0f}) |"
                )
    lines += ["", "Seconds of the second step in each precision, by which the faster was chosen:", ""]
    for task, d in details.items():
        lines.append(f"- {NAMES[task]}: " + ", ".join(f"{name} {value:.3g}" for name, value in d["rehearsal"].items()))
    for task in ("ppo_full", "ppo_ragged", "ppo_lora"):
        if task in details:
            s = details[task]["ours"]
            phases = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in s["phases"].items())
            lines.append(
                f"- {NAMES[task]}, ours: {s['answer_tokens']:.1f} tokens per answer; {phases}; mean score "
                f"{s['score']:.3f}, the peer's {details[task]['peer']['score']:.3f}"
            )
    return lines


def settings(about: dict, sizes: Sizes) -> list[str]:
    load = about["load_average"]
    lines = [
        f"- {about['threads']} thread(s) per process; the sides take turns, so one process works at a time.",
        "- Seconds are those that " + ("passed." if about["clock"] == "wall" else "the process worked (CPU time)."),
        f"- Load average of the machine during the run: {load['lowest']:.1f} to {load['highest']:.1f}, median "
        f"{load['median']:.1f}. The run took {about['seconds']:.0f} s (`--sizes {about['sizes']}`).",
        f"- GPT-2 shape, {sizes.small.layers} layers of width {sizes.small.width}, vocabulary "
        f"{sizes.small.vocabulary}; random weights and text. SFT: {sizes.sft_batch} demonstrations per step. "
        f"Reward model: {sizes.comparisons} comparisons per step. PPO: {sizes.episodes} episodes, 8 optimizer steps of "
        f"one epoch, at most {sizes.answer} tokens, temperature 0.7. Generation: {sizes.prompts} prompts, "
        f"{sizes.rows} rows at once.",
    ]
    for name, found in about["versions"].items():
        label = "ours, and transformers" if name == "transformers" else name
        lines.append(f"- {label}: " + ", ".join(f"{package} {version}" for package, version in found.items()))
    return lines
