"""Where the assets belong and who looks after them; `team:` names are shown as they are."""

LAKE, OPTIMIZATION = "lake", "optimization"
DATA_OWNERS, PROMPT_OWNERS = ("team:data-platform",), ("team:prompts",)
