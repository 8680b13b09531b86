"""Metrics of the tasks, as pure functions of arrays."""

import numpy as np


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """Share of equal class numbers; both [n]."""
    return float(np.mean(predicted == true))


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """Matthews correlation of two classes 0 and 1; both [n]. 0 where one side has a single class, as scikit-learn."""
    predicted, true = predicted.astype(bool), true.astype(bool)
    tp, tn = np.sum(predicted & true), np.sum(~predicted & ~true)
    fp, fn = np.sum(predicted & ~true), np.sum(~predicted & true)
    product = float(tp + fp) * float(tp + fn) * float(tn + fp) * float(tn + fn)
    return float((float(tp) * tn - float(fp) * fn) / np.sqrt(product)) if product else 0.0


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson correlation; both [n]. 0 where one side is constant: a collapsed model predicts one number."""
    a, b = predicted - predicted.mean(dtype=np.float64), true - true.mean(dtype=np.float64)
    norm = np.sqrt(np.sum(a * a) * np.sum(b * b))
    return float(np.sum(a * b) / norm) if norm > 0 else 0.0
