"""DiffV²IQA's training stages (SPEC §8).

The restorer learns by `restoration` on `pairs`, and a `restoration_report` says how well; crops are restored once into
a `cache`; the `branches` learn from opinions on it.
"""
