"""Every metric against a slow twin of plain loops and against scikit-learn, and the edges by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whalebench import WhalebenchError
from whalebench.reports.metrics.evaluation import evaluate_queries, means_by_threshold
from whalebench.reports.metrics.ranking import NEW
from whalebench.reports.metrics.summary import average_precision_at_r, cmc, summarize


def evaluate(
    scores,
    truth,
    identities,
    threshold=None,
    probabilities=None,
    new_scores=None,
    clusters=None,
    rule="column",
    least=None,
    **more,
):
    scores = np.asarray(scores, dtype=float)
    return evaluate_queries(
        images=[f"photo_{row}" for row in range(len(scores))],
        truth=truth,
        clusters=truth if clusters is None else clusters,
        identities=identities,
        scores=scores,
        probabilities=np.ones_like(scores) if probabilities is None else probabilities,
        new_scores=np.zeros(len(scores)) if new_scores is None else new_scores,
        new_threshold=threshold,
        new_rule=rule,
        set_threshold=least,
        **more,
    )


def slow_candidates(scores, identities, threshold, rule="column"):
    """Candidates of one query, best first: highest score, identities before *new*, then by name.

    By rule `second` as the script of Happywhale's 26th place says it: [id, new, ...] or [new, id, ...].
    """
    pool = [(-score, 0, name) for score, name in zip(scores, identities, strict=True)]
    if threshold is None or rule == "second":
        ranked = [name for _, _, name in sorted(pool)]
        if threshold is None:
            return ranked
        head = [ranked[0], NEW] if max(scores) >= threshold else [NEW, ranked[0]]
        return head + ranked[1:]
    return [name for _, _, name in sorted([*pool, (-threshold, 1, NEW)])]


def slow_orders(scores, identities, truth, threshold, rule="column"):
    """The candidates of one query with the truth in the place of each identity that is tied with it."""
    ranked = slow_candidates(scores, identities, threshold, rule)
    if truth not in identities:
        return [ranked]
    score = dict(zip(identities, scores, strict=True))
    orders = []
    for name in identities:
        if score[name] == score[truth]:
            swapped = {truth: name, name: truth}
            orders.append([swapped.get(one, one) for one in ranked])
    return orders


def slow_detection_rate(scores, truth, identities, new_scores, share):
    """Over all thresholds that raise no more than that share of false alarms, the most that are found."""
    new = [row for row, name in enumerate(truth) if name == NEW]
    known = [row for row, name in enumerate(truth) if name != NEW]
    if not new or not known:
        return math.nan
    found = []
    for least in [-math.inf, *(-new_scores[row] for row in new)]:
        alarms = [row for row in new if -new_scores[row] > least]
        if len(alarms) <= share * len(new) + 1e-9:
            hits = []
            for row in known:
                orders = slow_orders(scores[row], identities, truth[row], None)
                first = sum(order[0] == truth[row] for order in orders) / len(orders)
                hits.append(first * (-new_scores[row] > least))
            found.append(sum(hits) / len(known))
    return max(found)


def slow_balanced(hits, groups):
    """Each group's share of hits, each group weighing the same."""
    shares = []
    for group in set(groups):
        own = [hit for hit, other in zip(hits, groups, strict=True) if other == group]
        shares.append(sum(own) / len(own))
    return sum(shares) / len(shares) if shares else math.nan


