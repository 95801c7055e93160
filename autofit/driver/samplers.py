"""The names that ``--sampler`` takes. Apart from the samplers themselves, so that ``--help`` loads no Optuna."""

SAMPLERS = ("autofit", "tpe", "gp", "random", "grid")
