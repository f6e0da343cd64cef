"""Every public set that can be read reads, row by row, with the counts that its own description states."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from preceptor.intake.corpus import import_corpus
from preceptor.intake.files import read_rows
from preceptor.intake.formats import Skip
from preceptor.intake.importing import import_demonstrations, import_prompts, import_rankings
from preceptor.intake.readers import detect, read_records
from preceptor.intake.releases import read_corpus

DATA = Path(__file__).resolve().parents[2] / "../shared/data"


def shared(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the public set {name} is not here")
    return path


# file, format, records that rank, that demonstrate, that only ask, that are skipped
SETS = [
    ("advbench/advbench_behaviors.csv", "behaviours", 0, 0, 520, 0),
    ("alpaca_9k/random_9k.json.gz", "alpaca", 0, 9205, 0, 0),
    ("alpaca_eval_gpt4_prefs/alpaca_eval_gpt4_prefs.jsonl.gz", "alpaca_eval", 19201, 0, 0, 0),
    ("anthropic_model_evals/human_generated_evals/myopic-reward.jsonl.gz", "question", 0, 0, 1000, 0),
    ("arc_easy/arc_easy.jsonl.gz", "question", 0, 0, 2376, 0),
    ("arena_hard/answers_gpt-4-0314.jsonl.gz", "messages", 0, 500, 0, 0),
    ("arena_hard/answers_gpt-3.5-turbo-0125.jsonl.gz", "messages", 0, 500, 0, 0),
    ("arena_hard/question.jsonl.gz", "prompt", 0, 0, 500, 0),
    ("bbq/Age.jsonl.gz", "question", 0, 0, 3680, 0),
    ("bbq_mturk_votes/bbq_mturk_votes.jsonl.gz", "question", 0, 0, 10800, 0),
    ("bold/gender_prompt.json.gz", "nested_prompts", 0, 0, 3204, 0),
    ("bold/political_ideology_prompt.json", "nested_prompts", 0, 0, 1984, 0),
    ("dolly_3k/dolly_3k.json.gz", "dolly", 0, 2996, 0, 0),
    ("fairytaleqa/questions.jsonl.gz", "question", 0, 0, 10580, 0),
    ("finegrained_qa_feedback/dev_feedback.json.gz", "finegrained_qa", 478 + 22 * 6, 0, 0, 0),
    ("gsm8k/train.jsonl.gz", "question", 0, 7473, 0, 0),
    ("gsm8k/test.jsonl.gz", "question", 0, 1319, 0, 0),
    ("halueval_general/general_data.jsonl.gz", "question", 0, 4507, 0, 0),
    ("harmbench/harmbench_behaviors_text_all.csv.gz", "behaviours", 0, 0, 400, 0),
    ("hh_rlhf_harmless_test/harmless-base_test.jsonl.gz", "pairs", 2307, 0, 0, 5),
    ("hh_rlhf_helpful_test_part/helpful_test_part.jsonl.gz", "scored", 1683, 0, 0, 7),
    ("ifeval/input_data.jsonl.gz", "prompt", 0, 0, 541, 0),
    ("licence_unstated/auto_j_pairwise/testdata_pairwise.jsonl.gz", "auto_j", 1307, 0, 0, 0),
    ("licence_unstated/hhh_438/438HHHEvaluations.jsonl.gz", "hhh", 438, 0, 0, 0),
    ("lima/lima.json.gz", "lima", 0, 1029, 0, 0),
    ("oasst_en_trees/en_100_tree.jsonl.gz", "oasst", 212, 42, 226, 0),
    ("pandalm_test/testset-inference-v1.json", "instruction", 0, 0, 170, 0),
    ("pandalm_test/testset-v1.json.gz", "pandalm", 3 * (999 - 6), 0, 0, 6),
    ("real_toxicity_prompts_2400/toxic.jsonl.gz", "prompt", 0, 0, 1196, 0),
    ("real_toxicity_prompts_2400/nontoxic.jsonl.gz", "prompt", 0, 0, 1200, 0),
    ("self_instruct/seed_tasks.jsonl", "self_instruct", 0, 175, 0, 0),
    ("self_instruct/user_oriented_instructions.jsonl", "self_instruct", 0, 252, 0, 0),
    ("self_instruct/predictions_davinci.jsonl.gz", "self_instruct_prediction", 0, 252, 0, 0),
    ("self_instruct/predictions_text-davinci-003.jsonl.gz", "self_instruct_prediction", 0, 252, 0, 0),
    ("squad_v2_dev_part/dev-v2.0.json.gz", "squad", 0, 6078 - 3168, 3168, 0),
    ("toxigen_prompts/toxigen_prompts.jsonl.gz", "prompt", 0, 0, 7750, 0),
    ("truthfulqa/TruthfulQA.csv.gz", "question", 0, 790, 0, 0),
    ("truthfulqa/TruthfulQA_v0.csv.gz", "question", 0, 817, 0, 0),
    ("truthfulqa/finetune_truth.jsonl.gz", "prompt_completion", 0, 22434, 0, 0),
    ("truthfulqa/mc_task.json.gz", "question", 0, 0, 790, 0),
    ("webgpt_comparisons_test/webgpt_test.jsonl.gz", "scored", 901, 0, 0, 0),
]


@pytest.mark.parametrize(("name", "format", "rankings", "demonstrations", "prompts", "skipped"), SETS)
def test_a_set_reads(name, format, rankings, demonstrations, prompts, skipped):
    path = shared(name)
    assert detect(path, list(islice(read_rows(path), 20))).name == format
    kinds = Counter()
    for _, record in read_records(path):
        if isinstance(record, Skip):
            kinds["skip"] += 1
        else:
            kinds["rank" if record.ranks else "demonstrate" if record.answers else "ask"] += 1
    assert (kinds["rank"], kinds["demonstrate"], kinds["ask"], kinds["skip"]) == (
        rankings,
        demonstrations,
        prompts,
        skipped,
    )


MAPPED = [
    ("winogender/all_sentences.tsv", {"prompt": "sentence"}, 720),
    ("crows_pairs/crows_pairs_anonymized.csv.gz", {"prompt": "sent_more"}, 1508),
    ("convabuse/ConvAbuseEMNLPfull.csv.gz", {"prompt": "user", "labeler_id": "annotator_id"}, 12768),
    ("anthropic_model_evals/winogenerated_examples.jsonl.gz", {"prompt": "sentence_with_blank"}, 2990),
    ("wmt23_mqm_ende_3raters/sxs_mqm_ende_3raters.tsv.gz", {"prompt": "source", "text": "target"}, 10970),
    ("licence_unstated/instructgpt_samples/tldr_samples.csv.gz", {"prompt": "context", "text": "sample"}, 1200),
    ("licence_unstated/instructgpt_samples/squadv2_samples.csv.gz", {"prompt": "context", "text": "ref_text"}, 2400),
    ("fairytaleqa/questions.jsonl.gz", {"prompt": "question", "text": "answer1"}, 10580),
    ("real_toxicity_prompts_2400/toxic.jsonl.gz", {"prompt": "prompt.text", "text": "continuation.text"}, 1196),
]


@pytest.mark.parametrize(("name", "map", "rows"), MAPPED)
def test_a_set_reads_with_a_map(name, map, rows):
    records = list(read_records(shared(name), map=map))
    assert len(records) == rows
    assert all(record.messages for _, record in records)


def test_rankings_of_public_sets_arrive(workspace):
    name = "finegrained_qa_feedback/dev_feedback.json.gz"
    report = import_rankings(workspace, [shared(name)])
    assert (report.rows, report.taken, report.prompts, report.completions) == (500, 610, 500, 2000)
    assert report.notes == {"preferences that fit no ranking, kept as pairs": 132}
    first = next(record for _, record in read_records(shared(name)) if len(record.answers) == 4)
    stored = {ranking.prompt_id: ranking for ranking, _ in workspace.store.rankings() if len(ranking.ranks) == 4}
    prompt = next(prompt for prompt in workspace.store.prompts() if prompt.messages == first.messages)
    answers = {answer.id: answer.text for answer in workspace.store.completions(prompt_id=prompt.id)}
    ranking = stored[prompt.id]
    assert ranking.ranks == first.ranks
    assert [answers[key] for key in ranking.completion_ids] == [answer.text for answer in first.answers]
    again = import_rankings(workspace, [shared(name)])
    assert (again.taken, again.known, again.prompts) == (0, 610, 0)


def test_trees_give_rankings_and_demonstrations_of_one_side(workspace):
    path = shared("oasst_en_trees/en_100_tree.jsonl.gz")
    assert import_rankings(workspace, [path], max_tokens=None).taken == 212
    assert import_demonstrations(workspace, [path], max_tokens=None).taken == 254
    sides = {}
    for _, prompt in workspace.store.demonstrations():
        sides.setdefault(prompt.messages[0].content, set()).add(prompt.split)
    assert max(map(len, sides.values())) == 1  # a tree is not torn apart


def test_demonstrations_and_prompts_of_public_sets_arrive(workspace):
    report = import_demonstrations(workspace, [shared("dolly_3k/dolly_3k.json.gz")])
    assert report.rows == 2996
    assert report.taken + report.known + sum(skip.count for skip in report.skipped.values()) == 2996
    assert import_prompts(workspace, [shared("ifeval/input_data.jsonl.gz")]).taken == 541


CORPORA = [
    ("pretrain_children/children-02.jsonl.gz", 8_000_000),
    ("pretrain_open_stories/open_stories.jsonl.gz", 1_250_000),
    ("pretrain_onestop/onestop.jsonl.gz", 2_000_000),
    ("tinyshakespeare/input.txt.gz", 1_100_000),
    ("wikitext2_eval/test.txt.gz", 1_200_000),
    ("fairytaleqa/stories.jsonl.gz", 3_100_000),
]


@pytest.mark.parametrize(("name", "characters"), CORPORA)
def test_a_corpus_reads(workspace, name, characters):
    report = import_corpus(workspace, [shared(name)], name="text")
    assert report.taken + sum(skip.count for skip in report.skipped.values()) == report.rows or name.endswith(".txt.gz")
    parts = [list(read_corpus(workspace, "text", part)) for part in ("train", "valid")]
    assert all(parts)
    assert sum(map(len, parts[0])) + sum(map(len, parts[1])) > characters
    assert not set(parts[0]) & set(parts[1])
