"""One partition a target: a prompt is optimised for the model that it runs on, so both name it."""

import dagster as dg

targets = dg.DynamicPartitionsDefinition(name="targets")
