"""Expert sets in any storage: kept, inspected, copied and pruned."""
