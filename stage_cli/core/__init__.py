"""Everything that knows music or models. Pure: no printing, no prompts, no exits; progress goes through callbacks."""
