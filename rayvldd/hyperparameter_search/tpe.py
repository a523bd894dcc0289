"""TPE with the options of this package, for the sampler ``tpe`` and where others fall back to it."""

import warnings

import optuna


class Tpe(optuna.samplers.TPESampler):
    """Tree-structured Parzen estimator.

    It models all settings jointly, with one model for each group of conditional settings that occur in the same points
    (``group``). Running trials count as bad ones (constant liar), so that concurrent trials do not use the same point.

    Args:
        seed: Seed of its random numbers.
        num_start_trials: Random trials before the model is used.
    """

    def __init__(self, seed: int, num_start_trials: int) -> None:
        with warnings.catch_warnings():
            # Optuna may still rename these options; the version range of the package protects against that.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(
                seed=seed, n_startup_trials=num_start_trials, multivariate=True, group=True, constant_liar=True
            )
