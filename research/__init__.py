"""Studies that no verb needs, and the pages made from their results."""
