"""From a base model to a policy with basic tool use."""
