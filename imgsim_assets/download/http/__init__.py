"""The HTTP client: address guard, deadlines, robots rules, one status for each error."""
