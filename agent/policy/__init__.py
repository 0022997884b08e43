"""Which policy bundle is enforced: `policies` decides, from `bundle_folder` or what was pushed.

`policy_vault` keeps what was in force, `policy_trust` says whose signatures count, `candidate` is
asked beside it.
"""
