"""Proposes a schema for logs that have none: `userbert init` and `Schema.infer`."""