def slow_metrics(scores, truth, identities, threshold, probabilities, new_scores, clusters, rule, least):
    """Every metric in plain Python."""
    precision, first, five, loss, said_new, sizes, covered = [], [], [], [], [], [], []
    for row, name in enumerate(truth):
        orders = slow_orders(scores[row], identities, name, threshold, rule)
        places = [order.index(name) + 1 if name in order else math.inf for order in orders]
        precision.append(sum(1 / place if place <= 5 else 0.0 for place in places) / len(places))
        first.append(sum(place == 1 for place in places) / len(places))
        five.append(sum(place <= 5 for place in places) / len(places))
        said_new.append(orders[0][0] == NEW)
        if name != NEW:
            share = probabilities[row][identities.index(name)] / sum(probabilities[row])
            loss.append(-math.log(min(max(share, 1e-15), 1 - 1e-15)))
            if least is not None:
                shares = [one / sum(probabilities[row]) for one in probabilities[row]]
                listed = {who for who, one in zip(identities, shares, strict=True) if one >= least}
                listed |= {who for who, one in zip(identities, shares, strict=True) if one == max(shares)}
                sizes.append(len(listed))
                covered.append(name in listed)
    new = [row for row, name in enumerate(truth) if name == NEW]
    known = [row for row, name in enumerate(truth) if name != NEW]
    wins = [
        (new_scores[i] > new_scores[j]) + (new_scores[i] == new_scores[j]) / 2 for i in new for j in known
    ]
    hit, kept = [said_new[row] for row in new], [not said_new[row] for row in known]

    def mean(values):
        return sum(values) / len(values) if values else math.nan

    right_known, right_new = [first[row] for row in known], [first[row] for row in new]
    baks = slow_balanced(right_known, [truth[row] for row in known])
    baus = slow_balanced(right_new, [clusters[row] for row in new])
    if threshold is None:
        baus = math.nan
    return {
        "baks": baks,
        "baus": baus,
        "baks_baus": math.sqrt(baks * baus),
        "normalised_accuracy": math.nan
        if threshold is None and new
        else 0.5 * mean(right_known) + 0.5 * mean(right_new),
        "dir_at_far_1": slow_detection_rate(scores, truth, identities, new_scores, 0.01),
        "dir_at_far_5": slow_detection_rate(scores, truth, identities, new_scores, 0.05),
        "dir_at_far_10": slow_detection_rate(scores, truth, identities, new_scores, 0.1),
        "map_at_5": mean(precision),
        "top_1": mean(first),
        "top_5": mean(five),
        "log_loss": mean(loss),
        "auroc_new": mean(wins),
        "map_at_r": math.nan,
        "accuracy_new": (mean(hit) + mean(kept)) / 2 if threshold is not None else math.nan,
        "map_at_5_known": mean([precision[row] for row in known]),
        "map_at_5_new": mean([precision[row] for row in new]),
        "coverage_95": mean(covered),
        "set_size_95": mean(sizes),
    }


