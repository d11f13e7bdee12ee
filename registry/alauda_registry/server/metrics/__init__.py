"""What is counted: the numbers, how processes share them, and the names they are shown under."""
