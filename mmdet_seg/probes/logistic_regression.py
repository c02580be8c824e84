"""Logistic regression on stored features, by scikit-learn.

Shapes: n features, D channels, C classes.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # of C, the inverse of the penalty
_HELD_OUT = 0.1
_TO_CHOOSE = 10000  # training images that C is chosen with; all would take it minutes each


@dataclass
class Regression:
    """What was fitted.

    Attributes:
        C: Inverse strength of the penalty that was chosen.
        held_out: C to accuracy in percent on the tenth of the training images that chose it; empty
            where there was no choice.
        weight: (C, D), of features as they come.
        bias: (C,).
        converged: Whether lbfgs came to an end within its iterations.
    """

    C: float
    held_out: dict[float, float]
    weight: np.ndarray
    bias: np.ndarray
    converged: bool


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    *,
    norm: str = 'standard',
    max_iter: int = 300,
    seed: int = 0,
) -> Regression:
    """Fit with lbfgs; C is chosen on a tenth of the images that is held out, then all are fitted.

    The fits that choose take at most 10,000 of the other images.

    The images that the figure is reported on have no hand in the choice.

    Args:
        features: (n, D).
        labels: (n,) class numbers.
        num_classes: C.
        strengths: Values of C to choose from.
        norm: ``standard`` brings every channel to mean 0 and deviation 1 over the training images,
            ``none`` takes features as they are.
        max_iter: Of lbfgs.
        seed: Of what is held out.

    Raises:
        ValueError: scikit-learn is not installed, or there are fewer than two classes.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ValueError(
            '--protocol logreg needs scikit-learn: pip install mmdet_seg[probe].'
        ) from None
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError(f'The {len(labels)} training images are of {len(present)} class; take 2.')
    mean, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
    if norm == 'standard':
        mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
        scale[scale == 0] = 1.0
    x = ((features - mean) / scale).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(x))
    held, rest = np.split(order, [max(int(len(x) * _HELD_OUT), 1)])
    rest = rest[:_TO_CHOOSE]

    def run(rows: np.ndarray, C: float, start: np.ndarray | None) -> tuple:
        model = LogisticRegression(C=C, max_iter=max_iter, warm_start=start is not None)
        if start is not None:
            model.coef_, model.intercept_ = start[0].copy(), start[1].copy()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            model.fit(x[rows], labels[rows])
        ended = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
        return model, ended

    held_out: dict[float, float] = {}
    if len(strengths) > 1 and len(np.unique(labels[rest])) >= 2:
        start = None
        for C in sorted(strengths):  # each from where the stronger penalty ended
            model, _ = run(rest, C, start)
            start = (model.coef_, model.intercept_)
            held_out[C] = 100 * float((model.predict(x[held]) == labels[held]).mean())
    chosen = max(held_out, key=held_out.get) if held_out else strengths[0]
    model, converged = run(order, chosen, None)
    coef, intercept = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn keeps one row for two classes
        coef, intercept = (
            np.concatenate([-coef, coef]) / 2,
            np.concatenate([-intercept, intercept]) / 2,
        )
    weight = np.zeros((num_classes, x.shape[1]), np.float32)
    bias = np.full(num_classes, -np.inf, np.float32)  # a class that was never seen is never said
    weight[present] = coef / scale
    bias[present] = intercept - (coef / scale) @ mean
    return Regression(
        chosen, held_out, weight.astype(np.float32), bias.astype(np.float32), converged
    )