@st.composite
def drawn_inputs(draw):
    number, columns = draw(st.integers(1, 9)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    identities = [f"whale_{name}" for name in rng.permutation(columns)]
    truth = [str(name) for name in rng.choice([*identities, NEW], size=number)]
    scores = rng.integers(-2, 3, size=(number, columns)).astype(float)  # few values: many ties
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    probabilities = rng.random((number, columns)) + 1e-3
    threshold = draw(st.sampled_from([None, -9.0, -1.0, 0.0, 1.0, 9.0]))
    new_scores = rng.integers(0, 3, number).astype(float)
    clusters = [name if name != NEW else f"encounter {rng.integers(3)}" for name in truth]
    rule = draw(st.sampled_from(["column", "second"]))
    least = draw(st.sampled_from([None, 0.01, 0.1, 0.25, 0.6, 1.0]))
    return scores, truth, identities, threshold, probabilities, new_scores, clusters, rule, least


@settings(max_examples=150, deadline=None)
@given(drawn_inputs())
def test_metrics_agree_with_plain_loops(inputs):
    scores, truth, identities, threshold, *_, rule, _ = inputs
    table = evaluate(*inputs)
    for row in range(len(truth)):
        ranked = slow_candidates(scores[row], identities, threshold, rule)
        five = [*ranked, *[""] * 5][:5]
        assert [table.loc[row, f"candidate_{place}"] for place in range(1, 6)] == five
        orders = slow_orders(scores[row], identities, truth[row], threshold, rule)
        ranks = [order.index(truth[row]) + 1 if truth[row] in order else math.nan for order in orders]
        assert table["rank"][row] == pytest.approx(sum(ranks) / len(ranks), nan_ok=True)
    assert summarize(table) == pytest.approx(slow_metrics(*inputs), nan_ok=True, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(drawn_inputs(), st.integers(0, 2**32))
def test_order_of_columns_and_rows_does_not_matter(inputs, seed):
    scores, truth, identities, threshold, probabilities, new_scores, clusters, rule, least = inputs
    rng = np.random.default_rng(seed)
    column, row = rng.permutation(len(identities)), rng.permutation(len(truth))
    straight = evaluate(*inputs)
    shuffled = evaluate(
        scores[:, column],
        truth,
        [identities[i] for i in column],
        threshold,
        probabilities[:, column],
        new_scores,
        clusters,
        rule,
        least,
    )
    pd.testing.assert_frame_equal(straight, shuffled, check_exact=True)
    assert summarize(straight.iloc[row]) == pytest.approx(summarize(straight), nan_ok=True, rel=0, abs=0)


def test_metrics_agree_with_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score, label_ranking_average_precision_score, roc_auc_score
    from sklearn.metrics import log_loss as sklearn_log_loss

    rng = np.random.default_rng(3)
    identities = [f"whale_{name}" for name in range(5)]
    truth = [str(name) for name in rng.choice([*identities, NEW], size=300)]
    scores, probabilities, new_scores = rng.normal(size=(300, 5)), rng.random((300, 5)), rng.normal(size=300)
    found = summarize(evaluate(scores, truth, identities, 0.8, probabilities, new_scores))
    known = np.asarray([name != NEW for name in truth])
    right = np.asarray([[name == one for one in identities] for name in truth])
    share = probabilities / probabilities.sum(axis=1, keepdims=True)
    assert found["auroc_new"] == pytest.approx(roc_auc_score(~known, new_scores))
    assert found["accuracy_new"] == pytest.approx(balanced_accuracy_score(~known, (scores < 0.8).all(axis=1)))
    assert found["log_loss"] == pytest.approx(sklearn_log_loss(right[known].argmax(axis=1), share[known]))
    without = summarize(evaluate(scores[known], list(np.asarray(truth)[known]), identities))
    assert without["map_at_5"] == pytest.approx(
        label_ranking_average_precision_score(right[known], scores[known])
    )


def test_fewer_than_five_identities_leave_empty_candidates():
    table = evaluate([[0.2, 0.9]], ["a"], ["a", "b"], threshold=0.5)
    assert list(table.loc[0, "candidate_1":"candidate_5"]) == ["b", NEW, "a", "", ""]
    assert list(table.loc[0, "score_1":"score_3"]) == [0.9, 0.5, 0.2]
    assert table.loc[0, "score_4":"score_5"].isna().all()
    assert table["rank"][0] == 3 and table["average_precision_at_5"][0] == pytest.approx(1 / 3)
    assert str(table["candidate_4"].dtype) == "str" and table["top_1"].dtype == np.float64


def test_ties_are_shown_by_name_count_as_their_mean_and_new_comes_last():
    table = evaluate([[0.5, 0.5, 0.5]] * 3, ["a", "c", NEW], ["c", "b", "a"], threshold=0.5)
    assert list(table.loc[0, "candidate_1":"candidate_4"]) == ["a", "b", "c", NEW]
    assert list(table["rank"]) == [2, 2, 4]
    assert list(table["average_precision_at_5"]) == pytest.approx([11 / 18, 11 / 18, 1 / 4])
    assert list(table["top_1"]) == pytest.approx([1 / 3, 1 / 3, 0])


def test_no_name_gains_where_every_score_is_the_same():
    names = [f"whale_{name}" for name in range(8)]
    table = evaluate(np.zeros((8, 8)), names, names)
    assert set(table["top_1"]) == {1 / 8} and set(table["top_5"]) == {5 / 8} and set(table["rank"]) == {4.5}
    assert summarize(table)["baks"] == pytest.approx(1 / 8)


def test_threshold_above_and_below_everything():
    scores, truth, names = [[0.1, 0.9], [0.6, 0.4]], ["b", NEW], ["a", "b"]
    above, below = (
        evaluate(scores, truth, names, threshold=2.0),
        evaluate(scores, truth, names, threshold=-2.0),
    )
    assert list(above["candidate_1"]) == [NEW, NEW] and list(above["rank"]) == [2, 1]
    assert list(below["candidate_3"]) == [NEW, NEW] and list(below["rank"]) == [1, 3]
    assert summarize(above)["accuracy_new"] == summarize(below)["accuracy_new"] == 0.5


def test_new_without_a_threshold_is_no_candidate_and_scores_zero():
    table = evaluate([[0.1, 0.9], [0.6, 0.4]], ["b", NEW], ["a", "b"])
    assert math.isnan(table["rank"][1]) and table["average_precision_at_5"][1] == 0 == table["top_5"][1]
    found = summarize(table)
    assert found["map_at_5"] == 0.5 and math.isnan(found["accuracy_new"]) and found["auroc_new"] == 0.5


@pytest.mark.parametrize(
    ("truth", "undefined"),
    [
        (["a", "b"], {"map_at_5_new", "baus"}),
        ([NEW, NEW], {"map_at_5_known", "log_loss", "baks"}),
    ],
)
def test_undefined_is_nan_and_never_zero(truth, undefined):
    found = summarize(evaluate([[0.1, 0.9], [0.6, 0.4]], truth, ["a", "b"], threshold=0.5))
    both = {"auroc_new", "accuracy_new", "baks_baus", "normalised_accuracy"}
    both |= {"dir_at_far_1", "dir_at_far_5", "dir_at_far_10"}
    never = {"map_at_r", "coverage_95", "set_size_95"}
    assert {key for key, value in found.items() if math.isnan(value)} == never | both | undefined


def test_log_loss_divides_rows_by_their_sum_and_clips():
    table = evaluate(
        np.zeros((3, 2)), ["a", "a", NEW], ["a", "b"], probabilities=np.array([[3, 1], [0, 7], [1, 0]])
    )
    assert table["log_loss"][0] == pytest.approx(-math.log(0.75))
    assert table["log_loss"][1] == pytest.approx(-math.log(1e-15))
    assert math.isnan(table["log_loss"][2])


def test_cmc_counts_known_queries_only():
    table = evaluate([[3, 2, 1], [3, 2, 1], [0, 0, 0]], ["a", "c", NEW], ["a", "b", "c"], threshold=0.5)
    assert cmc(table, ranks=4) == [0.5, 0.5, 1.0, 1.0]
    assert cmc(table[table["truth"] == NEW]) == []


def test_blocks_do_not_change_the_answer(monkeypatch):
    rng = np.random.default_rng(0)
    names = [f"whale_{name}" for name in range(30)]
    truth = [names[column] for column in rng.integers(30, size=40)]
    scores, vectors = rng.integers(0, 9, (40, 30)), rng.normal(size=(40, 8)).astype(np.float32)
    whole = evaluate(scores, truth, names, 4.0), average_precision_at_r(vectors, truth, vectors, truth)
    monkeypatch.setattr("whalebench.benchmarks.core.arrays.BLOCK_CELLS", 70)
    pd.testing.assert_frame_equal(evaluate(scores, truth, names, 4.0), whole[0], check_exact=True)
    np.testing.assert_allclose(average_precision_at_r(vectors, truth, vectors, truth), whole[1], rtol=1e-12)


def test_average_precision_at_r_agrees_with_plain_loops():
    rng = np.random.default_rng(1)
    query, gallery = rng.normal(size=(30, 4)) * 7, rng.normal(size=(50, 4))
    labels_query = [f"whale_{name}" for name in rng.integers(12, size=30)]
    labels_gallery = [f"whale_{name}" for name in rng.integers(9, size=50)]
    found = average_precision_at_r(query, labels_query, gallery, labels_gallery)
    for vector, label, value in zip(query, labels_query, found, strict=True):
        cosines = [
            float(vector @ other / np.linalg.norm(vector) / np.linalg.norm(other)) for other in gallery
        ]
        nearest = sorted(range(50), key=lambda place: -cosines[place])
        number = labels_gallery.count(label)
        right = [labels_gallery[place] == label for place in nearest[:number]]
        expected = [sum(right[: place + 1]) / (place + 1) for place in range(number) if right[place]]
        assert value == pytest.approx(sum(expected) / number if number else math.nan, nan_ok=True)
    assert np.isnan(found).any()  # labels 9 to 11 have no photo in the gallery


def test_equally_near_photos_come_in_gallery_order():
    gallery = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    one = np.array([[2.0, 0.0]])
    assert average_precision_at_r(one, ["a"], gallery, ["a", "b", "b"]) == [1.0]
    assert average_precision_at_r(one, ["b"], gallery, ["a", "b", "b"]) == [0.25]
    labels = np.array([-1, 1]), np.array([0, 1, 1])  # numbers will do too, -1 is nobody
    assert (
        str(average_precision_at_r(np.repeat(one, 2, axis=0), labels[0], gallery, labels[1])) == "[ nan 0.25]"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": [[np.nan, 1.0]]}, "score of photo_0 is NaN"),
        ({"probabilities": np.zeros((1, 2))}, "all zero"),
        ({"probabilities": np.array([[np.inf, 1.0]])}, "not finite"),
        ({"probabilities": np.array([[-0.1, 1.0]])}, "negative"),
        ({"probabilities": np.ones((2, 2))}, "one row a query"),
        ({"new_scores": np.array([np.nan])}, "NaN"),
        ({"new_scores": np.zeros(2)}, "one a query"),
        ({"identities": ["a", "a"]}, "repeat"),
        ({"identities": ["a", NEW]}, "means none of them"),
        ({"truth": ["z"]}, "'z' is no candidate"),
        ({"threshold": math.nan}, "NaN"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_a_sentence(change, words):
    arguments = {"scores": [[0.5, 1.0]], "truth": ["a"], "identities": ["a", "b"]} | change
    with pytest.raises(WhalebenchError, match=words):
        evaluate(**arguments)


def test_a_photo_evaluated_twice_is_refused():
    with pytest.raises(WhalebenchError, match="twice"):
        evaluate_queries(
            images=["p", "p"],
            truth=["a", "a"],
            clusters=["a", "a"],
            identities=["a"],
            scores=np.ones((2, 1)),
            probabilities=np.ones((2, 1)),
            new_scores=np.ones(2),
            new_threshold=None,
        )


@pytest.mark.parametrize("rule", ["column", "second"])
def test_means_by_threshold_are_what_the_whole_table_says(rule) -> None:
    rng = np.random.default_rng(4)
    identities = [f"w{column}" for column in rng.permutation(9)]
    scores = rng.integers(0, 12, (40, 9)) / 12  # many ties
    truth = [NEW if place == 9 else identities[place] for place in rng.integers(0, 10, 40)]
    thresholds = [None, -1.0, 0.25, 0.75, 10 / 12, 11 / 12, 2.0]
    quick = means_by_threshold(
        truth=truth, identities=identities, scores=scores, new_thresholds=thresholds, new_rule=rule
    )
    for place, threshold in enumerate(thresholds):
        table = evaluate(scores, truth, identities, threshold, rule=rule)
        whole = summarize(table)
        for key in ("map_at_5", "map_at_5_known", "map_at_5_new"):
            assert quick[key][place] == pytest.approx(whole[key], abs=1e-12)
        assert quick["called_new"][place] == (table["candidate_1"] == NEW).mean()
    assert len(set(quick["map_at_5"])) > 3


def test_means_by_threshold_of_one_kind_of_photos_are_undefined_for_the_other() -> None:
    scores = np.array([[0.9, 0.1]])
    known, new = (
        means_by_threshold(truth=[name], identities=["a", "b"], scores=scores, new_thresholds=[0.5])
        for name in ("a", NEW)
    )
    assert math.isnan(known["map_at_5_new"][0]) and known["map_at_5_known"] == known["map_at_5"] == [1.0]
    assert math.isnan(new["map_at_5_known"][0]) and new["map_at_5_new"] == new["map_at_5"] == [0.5]


def test_by_rule_second_new_is_first_or_second_and_its_score_fits_its_place():
    scores, names = [[0.9, 0.8, 0.1], [0.4, 0.3, 0.2]], ["a", "b", "c"]
    table = evaluate(scores, ["b", NEW], names, threshold=0.5, rule="second")
    assert list(table.loc[0, "candidate_1":"candidate_4"]) == ["a", NEW, "b", "c"]
    assert list(table.loc[0, "score_1":"score_4"]) == [0.9, 0.8, 0.8, 0.1]
    assert list(table.loc[1, "candidate_1":"candidate_4"]) == [NEW, "a", "b", "c"]
    assert list(table.loc[1, "score_1":"score_2"]) == [0.5, 0.4]
    assert list(table["rank"]) == [3, 1]
