"""Policy bundles and the engine that asks Cedar about them. Knows nothing of HTTP or bodies.

A bundle is read by `bundle_files`, `bundle_signature`, `manifest`, `vocabulary`, `entities_file`
and `policy_source`, and `bundle` finds every problem; `schema`, `annotations` and `reads` are what
its policies may say and do say. `engine` decides, by `engine_parts`, `slicing` and `policies`
(Cedar); `engine_verdict` reads Cedar's answer. `obligations` and `rates` are what else must hold.
"""
