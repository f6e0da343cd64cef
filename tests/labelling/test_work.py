"""What labelers do, page by page, without script: every form works bare."""

from persons import rank_next, rank_queue


def test_a_ranking_with_ties_becomes_rows_for_training(app, workspace, labeler):
    rank_queue(app)
    item = rank_next(labeler, "12233")
    (ranking, prompt), *rest = workspace.store.rankings()
    assert not rest
    assert ranking.ranks == (1, 2, 2, 3, 3)
    found = app.state.labelling.assignment(item, labeler.user.labeler_id)
    assert ranking.completion_ids == tuple(completion.id for completion in found.completions)
    assert ranking.labeler_id == labeler.user.labeler_id
    assert prompt.id == found.prompt.id
    ratings = list(workspace.store.ratings())
    assert len(ratings) == 5
    assert {rating.quality for rating in ratings} == {4}
    assert all("satisfies_constraint" not in rating.flags and len(rating.flags) == 10 for rating in ratings)
