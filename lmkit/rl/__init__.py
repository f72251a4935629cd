"""rl: learning from rewards and preferences; a stream of batches that the model feeds itself."""
