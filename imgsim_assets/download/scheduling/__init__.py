"""Which item is requested next: queues, circuit breakers and statistics by host."""
