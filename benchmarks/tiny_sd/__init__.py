"""The three methods: quality, cost, other libraries, photographs."""
