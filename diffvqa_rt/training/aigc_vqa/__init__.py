"""AIGC-VQA's training (SPEC §7, §8).

`stages` says what each of the three stages learns, `unfixed` which blocks do, by which `losses` the `objective` has it
learn from `clips`, and `calibration` what brings the branches' numbers to the scale of the opinions.
"""
