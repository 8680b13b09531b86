"""Learning rate as a function of the step."""

import math


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup_steps: int = 1_000,
    decay_after: int = 50_000,
    decay_every: int = 50_000,
    decay_factor: float = 0.95,
    base: float = 0.0,
    cosine_from: int | None = None,
    total_steps: int | None = None,
) -> float:
    """AlphaFold's schedule (suppl. 1.11.3) as OpenFold runs it, optionally with a cosine to zero at the end.

    Args:
        step: optimizer steps done so far, from 0.
        peak: rate after the warm-up.
        warmup_steps: linear from ``base`` to ``peak``.
        decay_after: steps at the peak rate, the warm-up included, before the first decay.
        decay_every: steps between decays.
        decay_factor: factor of each decay; the first one takes effect when ``step`` exceeds ``decay_after``.
        base: rate at step 0.
        cosine_from: step from which the rate is also multiplied by a half cosine that ends at ``total_steps``.
        total_steps: needed with ``cosine_from``.
    """
    if step <= warmup_steps and warmup_steps > 0:
        rate = base + step / warmup_steps * (peak - base)
    elif step > decay_after:
        rate = peak * decay_factor ** ((step - decay_after) // decay_every + 1)
    else:
        rate = peak
    if cosine_from is not None and total_steps is not None and step > cosine_from:
        done = (step - cosine_from) / max(total_steps - cosine_from, 1)
        rate *= 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return rate
