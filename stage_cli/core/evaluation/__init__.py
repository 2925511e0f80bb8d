"""How good the stems are: metrics, embeddings, the protocol that measures them, and the report."""
