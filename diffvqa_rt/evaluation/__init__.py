"""Scores against opinions.

`data_sets` reads tables of opinion scores into the one form of `mos_table`; `evaluate` compares scores with opinions by
`protocols` and `correlation`, and `report` and `scatter` show the result.
"""
