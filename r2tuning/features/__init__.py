"""Features and frames of whole benchmarks, extracted once and kept on disk."""
