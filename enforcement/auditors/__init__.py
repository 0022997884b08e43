"""Auditors: services that look at traffic and return claims; they never decide.

`panel` asks all that a bundle needs and merges their claims; `client` is one of them, with its
`breaker`; `contract`, `question` and `answer` are what is said, without I/O.
"""
