"""Explanation: what a network looks at.

`attention` takes rows out of a transformer's attention, `receptive_field` measures which pixels an output depends on;
`points` chooses where to ask, `measures` turns the answers into numbers and `figures` into pictures.
"""
