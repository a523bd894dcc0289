"""Store, inspect, copy and prune expert sets in any storage."""
