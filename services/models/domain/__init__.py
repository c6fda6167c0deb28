"""The values of the models service: models, conversations, answers, usage."""
