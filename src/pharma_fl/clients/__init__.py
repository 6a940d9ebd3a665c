"""What a partner does with one message, and the private state that it keeps."""
