"""Proving what the agent runs on, again and again.

`platform` finds the hardware (`tee_search` says why there is none), `attester` makes passports,
`renewal` keeps one that is valid, `endorsing` gets what the host does not supply, `measuring` puts
policy bundles into a register.
"""
