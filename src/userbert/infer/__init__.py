"""Proposes a schema for logs that have none, for `userbert init` and `Schema.infer`."""
