"""The names of the checks, for every place that evaluates or shows them."""

# Invariants: one that fails stops what is downstream.
IDS_UNIQUE = "ids_unique"
VECTORS_NORMALIZED = "vectors_normalized"
IDS_MATCH_EMBEDDINGS = "ids_match_embeddings"
SELF_RECALL = "self_recall"
AT_OR_ABOVE_THRESHOLD = "at_or_above_threshold"
ONE_CANONICAL_PER_GROUP = "one_canonical_per_group"

# Measurements: they have the declared severity.
NO_REJECTS = "no_rejects"
SUCCESS_RATE = "success_rate"
SIMILARITY_DRIFT = "similarity_drift"
INDEX_IS_CURRENT = "index_is_current"
GROUPS_COHERENT = "groups_coherent"
THRESHOLD_CALIBRATED = "threshold_calibrated"
RECALL = "recall"

# Audits: they read a whole table, and run on a schedule of their own.
ALL_VECTORS_NORMALIZED = "all_vectors_normalized"
RECALL_AT_10 = "recall_at_10"
AGREES_WITH_BRUTE_FORCE = "agrees_with_brute_force"
