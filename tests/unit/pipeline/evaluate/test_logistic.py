"""Logistic regression reaches scikit-learn's optimum."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.errors import PipelineError
from pipeline.evaluate.features import LabeledFeatures
from pipeline.evaluate.logistic import fit
from tests.support.planted import planted


@pytest.mark.parametrize(("classes", "strength"), [(3, 1.0), (8, 0.1), (8, 100.0)])
def test_the_optimum_is_scikit_learns(classes: int, strength: float) -> None:
    train = planted(120, classes, 16, 0.5, 0)
    layer = fit(train, strength=strength)
    oracle = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
    oracle.fit(train.embedding.astype(np.float64), train.label)
    # The penalty is on the weights alone, so that the biases are known but for a constant. A gradient of 1e-6 in
    # float32 against one of 1e-8 in float64 leaves less than 2e-3 of the largest coefficient between them.
    found = np.column_stack([layer.weight.detach(), layer.bias.detach() - layer.bias.detach().mean()])
    expected = np.column_stack([oracle.coef_, oracle.intercept_ - oracle.intercept_.mean()])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


def test_features_that_are_not_finite_are_an_error() -> None:
    train = planted(12, 3, 8, 0.3, 0)
    with pytest.raises(PipelineError, match="loss is not finite"):
        fit(LabeledFeatures(train.embedding * np.nan, train.label, 3), strength=1.0)
