"""What breaks a training or damages a file, and that nothing is lost by it."""
