"""Neighbours, regression and scores beside scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmdet_seg.probes import nearest_neighbours
from mmdet_seg.probes.classify_evaluate import evaluate
from mmdet_seg.probes.classify_heads import Pooled
from mmdet_seg.probes.classify_inputs import Inputs
from mmdet_seg.probes.classify_pictures import confusion
from mmdet_seg.probes.imagenet_sets import EvalSet
from mmdet_seg.probes.logistic_regression import fit
from mmdet_seg.probes.nearest_neighbours import NearestNeighbours
from tests.test_probes.classify_cases import small_images


def clouds(count=300, classes=5, dim=12, seed=0):
    draws = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(classes, dim))
    labels = draws.integers(0, classes, count)
    x = centres[labels] + draws.normal(size=(count, dim)) * 1.2
    return (x * 10 ** np.linspace(-1, 2, dim)).astype(np.float32), labels


@pytest.mark.parametrize('rows', [1 << 20, 40])
def test_weighted_neighbours_are_scikit_learns(monkeypatch, rows):
    monkeypatch.setattr(nearest_neighbours, '_BYTES', rows * 4)
    x, labels = clouds()
    queries, _ = clouds(60, seed=1)
    ours = NearestNeighbours(torch.from_numpy(x), torch.from_numpy(labels), 5, 0.07)
    votes = ours.votes(torch.from_numpy(queries), [1, 10, 100])
    for k, found in votes.items():
        peer = KNeighborsClassifier(
            k, metric='cosine', algorithm='brute', weights=lambda d: np.exp((1 - d) / 0.07)
        ).fit(x, labels)
        assert np.allclose(found.numpy(), peer.predict_proba(queries), atol=1e-4)
        assert (found.argmax(1).numpy() == peer.predict(queries)).all()


@pytest.mark.parametrize('classes', [5, 2])
def test_logistic_regression_is_scikit_learns(classes):
    x, labels = clouds(classes=classes)
    queries, _ = clouds(60, classes, seed=1)
    found = fit(x, labels, classes, [0.1])
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(x, labels)
    scores = torch.from_numpy(queries @ found.weight.T + found.bias)
    assert np.allclose(scores.softmax(1).numpy(), peer.predict_proba(queries), atol=2e-3)
    assert found.converged


def test_the_penalty_is_chosen_on_images_that_are_held_out():
    x, labels = clouds()
    found = fit(x, labels, 5, [1e-6, 0.1], seed=0)
    assert found.C == 0.1
    assert found.held_out[1e-6] < found.held_out[0.1]
    order = np.random.default_rng(0).permutation(300)
    held, rest = order[:30], order[30:]
    scaled = StandardScaler().fit(x).transform(x)
    peer = LogisticRegression(C=0.1, max_iter=1000).fit(scaled[rest], labels[rest])
    assert found.held_out[0.1] == pytest.approx(100 * peer.score(scaled[held], labels[held]), abs=4)


def test_a_class_without_images_is_never_said():
    x, labels = clouds(classes=3)
    found = fit(x, labels * 2, 6, [1.0])  # classes 0, 2, 4
    scores = x @ found.weight.T + found.bias
    assert set(scores.argmax(1)) <= {0, 2, 4}


def scores_of(labels, classes, seed=0):
    draws = np.random.default_rng(seed)
    scores = draws.normal(size=(len(labels), classes))
    scores[np.arange(len(labels)), labels] += 1.0
    return torch.from_numpy(scores)


def outcome_of(where, scores):
    size = 7

    def chunks():
        for start in range(0, len(scores), size):
            part = scores[start : start + size].float()
            yield slice(start, start + len(part)), Inputs({0: Pooled(None, part)})

    return evaluate([lambda inputs: {'x': inputs.of([0], 'mean')}], chunks(), where)['x']


def test_scores_are_scikit_learns():
    images = small_images(60, 8)
    scores = scores_of(images.labels, 8)
    found = outcome_of(EvalSet('val', images), scores)
    peer = [100 * top_k_accuracy_score(images.labels, scores, k=k) for k in (1, 5)]
    assert [found.top1, found.top5] == pytest.approx(peer)
    recall = 100 * recall_score(images.labels, found.predictions, average=None)
    assert list(found.per_class(images.labels, images.classes).values()) == pytest.approx(recall)
    matrix = confusion(images.labels, found.predictions, 8)
    assert np.array_equal(matrix, confusion_matrix(images.labels, found.predictions))


def test_a_mask_leaves_only_its_classes_to_guess():
    images = small_images(60, 8)
    keep = np.isin(images.labels, [1, 4, 6])
    part = images.part(np.flatnonzero(keep))
    scores = scores_of(part.labels, 8)
    found = outcome_of(EvalSet('a', part, np.array([1, 4, 6])), scores)
    renamed = np.searchsorted([1, 4, 6], part.labels)
    peer = 100 * top_k_accuracy_score(renamed, scores[:, [1, 4, 6]], k=1)
    assert found.top1 == pytest.approx(peer)
    assert set(found.predictions) <= {1, 4, 6}
    assert found.top1 > outcome_of(EvalSet('a', part), scores).top1


def test_any_of_several_right_labels_is_right():
    images = small_images(4, 6)
    scores = torch.eye(6)[[0, 1, 2, 3]]
    where = EvalSet('real', images, sets=[[5, 0], [2], [2], [1, 2, 4]])
    assert outcome_of(where, scores).top1 == 50.0
